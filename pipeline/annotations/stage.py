"""The annotate stage: reads rendered/<k>/, writes panoramas/<k>/.

Reads the output of the render stage:

    scene.json          scene_id, generator, seed, instances, viewpoints, versions, settings_hash, …
    rendered/<k>/
      image.png         8-bit RGB
      ids.png           16-bit, one channel: instance ids, 0 is none
      depth.exr         optional: float32 metres along the ray, one channel Y
      normal.exr        optional: float32 world x, y, z as channels R, G, B
      albedo.exr        optional: float32 linear R, G, B
      render.json       `RENDER_FACTS`, and the costs of the render

Writes panoramas/<k>/ with the image files of `pipeline.shards.schema.IMAGE_FILES` and row.json:
the shard's row without its image columns, and a `summary` that only the pipeline uses.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import DTypeLike, NDArray
from PIL import Image

from pipeline.annotations.annotate import Ids, InstanceInfo, annotate
from pipeline.annotations.quality import defects
from pipeline.errors import UserError
from pipeline.geometry import blender_pose, distance_to, opencv_pose
from pipeline.layout import SceneFolder, read_json, write_json
from pipeline.pictures.tone import srgb
from pipeline.run_settings import RunSettings
from pipeline.shards.schema import IMAGE_FILES
from pipeline.storage import write_atomic

# OpenCV reads this variable when it first opens an OpenEXR file, not on import.
os.environ.setdefault("OPENCV_IO_ENABLE_OPENEXR", "1")

RENDER_FACTS = ("profile", "samples", "device", "exposure_stops")
"""The entries of render.json that go into a row's provenance; costs do not."""


class _CorruptError(Exception):
    """A rendered file is missing or not as the render stage writes it."""


def annotate_scene(scene: SceneFolder, settings: RunSettings) -> None:
    """Annotate every rendered panorama of a scene that is not annotated yet.

    When all viewpoints of the scene are annotated, rendered/ is removed. The caller finishes the
    scene.

    Raises:
        UserError: A rendered file is missing or corrupt. Its folder is deleted, so that the next
            attempt renders it again.
        ValueError: The id map holds an id that scene.json does not list.
        OSError: The disk is full or not writable; no partial panorama is left.
    """
    facts = read_json(scene.generated)
    count = len(facts["viewpoints"])
    with _single_thread():
        for index in range(count):
            rendered = scene.rendered(index)
            if not rendered.is_dir() or scene.panorama(index).exists():
                continue
            try:
                _annotate_panorama(scene, index, facts, settings)
            except _CorruptError as problem:
                shutil.rmtree(rendered)
                raise UserError(
                    f"{problem}; {rendered} was deleted, run the same command to render it again"
                ) from problem
    if all(scene.panorama(index).exists() for index in range(count)):
        shutil.rmtree(scene.rendered(0).parent, ignore_errors=True)


@contextmanager
def _single_thread() -> Iterator[None]:
    """Limit OpenCV to one thread, because the stage runs in a Ray worker with one CPU."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _annotate_panorama(
    scene: SceneFolder, index: int, facts: dict[str, Any], settings: RunSettings
) -> None:
    """Write panoramas/<index>/ in the scratch folder, then move it to its place atomically."""
    folder = scene.rendered(index)
    size = (settings.height, settings.width)
    image = _read_image(folder / "image.png", np.uint8, (*size, 3))[..., ::-1]  # BGR to RGB
    ids = _read_image(folder / "ids.png", np.uint16, size)
    images = {"image": encode_webp(image), "ids": encode_png(ids)}
    if "depth" in settings.passes:
        depth = _read_image(folder / "depth.exr", np.float32, size)
        images["depth"] = encode_png(depth_to_millimetres(depth))
    if "normal" in settings.passes:
        normal = _read_image(folder / "normal.exr", np.float32, (*size, 3))[..., ::-1]
        images["normal"] = encode_png(normal_to_uint16(normal))
    if "albedo" in settings.passes:
        albedo = _read_image(folder / "albedo.exr", np.float32, (*size, 3))[..., ::-1]
        images["albedo"] = encode_webp(albedo_to_uint8(albedo))
    row = _make_row(image, ids, index, facts, _read_render_json(folder), settings)
    row["summary"]["bytes"] = sum(map(len, images.values()))
    row["summary"]["sha256"] = {
        IMAGE_FILES[column]: hashlib.sha256(data).hexdigest() for column, data in images.items()
    }

    scratch = scene.scratch / f"panorama-{index}"
    shutil.rmtree(scratch, ignore_errors=True)  # left by a killed attempt
    try:
        for column, data in images.items():
            write_atomic(scratch / IMAGE_FILES[column], data)
        write_json(scratch / "row.json", row)
        scene.panorama(index).parent.mkdir(exist_ok=True)
        os.replace(scratch, scene.panorama(index))
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def _make_row(
    image: NDArray[np.uint8],
    ids: Ids,
    index: int,
    facts: dict[str, Any],
    render: dict[str, Any],
    settings: RunSettings,
) -> dict[str, Any]:
    """The row of `pipeline.shards.schema` without image columns, with its `summary`.

    Args:
        facts: The content of scene.json.
        render: `RENDER_FACTS` of render.json.
    """
    instances = {
        entry["id"]: InstanceInfo(entry["name"], entry["category"], entry["is_structure"])
        for entry in facts["instances"]
    }
    objects, dropped = annotate(ids, instances, settings.min_area_pixels)
    viewpoint = facts["viewpoints"][index]
    add_geometry(objects, facts["instances"], viewpoint)
    pose = viewpoint["position"], viewpoint["rotation_euler"]
    return {
        "image_id": f"{facts['scene_id']}/{index}",
        "scene_id": facts["scene_id"],
        "width": settings.width,
        "height": settings.height,
        "generator": facts["generator"],
        "seed": facts["seed"],
        "camera": {
            **{key: viewpoint[key] for key in ("position", "rotation_euler", "room")},
            "to_world_opencv": opencv_pose(*pose).tolist(),
            "to_world_blender": blender_pose(*pose).tolist(),
        },
        "room": viewpoint["layout"],
        "objects": objects,
        "provenance": {
            **{key: facts["versions"][key] for key in ("pipeline", "infinigen", "bpy")},
            **render,
            "settings_hash": facts["settings_hash"],
        },
        "summary": {"dropped": dropped, "defects": defects(image, objects)},
    }


def add_geometry(
    objects: list[dict[str, Any]], instances: list[dict[str, Any]], viewpoint: dict[str, Any]
) -> None:
    """Add the 3D fields of `objects` to annotations.

    Args:
        objects: Annotations, which are changed.
        instances: The scene's instances, as in scene.json.
        viewpoint: The panorama's viewpoint, as in scene.json.
    """
    boxes = {entry["id"]: entry["box3d"] for entry in instances}
    for thing in objects:
        box = boxes[thing["id"]]
        thing["box3d"] = box
        thing["distance"] = distance_to(box["centre"], viewpoint["position"])
        thing["seen"] = viewpoint["seen"].get(str(thing["id"]))


def encode_webp(image: NDArray[np.uint8]) -> bytes:
    """Lossless WebP of an RGB image (H, W, 3) uint8.

    By Pillow, because OpenCV cannot choose WebP's method: its default takes seven times as long at
    4K and saves a fifth of the bytes.
    """
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(
        file, "webp", lossless=True, method=0, quality=20
    )
    return file.getvalue()


def encode_png(image: NDArray) -> bytes:
    """PNG of a grey (H, W) or RGB (H, W, 3) image, uint8 or uint16."""
    bgr = image if image.ndim == 2 else np.ascontiguousarray(image[..., ::-1])
    return cv2.imencode(".png", bgr)[1].tobytes()


def depth_to_millimetres(depth: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Convert metres along the ray to integer millimetres; 0 if nothing is within 65.535 m."""
    metres = np.nan_to_num(depth.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    millimetres = np.rint(metres * 1000)
    within = (millimetres > 0) & (millimetres <= 65535)
    return np.where(within, millimetres, 0).astype(np.uint16)


def albedo_to_uint8(linear: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Convert linear RGB in [0, 1] to 8 bits of sRGB; NaN counts as 0."""
    return np.rint(srgb(np.clip(np.nan_to_num(linear, nan=0.0), 0, 1)) * 255).astype(np.uint8)


def normal_to_uint16(normal: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Convert normals (H, W, 3) in [-1, 1] to (n + 1) / 2 * 65535, rounded; NaN counts as 0."""
    clipped = np.clip(np.nan_to_num(normal.astype(np.float64), nan=0.0), -1, 1)
    return np.rint((clipped + 1) / 2 * 65535).astype(np.uint16)


def _read_image(path: Path, dtype: DTypeLike, shape: tuple[int, ...]) -> NDArray:
    """Read an image in OpenCV's channel order; raise _CorruptError for another type or size."""
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if path.is_file() else None
    if image is None:
        raise _CorruptError(f"{path} is {'corrupt' if path.exists() else 'missing'}")
    if image.dtype != dtype or image.shape != shape:
        raise _CorruptError(f"{path} is {image.dtype} {image.shape}, not {np.dtype(dtype)} {shape}")
    return image


def _read_render_json(folder: Path) -> dict[str, Any]:
    path = folder / "render.json"
    try:
        content = read_json(path)
        return {key: content[key] for key in RENDER_FACTS}
    except (FileNotFoundError, ValueError, KeyError) as problem:
        raise _CorruptError(f"{path} is missing or corrupt") from problem
