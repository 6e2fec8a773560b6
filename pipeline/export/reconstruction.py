"""Export poses for nerfstudio and COLMAP: a folder for each scene.

nerfstudio
    <scene>/transforms.json           EQUIRECTANGULAR, the panoramas
    <scene>/transforms_cube.json      PINHOLE, the six faces of a cube around each camera
    <scene>/images/, cube/, depth/    depth is 16 bits, in millimetres along the ray, where the
                                      shards have it
COLMAP
    <scene>/images/                   the faces of the cubes
    <scene>/sparse/0/{cameras,images,points3D}.txt
                                      PINHOLE, poses, and points from depth where the shards have it

Panoramas have GPano metadata.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import UserError
from pipeline.export.dataset_rows import DatasetRow
from pipeline.export.images import encode_jpeg
from pipeline.export.resumable import Record
from pipeline.export.views import CUBE, focal_length, view_picture
from pipeline.geometry import BLENDER_TO_OPENCV, Floats, opencv_pose, world_points
from pipeline.pictures.write import encode_panorama
from pipeline.shards.reader import decode_ids, decode_image
from pipeline.storage import write_atomic

POINTS_PER_PANORAMA = 2000
"""Points of a sparse model that a panorama's depth gives."""


def _pose_of(row: DatasetRow) -> Floats:
    camera = row.values["camera"]
    if camera is None:
        raise UserError(f"{row.place} has no camera; imported panoramas cannot be reconstructed")
    return opencv_pose(camera["position"], camera["rotation_euler"])


def _write_faces(
    row: DatasetRow, image: Any, size: int, folder: Path, place: str
) -> Iterator[tuple[str, str, Floats]]:
    """Write the faces of a cube; yields path, name in the record and pose of each."""
    pose = _pose_of(row)
    for face in CUBE:
        name = f"{row.stem}-{face.name}.jpg"
        write_atomic(folder / place / name, encode_jpeg(view_picture(image, face, size, 90.0)))
        yield f"{place}/{name}", name, face.pose(pose)


@dataclass(frozen=True)
class _CubeExport:
    """What formats of poses and faces of cubes have in common.

    Attributes:
        size: Pixels along the edge of a cube's face.
        depth: Whether the shards have depth.
    """

    size: int = 1024
    depth: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        return ("depth",) * self.depth


class NerfstudioExport(_CubeExport):
    """nerfstudio's transforms.json."""

    @property
    def format(self) -> str:
        return "nerfstudio"

    def write_row(self, row: DatasetRow, folder: Path) -> Record:
        """Write the pictures of a panorama, and list its frames."""
        scene, image = row.values["scene_id"], decode_image({"bytes": row.webp, "path": row.stem})
        pose = _pose_of(row)
        files = [f"{scene}/images/{row.stem}.jpg"]
        write_atomic(folder / files[0], encode_panorama(image, ".jpg"))
        frame: dict[str, Any] = {
            "file_path": f"images/{row.stem}.jpg",
            "transform_matrix": (pose @ BLENDER_TO_OPENCV).tolist(),
        }
        if self.depth:
            files.append(f"{scene}/depth/{row.stem}.png")
            write_atomic(folder / files[1], row.values["depth"]["bytes"])
            frame["depth_file_path"] = f"depth/{row.stem}.png"
        faces = []
        for path, name, face in _write_faces(row, image, self.size, folder, f"{scene}/cube"):
            files.append(path)
            matrix = (face @ BLENDER_TO_OPENCV).tolist()
            faces.append({"file_path": f"cube/{name}", "transform_matrix": matrix})
        sides = [row.values["width"], row.values["height"]]
        return {"scene": scene, "files": files, "frame": frame, "faces": faces, "sides": sides}

    def finish(self, folder: Path, records: Iterator[Record]) -> None:
        """Write the transforms of each scene."""
        for scene, group in groupby(records, key=lambda record: record["scene"]):
            rows = list(group)
            width, height = rows[0]["sides"]
            panoramas = {
                "camera_model": "EQUIRECTANGULAR",
                **{"w": width, "h": height},
                **{"fl_x": height, "fl_y": height, "cx": width / 2, "cy": height / 2},
                "frames": [record["frame"] for record in rows],
            }
            focal, centre = focal_length(self.size, 90.0), self.size / 2
            cube = {
                "camera_model": "PINHOLE",
                **{"w": self.size, "h": self.size},
                **{"fl_x": focal, "fl_y": focal, "cx": centre, "cy": centre},
                "frames": [face for record in rows for face in record["faces"]],
            }
            for name, content in (("transforms", panoramas), ("transforms_cube", cube)):
                text = json.dumps(content, indent=1)
                write_atomic(folder / scene / f"{name}.json", text.encode())


class ColmapExport(_CubeExport):
    """COLMAP's text model."""

    @property
    def format(self) -> str:
        return "colmap"

    def write_row(self, row: DatasetRow, folder: Path) -> Record:
        """Write the faces of a panorama; list poses and points."""
        scene, image = row.values["scene_id"], decode_image({"bytes": row.webp, "path": row.stem})
        files, faces = [], []
        for path, name, pose in _write_faces(row, image, self.size, folder, f"{scene}/images"):
            files.append(path)
            faces.append({"name": name, "pose": pose.tolist()})
        points = self._points(row, image) if self.depth else []
        return {"scene": scene, "files": files, "faces": faces, "points": points}

    def _points(self, row: DatasetRow, image: Any) -> list[list[float]]:
        """x, y, z, red, green, blue of points that are spread evenly over the sphere."""
        depth = decode_ids(row.values["depth"]) / 1000
        height, width = depth.shape
        number = np.arange(POINTS_PER_PANORAMA) + 0.5
        y = (np.arccos(1 - 2 * number / POINTS_PER_PANORAMA) / np.pi * height).astype(int)
        x = (number * (5**0.5 - 1) / 2 % 1 * width).astype(int)
        y, x = np.minimum(y, height - 1), np.minimum(x, width - 1)
        known = depth[y, x] > 0
        y, x = y[known], x[known]
        places = world_points(x, y, depth[y, x], width, _pose_of(row))
        return np.concatenate([places.round(4), image[y, x]], axis=1).tolist()

    def finish(self, folder: Path, records: Iterator[Record]) -> None:
        """Write the model of each scene."""
        for scene, group in groupby(records, key=lambda record: record["scene"]):
            rows, model = list(group), folder / scene / "sparse" / "0"
            focal, centre = focal_length(self.size, 90.0), self.size / 2
            camera = f"1 PINHOLE {self.size} {self.size} {focal} {focal} {centre} {centre}\n"
            faces = [face for record in rows for face in record["faces"]]
            points = np.array([p for record in rows for p in record["points"]]).reshape(-1, 6)
            owners = np.repeat(np.arange(len(rows)), [len(record["points"]) for record in rows])
            images, tracks = self._observations(faces, points, owners, focal)
            lines = [
                f"{number} {x} {y} {z} {int(r)} {int(g)} {int(b)} 0 {track}\n"
                for number, ((x, y, z, r, g, b), track) in enumerate(
                    zip(points.tolist(), tracks, strict=True), start=1
                )
            ]
            for name, text in (
                ("cameras.txt", camera),
                ("images.txt", images),
                ("points3D.txt", "".join(lines)),
            ):
                write_atomic(model / name, text.encode())

    def _observations(
        self, faces: list[dict[str, Any]], points: Floats, owners: Any, focal: float
    ) -> tuple[str, list[str]]:
        """images.txt, and the track of each point: the face of its panorama that sees it."""
        text = []
        tracks = [""] * len(points)
        for number, face in enumerate(faces):
            to_camera = np.linalg.inv(np.array(face["pose"]))
            own = np.flatnonzero(owners == number // len(CUBE))
            seen = points[own, :3] @ to_camera[:3, :3].T + to_camera[:3, 3]
            ahead = seen[:, 2] >= np.abs(seen[:, :2]).max(axis=1, initial=1e-9)
            ahead &= np.array([not tracks[index] for index in own], bool)
            observed = []
            for place, index in enumerate(own[ahead]):
                x, y, z = seen[ahead][place]
                u, v = focal * x / z + self.size / 2, focal * y / z + self.size / 2
                observed.append(f"{u:.3f} {v:.3f} {index + 1}")
                tracks[index] = f"{number + 1} {place}"
            pose = " ".join(
                f"{value:.12g}" for value in (*quaternion(to_camera), *to_camera[:3, 3])
            )
            text.append(f"{number + 1} {pose} 1 {face['name']}\n{' '.join(observed)}\n")
        return "".join(text), tracks


def quaternion(matrix: Floats) -> Floats:
    """The unit quaternion w, x, y, z of a rotation (3, 3), with w ≥ 0."""
    r = matrix[:3, :3]
    diagonal = np.array([np.trace(r), *np.diag(r)])
    k = int(np.argmax(diagonal))
    if k == 0:
        q = np.array([1 + diagonal[0], r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]])
    else:
        i, j, m = k - 1, k % 3, (k + 1) % 3
        q = np.empty(4)
        q[0] = r[m, j] - r[j, m]
        q[1 + i] = 1 + r[i, i] - r[j, j] - r[m, m]
        q[1 + j], q[1 + m] = r[j, i] + r[i, j], r[m, i] + r[i, m]
    q /= np.linalg.norm(q)
    return q if q[0] >= 0 else -q
