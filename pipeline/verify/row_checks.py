"""Is one row true? Everything it says about its pixels is computed from them a second time."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from pipeline import __version__
from pipeline.annotations.annotate import InstanceInfo, annotate
from pipeline.annotations.quality import defects
from pipeline.categories import category_of
from pipeline.errors import UserError
from pipeline.settings import GENERATORS
from pipeline.shards.reader import decode_ids, decode_image
from pipeline.shards.schema import IMAGE_FILES
from pipeline.sphere import lonlat_to_direction
from pipeline.verify.findings import Report

SCENE_ID = re.compile(rf"({'|'.join(GENERATORS)})-(\d{{10}})")
IMAGE_ID = re.compile(rf"({SCENE_ID.pattern})/(0|[1-9]\d*)")

Row = Mapping[str, Any]


def check_row(row: Row, min_area: int | None, report: Report) -> NDArray[np.uint8] | None:
    """Report everything that is wrong with a row by itself.

    Args:
        row: All columns of `pipeline.shards.schema`, as the shard holds them.
        min_area: The run's smallest instance in pixels; None where it is not known.
        report: Called with the text of each finding, and `object=` where it is about one.

    Returns:
        The picture (H, W, 3) RGB, if it could be decoded.
    """
    missing = list(_nulls(row, ""))
    for path in missing:
        report(f"{path} is missing")
    if missing:
        return None
    _check_names(row, report)
    _check_provenance(row["provenance"], report)
    if row["provenance"]["pipeline"] == __version__:  # another version may have another table
        _check_categories(row["objects"], report)
    for name in ("position", "rotation_euler"):
        values = row["camera"][name]
        if len(values) != 3 or not all(map(math.isfinite, values)):
            report(f"camera.{name} is {values} instead of three numbers")
    size = (row["height"], row["width"])
    if size[1] != 2 * size[0] or size[0] < 1:
        report(f"is {size[1]} × {size[0]} pixels, not twice as wide as high")
    images = {name: _decode(row, name, size, report) for name in IMAGE_FILES if name in row}
    if (ids := images["ids"]) is not None:
        _check_objects(ids, row["objects"], min_area, report)
    if (image := images["image"]) is not None:
        for reason in defects(image, row["objects"]):
            report(f"is defective: {reason}")
    return image


def _nulls(value: Any, path: str) -> Iterator[str]:
    """Paths of all nulls: the schema allows them everywhere, we write none."""
    if value is None:
        yield path
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield from _nulls(part, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from _nulls(part, f"{path}[{index}]")


def _check_names(row: Row, report: Report) -> None:
    """scene_id is <generator>-<seed>, image_id is <scene_id>/<k>, files are called after it."""
    scene_id, image_id = row["scene_id"], row["image_id"]
    if scene_id != f"{row['generator']}-{row['seed']:010d}" or not SCENE_ID.fullmatch(scene_id):
        report(f"scene_id {scene_id!r} is not that of {row['generator']!r}, seed {row['seed']}")
    named = IMAGE_ID.fullmatch(image_id)
    if not named or named[1] != scene_id:
        report(f"image_id {image_id!r} is none of scene {scene_id!r}")
    for name in IMAGE_FILES:
        if name in row:
            expected = f"{image_id.replace('/', '-')}-{IMAGE_FILES[name]}"
            if row[name]["path"] != expected:
                report(f"{name} is {row[name]['path']!r}, not {expected!r}: of another row?")


def _check_provenance(provenance: Row, report: Report) -> None:
    if provenance["samples"] < 1 or not math.isfinite(provenance["exposure_stops"]):
        report("provenance.samples or exposure_stops is out of range")


def _check_categories(objects: list[Row], report: Report) -> None:
    """An object's name decides what it is."""
    for thing in objects:
        category, is_structure, _ = category_of(thing["name"])
        if (thing["category"], thing["is_structure"]) != (category, is_structure):
            kind = "structure" if is_structure else "an object"
            report(
                f"{thing['name']} is given as {thing['category']}; it is {category}, {kind}",
                object=thing["id"],
            )


def _decode(row: Row, name: str, size: tuple[int, int], report: Report) -> NDArray | None:
    """An image column, if it is what it should be."""
    colour = name in ("image", "normal")
    dtype = np.uint8 if name == "image" else np.uint16
    shape = (*size, 3) if colour else size
    try:
        array = decode_image(row[name]) if colour else decode_ids(row[name])
    except (UserError, IndexError, cv2.error):  # IndexError: grey where colours should be
        report(f"{name} does not decode")
        return None
    if array.dtype != dtype or array.shape != shape:
        found = f"{' × '.join(map(str, array.shape))} {array.dtype}"
        report(f"{name} is {found} instead of {' × '.join(map(str, shape))} {np.dtype(dtype)}")
        return None
    return array


def _check_objects(
    ids: NDArray[np.uint16], objects: list[Row], min_area: int | None, report: Report
) -> None:
    labels = [thing["id"] for thing in objects]
    if sorted(set(labels)) != labels:
        report("objects are not in the order of their ids, or an id occurs twice")
    areas = np.bincount(ids.reshape(-1), minlength=2**16)
    shown = [label for label in set(labels) if 0 < label < len(areas) and areas[label]]
    for label in sorted(set(labels) - set(shown)):
        report("is not in the id map", object=label)
    _check_forgotten(areas, objects, shown, min_area, report)

    annotated = np.zeros(2**16, np.uint16)
    annotated[shown] = shown
    what = {t["id"]: InstanceInfo(t["name"], t["category"], t["is_structure"]) for t in objects}
    truth = {t["id"]: t for t in annotate(annotated[ids], what, min_area_pixels=1)[0]}
    for thing in objects:
        if expected := truth.get(thing["id"]):
            _check_mask(ids, thing, expected, report)
            for text in _differences(thing, expected, degrees_per_pixel=360 / ids.shape[1]):
                report(text, object=thing["id"])


def _check_forgotten(
    areas: NDArray[np.int64],
    objects: list[Row],
    shown: list[int],
    min_area: int | None,
    report: Report,
) -> None:
    """Instances that should have an annotation and have none, or the other way round."""
    least = min((int(areas[label]) for label in shown), default=None)
    enough = least if min_area is None else min_area
    if enough is None:
        return
    for label in shown:
        if areas[label] < enough:
            report(f"has {areas[label]} pixels, the run keeps {enough} and more", object=label)
    for label in np.flatnonzero(areas >= enough).tolist():
        if label and label not in shown:
            report(f"id {label} has {areas[label]} pixels in the id map and no annotation")


def _check_mask(ids: NDArray[np.uint16], thing: Row, expected: Row, report: Report) -> None:
    """Decode the RLE with pycocotools and hold it against the id map."""
    segmentation = thing["segmentation"]
    if list(segmentation["size"]) != list(ids.shape):
        report(f"its mask is for {segmentation['size']}, not {list(ids.shape)}", object=thing["id"])
        return
    if (pixels := _pixels(segmentation["counts"])) != ids.size:
        found = "does not decode" if pixels is None else f"has {pixels} pixels, not {ids.size}"
        report(f"its mask {found}", object=thing["id"])
        return
    mask = coco.decode(segmentation).view(np.bool_)
    x, y, w, h = (int(value) for value in expected["bbox"])
    crop = np.s_[y : y + h, x : x + w]
    agreeing = np.count_nonzero(mask[crop] & (ids[crop] == thing["id"]))
    wrong = np.count_nonzero(mask) + expected["area"] - 2 * agreeing
    if wrong:
        report(f"its mask and the id map differ in {wrong} pixels", object=thing["id"])


def _pixels(counts: str) -> int | None:
    """Sum of COCO's compressed run lengths; None if they are none.

    pycocotools leaves the rest of a mask as it was in memory where the runs do not fill it. Runs
    are written in base 32, lowest digit first, a character each from "0" on, with a bit that says
    whether more follow; from the fourth on they are differences to the last but one.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        digit = ord(character) - 48
        if not 0 <= digit < 64:
            return None
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        if digit & 16:  # negative
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        if runs[-1] < 0:
            return None
        value = shift = 0
    return None if shift else sum(runs)


def _differences(thing: Row, expected: Row, degrees_per_pixel: float) -> Iterator[str]:
    """Fields that are not what the pixels say. The segmentation is judged by its pixels alone."""
    for name, truth in expected.items():
        value: Any = thing[name]
        if name == "segmentation" or value == truth:
            continue
        if name == "solid_angle" and math.isclose(value, truth, rel_tol=1e-9):
            continue
        if name == "bfov" and _same_box(value, truth, degrees_per_pixel):
            continue
        yield f"{name} is {value}, by the id map {truth}"


def _same_box(one: list[float], other: list[float], tolerance: float) -> bool:
    """Whether two spherical boxes agree to a pixel: the last bits of sines depend on the CPU."""
    if len(one) != 4 or not all(map(math.isfinite, one)):
        return False
    first, second = (lonlat_to_direction(*np.radians(box[:2])) for box in (one, other))
    apart = np.degrees(np.arccos(np.clip(np.dot(first, second), -1, 1)))
    return bool(apart < tolerance and np.allclose(one[2:], other[2:], rtol=0, atol=tolerance))
