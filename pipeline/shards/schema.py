"""The schema of a row: one panorama with its annotations.

`MEANINGS` says what each column and field means, with its unit; the dataset card quotes it. Pixels
(x, y) are counted from the top left corner, and integers are pixel centres. `pipeline.sphere`
defines the direction of a pixel.

Lists have no fixed size in the schema, although boxes always hold four numbers: Parquet has no
fixed-size lists, and readers differ in how they restore them, especially inside structs.

No column holds a value that differs between two runs on the same hardware, such as times, host
names and attempts. The cost of a row is in scene.json, render.json and the record in done/.

PIL, and so `datasets`, reduces a 16-bit RGB PNG to 8 bits: decode the bytes of `normal` with
`pipeline.shards.reader`, or with OpenCV.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

IMAGE_FILES = {
    "image": "image.webp",
    "ids": "ids.png",
    "depth": "depth.png",
    "normal": "normal.png",
    "albedo": "albedo.webp",
}
"""Image columns and the files in panoramas/<k>/ that hold their bytes."""

SEEN_POINTS = 256
"""Points of a surface that are looked at to see how much of it is seen: the standard error of the
share is at most 0.032."""

NO_GEOMETRY = {"box3d": None, "distance": None, "seen": None}
"""The 3D fields of an object about which no scene is known."""

SPLITS = ("train", "validation")

SHARD_NAME = re.compile(rf"(?:{'|'.join(SPLITS)})-\d{{5}}\.parquet")
"""Names of shards; other files in their folder are left alone."""

MEANINGS = {
    "image": "the panorama: lossless WebP, 8-bit RGB, equirectangular, width = 2 · height",
    "ids": "instance id of each pixel: 16-bit PNG; 0 is no instance",
    "depth": "millimetres along the ray: 16-bit PNG; 0 is nothing within 65.535 m",
    "normal": "surface normal, world x, y, z as (n + 1) / 2 · 65535: 16-bit RGB PNG",
    "albedo": "diffuse colour of the surface without light: lossless WebP, 8-bit sRGB; black "
    "where a surface has none (metal, glass, a lamp)",
    "image_id": "`<scene_id>/<k>`, the k-th panorama of its scene",
    "scene_id": "the scene; all panoramas of a scene are in the same split",
    "width": "pixels",
    "height": "pixels",
    "generator": "the program that made the scene",
    "seed": "what the generator was started with; with the same settings it gives the same scene",
    "camera": "where the panorama was taken",
    "camera.position": "[x, y, z] in metres, world axes, Z up",
    "camera.rotation_euler": "radians, XYZ; (π/2, 0, 0) puts world +Y at the image's centre",
    "camera.room": "name of the floor that the camera stands on, which tells the room",
    "camera.to_world_opencv": "4 × 4, row by row: points of the camera → world, OpenCV's axes "
    "(x right, y down, z ahead)",
    "camera.to_world_blender": "the same in Blender's axes (x right, y up, z back)",
    "room": "the room that the camera is in; null where the generator does not know it",
    "room.name": "the same for all panoramas in this room",
    "room.kind": "what it is for, such as `kitchen`; null where the generator does not say",
    "room.polygon": "outline of the floor: corners [x, y] in metres, world axes, "
    "counter-clockwise seen from above",
    "room.floor": "z of the floor in metres",
    "room.height": "metres from the floor to the ceiling, the median over the room",
    "objects": "instances of at least the smallest annotated area, by id; smaller ones are in "
    "`ids` only",
    "objects.id": "value in `ids`; the same in all panoramas of a scene",
    "objects.category": "what it is",
    "objects.name": "the scene's own name for it",
    "objects.is_structure": "wall, floor, ceiling and the like, as opposed to an object",
    "objects.area": "pixels",
    "objects.solid_angle": "steradian; the sphere has 4π",
    "objects.size": "`small`, `medium` or `large` by area, relative to the panorama's",
    "objects.bbox": "COCO's [x, y, width, height] in pixels",
    "objects.bbox_wrapped": "the smallest such box that may cross the seam: x is less than the "
    "panorama's width W, x + width may exceed W",
    "objects.crosses_seam": "its pixels touch across the left and right border",
    "objects.touches_pole": "it has pixels in the first or last row",
    "objects.bfov": "spherical box [longitude, latitude, horizontal, vertical] in degrees: its "
    "centre, and its extents seen from there",
    "objects.click": "[x, y], the pixel farthest from the mask's boundary: the simulated first "
    "click",
    "objects.iscrowd": "always 0, for COCO's tools",
    "objects.segmentation": "the mask: COCO's compressed run-length encoding",
    "objects.segmentation.size": "[height, width] in pixels",
    "objects.segmentation.counts": "the run lengths, column by column, as COCO's tools write them",
    "objects.box3d": "the upright box around the complete object: its vertical edges are parallel "
    "to Z, and its base is as small as possible",
    "objects.box3d.centre": "[x, y, z] in metres, world axes",
    "objects.box3d.size": "metres along the box's three axes; the third is the height",
    "objects.box3d.rotation": "3 × 3, row by row; its columns are the box's axes in world axes",
    "objects.distance": "metres from the camera to the box's centre",
    "objects.seen": f"share of the object's surface that the camera sees: of {SEEN_POINTS} random "
    "points of it, those that a ray reaches; the back of a thing is not seen, so a closed object "
    "seldom exceeds 0.5",
    "provenance": "what made the row",
    "provenance.pipeline": "version of the pipeline",
    "provenance.infinigen": "version of InfiniGen",
    "provenance.bpy": "version of Blender",
    "provenance.profile": "render settings, by name",
    "provenance.samples": "Cycles samples per pixel",
    "provenance.device": "what Cycles rendered on",
    "provenance.settings_hash": "hash of all settings and versions; equal for comparable rows",
    "provenance.exposure_stops": "what the automatic exposure multiplied the light by, as a power "
    "of 2",
}
"""The meaning of each column and each field, in the schema's order, with its unit.

In Markdown, on one line, without reference to this code: the dataset card quotes it."""

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_FLOATS = pa.list_(pa.float64())
_INTS = pa.list_(pa.int32())

_MATRIX = pa.list_(_FLOATS)

_CAMERA = [("position", _FLOATS), ("rotation_euler", _FLOATS), ("room", pa.string())]
_POSES = [("to_world_opencv", _MATRIX), ("to_world_blender", _MATRIX)]
_ROOM = pa.struct(
    [
        ("name", pa.string()),
        ("kind", pa.string()),
        ("polygon", _MATRIX),
        ("floor", pa.float64()),
        ("height", pa.float64()),
    ]
)
_BOX = pa.struct([("centre", _FLOATS), ("size", _FLOATS), ("rotation", _MATRIX)])
_OBJECT = [
    ("id", pa.int32()),
    ("category", pa.string()),
    ("name", pa.string()),
    ("is_structure", pa.bool_()),
    ("area", pa.int64()),
    ("solid_angle", pa.float64()),
    ("size", pa.string()),
    ("bbox", _FLOATS),
    ("bbox_wrapped", _FLOATS),
    ("crosses_seam", pa.bool_()),
    ("touches_pole", pa.bool_()),
    ("bfov", _FLOATS),
    ("click", _INTS),
    ("iscrowd", pa.int32()),
    ("segmentation", pa.struct([("size", _INTS), ("counts", pa.string())])),
]
_OBJECT_GEOMETRY = [("box3d", _BOX), ("distance", pa.float64()), ("seen", pa.float64())]
_PROVENANCE = pa.struct(
    [
        ("pipeline", pa.string()),
        ("infinigen", pa.string()),
        ("bpy", pa.string()),
        ("profile", pa.string()),
        ("samples", pa.int32()),
        ("device", pa.string()),
        ("settings_hash", pa.string()),
        ("exposure_stops", pa.float64()),
    ]
)


def image_columns(passes: Iterable[str]) -> tuple[str, ...]:
    """The image columns of a run that keeps these extra passes, in the schema's order."""
    return tuple(name for name in IMAGE_FILES if name in {"image", "ids", *passes})


def make_schema(passes: Iterable[str] = (), geometry: bool = True) -> pa.Schema:
    """The Arrow schema of a run's shards.

    Args:
        passes: Extra image columns.
        geometry: With poses, rooms and 3D boxes; versions before 0.4.0 had none.

    The metadata entry `huggingface` marks the image columns as images, for `datasets` and the Hub's
    viewer. It equals what `datasets.Features.arrow_schema` writes (datasets 4 or newer), and is
    made here so that packing does not need `datasets`.
    """
    fields = [pa.field(name, _IMAGE) for name in image_columns(passes)]
    fields += [
        pa.field("image_id", pa.string()),
        pa.field("scene_id", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("generator", pa.string()),
        pa.field("seed", pa.int64()),
        pa.field("camera", pa.struct(_CAMERA + _POSES * geometry)),
        *[pa.field("room", _ROOM)] * geometry,
        pa.field("objects", pa.list_(pa.struct(_OBJECT + _OBJECT_GEOMETRY * geometry))),
        pa.field("provenance", _PROVENANCE),
    ]
    return hub_schema(fields)


def hub_schema(fields: Sequence[pa.Field]) -> pa.Schema:
    """A schema with the entry `huggingface`; columns of bytes and path are images."""
    features = {field.name: _feature(field.type) for field in fields}
    return pa.schema(fields, {"huggingface": json.dumps({"info": {"features": features}})})


def _feature(kind: pa.DataType) -> dict[str, Any]:
    """An Arrow type as `datasets.Features` writes it."""
    if kind == _IMAGE:
        return {"_type": "Image"}
    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type) for field in kind}
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    names = {"double": "float64"}  # `datasets` uses Arrow's name for all other types
    return {"dtype": names.get(str(kind), str(kind)), "_type": "Value"}


def leaf_columns(schema: pa.Schema) -> list[str]:
    """Paths of the Parquet columns, such as `image.bytes` or `objects.list.element.area`."""

    def leaves(path: str, kind: pa.DataType) -> list[str]:
        if pa.types.is_struct(kind):
            return [leaf for field in kind for leaf in leaves(f"{path}.{field.name}", field.type)]
        if pa.types.is_list(kind):
            return leaves(f"{path}.list.element", kind.value_type)
        return [path]

    return [leaf for field in schema for leaf in leaves(field.name, field.type)]
