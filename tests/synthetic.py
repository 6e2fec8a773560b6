"""Scenes without Blender: discs on a sphere, whose areas, boxes and directions are known.

`render_scene` leaves behind what the generate and render stages would; `finish_scene` takes it
through the annotate stage. Discs are drawn straight from the definition of the sphere, not with
the project's own projection code.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from unittest.mock import patch

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.annotations.stage import annotate_scene
from pipeline.layout import RunFolder, SceneFolder, write_json
from pipeline.run_settings import RunSettings, scene_id, settings_hash, versions
from pipeline.shards import schema as schema_module
from pipeline.shards.schema import IMAGE_FILES, make_schema

os.environ.setdefault("OPENCV_IO_ENABLE_OPENEXR", "1")

SETTINGS = RunSettings(
    generators=(("spheres", 1.0),), profile="draft", width=256, samples=1, panos=2, min_area=2600
)
"""A run of 256 × 128 panoramas; its smallest kept instance has 10 pixels."""

PASSES = dataclasses.replace(SETTINGS, passes=("albedo", "depth", "normal"))
"""The same with all extra passes."""

FLOOR, CEILING, PLAIN, SEAM, ZENITH, TINY = range(1, 7)
DISCS = {
    PLAIN: (40.0, -20.0, 15.0),
    SEAM: (180.0, 10.0, 12.0),
    ZENITH: (0.0, 90.0, 20.0),
    TINY: (-60.0, -30.0, 1.5),
}
"""Instance id: longitude, latitude, angular radius of the disc, in degrees."""

EYE, CEILING_HEIGHT, FAR = 1.5, 11.5, 1e4
"""Metres: the camera above the floor, the ceiling, and half of the room's edge."""

BALL_DISTANCE = 2.0
"""Metres from the camera to the centre of each ball, which it sees as a disc."""

HALL = {
    "name": "floor",
    "kind": None,
    "polygon": [[-FAR, -FAR], [FAR, -FAR], [FAR, FAR], [-FAR, FAR]],
    "floor": 0.0,
    "height": CEILING_HEIGHT,
}


def box3d(label: int) -> dict:
    """The 3D box of an instance."""
    if label in DISCS:
        lon, lat, radius = np.radians(DISCS[label])
        direction = (np.cos(lat) * np.sin(lon), np.cos(lat) * np.cos(lon), np.sin(lat))
        centre = np.round(BALL_DISTANCE * np.array(direction) + (0, 0, EYE), 4).tolist()
        size = [float(2 * BALL_DISTANCE * np.sin(radius))] * 3
    else:
        centre = [0.0, 0.0, 0.0 if label == FLOOR else CEILING_HEIGHT]
        size = [2 * FAR, 2 * FAR, 0.0]
    return {"centre": centre, "size": size, "rotation": np.eye(3).tolist()}


TABLE = [
    {"id": FLOOR, "name": "floor", "category": "floor", "is_structure": True},
    {"id": CEILING, "name": "ceiling", "category": "ceiling", "is_structure": True},
    {"id": PLAIN, "name": "ball.001", "category": "ball", "is_structure": False},
    {"id": SEAM, "name": "ball.002", "category": "ball", "is_structure": False},
    {"id": ZENITH, "name": "lamp", "category": "desk_lamp", "is_structure": False},
    {"id": TINY, "name": "bead", "category": "bead", "is_structure": False},
    {"id": 7, "name": "elsewhere", "category": "ball", "is_structure": False},
]
TABLE = [entry | {"box3d": box3d(int(entry["id"]))} for entry in TABLE]


def directions(width: int) -> np.ndarray:
    """World directions (H, W, 3) of a panorama's pixel centres: +Y ahead, +X right, +Z up."""
    lon = np.linspace(-np.pi, np.pi, 2 * width + 1)[1::2]
    lat = np.linspace(np.pi / 2, -np.pi / 2, width + 1)[1::2, None]
    return np.stack(
        [np.cos(lat) * np.sin(lon), np.cos(lat) * np.cos(lon), np.sin(lat) + 0 * lon], axis=-1
    )


def disc(lon: float, lat: float, radius: float, width: int) -> np.ndarray:
    """Mask (H, W) of the pixels within `radius` degrees of a direction given in degrees."""
    lon, lat = np.radians(lon), np.radians(lat)
    centre = np.array([np.cos(lat) * np.sin(lon), np.cos(lat) * np.cos(lon), np.sin(lat)])
    return directions(width) @ centre > np.cos(np.radians(radius))


def disc_ids(width: int, turn: float = 0.0) -> np.ndarray:
    """Id map (H, W) of `DISCS` before a floor and a ceiling, turned by degrees of longitude."""
    ids = np.full((width // 2, width), CEILING, np.uint16)
    ids[width // 4 :] = FLOOR
    for label, (lon, lat, radius) in DISCS.items():
        ids[disc(lon + turn, lat, radius, width)] = label
    return ids


def disc_depth(width: int, turn: float = 0.0) -> np.ndarray:
    """Metres (H, W) float32 along the ray to what `disc_ids` shows."""
    rays, ids = directions(width), disc_ids(width, turn)
    plane = np.where(rays[..., 2] < 0, -EYE, CEILING_HEIGHT - EYE)
    depth = plane / rays[..., 2]
    for label, (lon, lat, radius) in DISCS.items():
        lon, lat = np.radians([lon + turn, lat])
        centre = np.array([np.cos(lat) * np.sin(lon), np.cos(lat) * np.cos(lon), np.sin(lat)])
        along = rays @ centre * BALL_DISTANCE
        inside = (BALL_DISTANCE * np.sin(np.radians(radius))) ** 2 + along**2 - BALL_DISTANCE**2
        depth = np.where(ids == label, along - np.sqrt(np.maximum(inside, 0)), depth)
    return depth.astype(np.float32)


def picture(ids: np.ndarray, seed: int) -> np.ndarray:
    """An RGB picture (H, W, 3) of an id map: one colour per instance, with noise."""
    generator = np.random.default_rng(seed)
    colours = generator.integers(40, 200, (256, 3))
    noise = generator.integers(0, 20, (*ids.shape, 3))
    return (colours[ids % 256] + noise).astype(np.uint8)


def render_scene(run: RunFolder, settings: RunSettings = SETTINGS, seed: int = 0) -> SceneFolder:
    """Write scene.json and rendered/<k>/ for every viewpoint of a seed's scene."""
    scene = run.scene(scene_id(settings, seed))
    viewpoints = [
        {
            "position": [0.0, 0.0, EYE],
            "rotation_euler": [np.pi / 2, 0.0, np.radians(7.0 * k)],
            "room": "floor",
            "layout": HALL,
            "seen": {str(entry["id"]): 0.25 for entry in TABLE},
        }
        for k in range(settings.panos)
    ]
    write_json(
        scene.generated,
        {
            "scene_id": scene.scene_id,
            "generator": "spheres",
            "seed": seed,
            "instances": TABLE,
            "viewpoints": viewpoints,
            "versions": versions(),
            "settings_hash": settings_hash(settings),
            "scene_seconds": 1.5,
        },
    )
    for k in range(settings.panos):
        render_panorama(scene.rendered(k), settings, seed=1000 * seed + k, turn=7.0 * k)
    return scene


def render_panorama(folder: Path, settings: RunSettings, seed: int, turn: float) -> None:
    """Write one rendered/<k>/ folder."""
    folder.mkdir(parents=True)
    ids = disc_ids(settings.width, turn)
    cv2.imwrite(str(folder / "image.png"), picture(ids, seed)[..., ::-1])
    cv2.imwrite(str(folder / "ids.png"), ids)
    if "depth" in settings.passes:
        cv2.imwrite(str(folder / "depth.exr"), disc_depth(settings.width, turn))
    if "albedo" in settings.passes:
        grey = np.repeat(ids[..., None] / np.float32(10), 3, axis=2)
        cv2.imwrite(str(folder / "albedo.exr"), grey)
    if "normal" in settings.passes:
        towards_camera = -directions(settings.width).astype(np.float32)
        cv2.imwrite(str(folder / "normal.exr"), towards_camera[..., ::-1])
    write_json(
        folder / "render.json",
        {
            "profile": settings.profile,
            "samples": settings.samples,
            "device": "none",
            "render_seconds": 0.25,
            "exposure_stops": 1.5,
        },
    )


def finish_scene(run: RunFolder, settings: RunSettings = SETTINGS, seed: int = 0) -> SceneFolder:
    """A scene that is rendered, annotated and done."""
    scene = render_scene(run, settings, seed)
    annotate_scene(scene, settings)
    write_json(scene.done, {})
    return scene


SECONDS = {"scene_seconds": 31.0, "render_seconds": 4.2}
"""What the provenance of a row had as well, up to version 0.2.0."""


GEOMETRY = ("to_world_opencv", "to_world_blender", "box3d", "distance", "seen")
"""What a camera and an object have since version 0.4.0; a row also has `room`."""


def older_schema(passes: tuple[str, ...] = ()) -> pa.Schema:
    """The schema of version 0.2.0."""
    fields = list(make_schema().field("provenance").type)
    fields[-1:-1] = [pa.field(name, pa.float64()) for name in SECONDS]
    with patch.object(schema_module, "_PROVENANCE", pa.struct(fields)):
        return make_schema(passes, geometry=False)


def older_row(row: dict, seconds: dict | None = None) -> dict:
    """A row as version 0.2.0 made it, or 0.3.0 without seconds."""
    camera = {key: value for key, value in row["camera"].items() if key not in GEOMETRY}
    objects = [
        {key: value for key, value in thing.items() if key not in GEOMETRY}
        for thing in row["objects"]
    ]
    provenance = row["provenance"] | (seconds or {})
    older = row | {"camera": camera, "objects": objects, "provenance": provenance}
    del older["room"]
    return older


def age_shards(shards: Path) -> None:
    """Turn packed shards into those of version 0.2.0, without a manifest."""
    (shards / "manifest.json").unlink(missing_ok=True)
    for path in sorted((shards / "data").glob("*.parquet")):
        rows = [older_row(row, SECONDS) for row in pq.read_table(path).to_pylist()]
        schema = older_schema(tuple(name for name in IMAGE_FILES if name in rows[0]))
        pq.write_table(pa.Table.from_pylist(rows, schema), path, row_group_size=1)
