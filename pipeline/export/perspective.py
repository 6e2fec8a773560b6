"""Export pinhole views with masks, boxes and poses, as COCO datasets.

<split>/<panorama>-<view>.jpg        the views
ids/<split>/<panorama>-<view>.png    16 bits: the instance id of each pixel, 0 for none
annotations/instances_<split>.json   COCO; an image has its `intrinsics` [fx, fy, cx, cy] in
                                     pixels, from the corner of the first one, and its
                                     camera-to-world matrix `to_world_opencv`
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rlemasklib import RLEMask

from pipeline.annotations.annotate import Ids
from pipeline.annotations.sizes import size_of
from pipeline.annotations.stage import encode_png
from pipeline.export.dataset_rows import DatasetRow
from pipeline.export.images import encode_jpeg
from pipeline.export.instances_json import Categories, InstancesJson
from pipeline.export.resumable import Record
from pipeline.export.views import CUBE, SCAN, PinholeView, focal_length, view_ids, view_picture
from pipeline.geometry import opencv_pose
from pipeline.shards.reader import decode_ids, decode_image
from pipeline.storage import open_atomic, write_atomic


@dataclass(frozen=True)
class PerspectiveExport:
    """Views of each panorama.

    Attributes:
        size: L, in pixels.
        fov: Field of view in degrees.
        categories: "own" or a taxonomy.
        min_pixels: Smaller parts of an object get no annotation.
        cube: The six faces of a cube (90°) instead of the paper's 24 views.
    """

    size: int = 1024
    fov: float = 90.0
    categories: str = "own"
    min_pixels: int = 16
    cube: bool = False

    @property
    def format(self) -> str:
        return "cubemap" if self.cube else "perspective"

    @property
    def columns(self) -> tuple[str, ...]:
        return ("ids",)

    @property
    def views(self) -> tuple[PinholeView, ...]:
        return CUBE if self.cube else SCAN

    def write_row(self, row: DatasetRow, folder: Path) -> Record:
        """Write the views of a panorama, and list their COCO entries."""
        image = decode_image({"bytes": row.webp, "path": row.stem})
        ids = decode_ids(row.values["ids"])
        camera = row.values["camera"]
        pose = camera and opencv_pose(camera["position"], camera["rotation_euler"])
        files, entries = [], []
        for view in self.views:
            stem = f"{row.stem}-{view.name}"
            picture = view_picture(image, view, self.size, self.fov)
            labels = view_ids(ids, view, self.size, self.fov)
            for name, data in (
                (f"{row.split}/{stem}.jpg", encode_jpeg(picture)),
                (f"ids/{row.split}/{stem}.png", encode_png(labels)),
            ):
                write_atomic(folder / name, data)
                files.append(name)
            focal, centre = focal_length(self.size, self.fov), self.size / 2
            about = {
                "file_name": f"{stem}.jpg",
                "width": self.size,
                "height": self.size,
                "panorama": row.values["image_id"],
                "yaw": view.yaw,
                "pitch": view.pitch,
                "intrinsics": [focal, focal, centre, centre],
                "to_world_opencv": None if pose is None else view.pose(pose).tolist(),
            }
            entries.append([about, list(self._annotations(labels, row.values["objects"]))])
        return {"split": row.split, "files": files, "entries": entries}

    def _annotations(self, labels: Ids, objects: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        counts = np.bincount(labels.reshape(-1), minlength=2**16)
        for thing in objects:
            if counts[thing["id"]] < self.min_pixels:
                continue
            mask = RLEMask.from_array(labels == thing["id"])
            area = int(counts[thing["id"]])
            yield {
                "category": thing["category"],
                "is_structure": thing["is_structure"],
                "instance_id": thing["id"],
                "area": area,
                "size": size_of(area, self.size, self.size),
                "bbox": [float(value) for value in mask.bbox()],
                "iscrowd": 0,
                "segmentation": {
                    "size": [self.size, self.size],
                    "counts": mask.to_dict()["counts"].decode("ascii"),
                },
            }

    def finish(self, folder: Path, records: Iterator[Record]) -> None:
        """Write the JSON of each split."""
        write_instances(folder, records, self.categories)


def write_instances(folder: Path, records: Iterator[Record], taxonomy: str) -> None:
    """Write annotations/instances_<split>.json from the entries of all rows."""
    categories = Categories(taxonomy)
    place = folder / "annotations"
    place.mkdir(exist_ok=True)
    jsons: dict[str, InstancesJson] = {}
    with ExitStack() as stack:
        for record in records:
            split = record["split"]
            if split not in jsons:
                file = stack.enter_context(open_atomic(place / f"instances_{split}.json"))
                spool = stack.enter_context(tempfile.TemporaryFile(dir=place))
                jsons[split] = InstancesJson(file, spool, None, {})
            for image, things in record["entries"]:
                numbers = [categories.id_of(t["category"], t["is_structure"]) for t in things]
                annotations = [
                    {"category_id": number, **thing}
                    for number, thing in zip(numbers, things, strict=True)
                    if number is not None
                ]
                jsons[split].add(image, annotations)
        for instances in jsons.values():
            instances.finish(categories)
