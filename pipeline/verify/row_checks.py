"""Checks of one row: every annotation is recomputed from the pixels."""

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
from pipeline.run_settings import FILES, GENERATORS
from pipeline.shards.reader import decode_ids, decode_image
from pipeline.shards.schema import IMAGE_FILES
from pipeline.sphere import lonlat_to_direction
from pipeline.verify.findings import Report
from pipeline.verify.geometry_checks import check_geometry

SCENE_ID = re.compile(rf"({'|'.join((*GENERATORS, FILES))})-(\d{{10}})")
IMAGE_ID = re.compile(rf"({SCENE_ID.pattern})/(0|[1-9]\d*)")

UNKNOWN = re.compile(r"room(\.kind)?|objects\[\d+\]\.seen")
"""Columns that are null where the generator does not know them, or an object has no surface."""

Row = Mapping[str, Any]


def check_row(row: Row, min_area: int | None, report: Report) -> NDArray[np.uint8] | None:
    """Report all errors within a row.

    Args:
        row: All columns of `pipeline.shards.schema`.
        min_area: The run's smallest annotated area in pixels; None if unknown.
        report: Called with the text of each finding, and with `object=` if it concerns an object.

    Returns:
        The image (H, W, 3) uint8 RGB, or None if it cannot be decoded.
    """
    missing = [path for path in missing_values(row) if not UNKNOWN.fullmatch(path)]
    for path in missing:
        report(f"{path} is missing")
    if missing:
        return None
    _check_names(row, report)
    _check_provenance(row["provenance"], report)
    # other versions have other categories, and files name theirs
    if row["provenance"]["pipeline"] == __version__ and row["generator"] != FILES:
        _check_categories(row["objects"], report)
    for name in ("position", "rotation_euler"):
        values = row["camera"][name]
        if len(values) != 3 or not all(map(math.isfinite, values)):
            report(f"camera.{name} is {values}, not three finite numbers")
    images = decode_images(row, report)
    if (ids := images["ids"]) is not None:
        _check_objects(ids, row["objects"], min_area, report)
    placed = np.isfinite([*row["camera"]["position"], *row["camera"]["rotation_euler"]])
    if "room" in row and placed.size == 6 and placed.all():  # before 0.4.0 there was no geometry
        check_geometry(row, images["ids"], images.get("depth"), report)
    if (image := images["image"]) is not None:
        for reason in defects(image, row["objects"]):
            report(f"is defective: {reason}")
    return image


def missing_values(value: Any, path: str = "") -> Iterator[str]:
    """Paths of all nulls. The schema allows them, but the packer writes none."""
    if value is None:
        yield path
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield from missing_values(part, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from missing_values(part, f"{path}[{index}]")


def _check_names(row: Row, report: Report) -> None:
    """scene_id is <generator>-<seed>, and image_id is <scene_id>/<k>."""
    scene_id, image_id = row["scene_id"], row["image_id"]
    if scene_id != f"{row['generator']}-{row['seed']:010d}" or not SCENE_ID.fullmatch(scene_id):
        report(f"scene_id is {scene_id!r}, with generator {row['generator']!r}, seed {row['seed']}")
    named = IMAGE_ID.fullmatch(image_id)
    if not named or named[1] != scene_id:
        report(f"image_id is {image_id!r}, with scene_id {scene_id!r}")


def _check_provenance(provenance: Row, report: Report) -> None:
    if provenance["samples"] < 1 or not math.isfinite(provenance["exposure_stops"]):
        report("provenance.samples or exposure_stops is out of range")


def _check_categories(objects: list[Row], report: Report) -> None:
    """Compare categories with those of the objects' names."""
    for thing in objects:
        category, is_structure, _ = category_of(thing["name"])
        if (thing["category"], thing["is_structure"]) != (category, is_structure):
            report(
                f"category of {thing['name']} is {thing['category']} "
                f"(is_structure {thing['is_structure']}), not {category} ({is_structure})",
                object=thing["id"],
            )


def decode_images(row: Row, report: Report) -> dict[str, NDArray | None]:
    """Decode the image columns of a row, which are named after it and all have its size."""
    size = (row["height"], row["width"])
    if size[1] != 2 * size[0] or size[0] < 1:
        report(f"is {size[1]} × {size[0]} pixels; the width is not twice the height")
    images = {}
    for name in IMAGE_FILES:
        if name in row:
            expected = f"{row['image_id'].replace('/', '-')}-{IMAGE_FILES[name]}"
            if row[name]["path"] != expected:
                report(f"{name}.path is {row[name]['path']!r}, not {expected!r}")
            images[name] = _decode(row, name, size, report)
    return images


def _decode(row: Row, name: str, size: tuple[int, int], report: Report) -> NDArray | None:
    """Decode an image column; None, with a finding, if it is not as expected."""
    colour = name in ("image", "albedo", "normal")
    dtype = np.uint8 if name in ("image", "albedo") else np.uint16
    shape = (*size, 3) if colour else size
    try:
        array = decode_image(row[name]) if colour else decode_ids(row[name])
    except (UserError, IndexError, cv2.error):  # IndexError: grey instead of colour
        report(f"{name} does not decode")
        return None
    if array.dtype != dtype or array.shape != shape:
        found = f"{' × '.join(map(str, array.shape))} {array.dtype}"
        report(f"{name} is {found}, not {' × '.join(map(str, shape))} {np.dtype(dtype)}")
        return None
    return array


def _check_objects(
    ids: NDArray[np.uint16], objects: list[Row], min_area: int | None, report: Report
) -> None:
    """Recompute all annotations from the id map, and compare."""
    labels = [thing["id"] for thing in objects]
    if sorted(set(labels)) != labels:
        report("objects are not sorted by id, or an id is repeated")
    areas = np.bincount(ids.reshape(-1), minlength=2**16)
    shown = [label for label in set(labels) if 0 < label < len(areas) and areas[label]]
    for label in sorted(set(labels) - set(shown)):
        report("is not in the id map", object=label)
    _check_min_area(areas, objects, shown, min_area, report)

    annotated = np.zeros(2**16, np.uint16)
    annotated[shown] = shown
    infos = {t["id"]: InstanceInfo(t["name"], t["category"], t["is_structure"]) for t in objects}
    truth = {t["id"]: t for t in annotate(annotated[ids], infos, min_area_pixels=1)[0]}
    for thing in objects:
        if expected := truth.get(thing["id"]):
            _check_mask(ids, thing, expected, report)
            for text in differences(thing, expected, degrees_per_pixel=360 / ids.shape[1]):
                report(text, object=thing["id"])


def _check_min_area(
    areas: NDArray[np.int64],
    objects: list[Row],
    shown: list[int],
    min_area: int | None,
    report: Report,
) -> None:
    """Report instances that lack an annotation, and annotations below the smallest area.

    Without a known smallest area, that of the smallest annotation is used.
    """
    if min_area is None:
        min_area = min((int(areas[label]) for label in shown), default=None)
    if min_area is None:
        return
    for label in shown:
        if areas[label] < min_area:
            report(f"has {areas[label]} pixels, less than the run's {min_area}", object=label)
    for label in np.flatnonzero(areas >= min_area).tolist():
        if label and label not in shown:
            report(f"id {label} has {areas[label]} pixels in the id map and no annotation")


def _check_mask(ids: NDArray[np.uint16], thing: Row, expected: Row, report: Report) -> None:
    """Decode the mask with pycocotools, and compare it with the id map."""
    if wrong := wrong_runs(thing["segmentation"], ids.shape):
        report(f"mask {wrong}", object=thing["id"])
        return
    mask = coco.decode(thing["segmentation"]).view(np.bool_)
    x, y, w, h = (int(value) for value in expected["bbox"])
    crop = np.s_[y : y + h, x : x + w]
    common = np.count_nonzero(mask[crop] & (ids[crop] == thing["id"]))
    differing = np.count_nonzero(mask) + expected["area"] - 2 * common
    if differing:
        report(f"mask and id map differ in {differing} pixels", object=thing["id"])


def wrong_runs(segmentation: Row, shape: tuple[int, ...]) -> str:
    """What keeps pycocotools from decoding a mask of a map (H, W); empty if nothing does."""
    if list(segmentation["size"]) != list(shape):
        return f"size is {segmentation['size']}, not {list(shape)}"
    pixels, expected = _pixels(segmentation["counts"]), shape[0] * shape[1]
    if pixels == expected:
        return ""
    return "does not decode" if pixels is None else f"has {pixels} pixels, not {expected}"


def _pixels(counts: str) -> int | None:
    """Sum of COCO's compressed run lengths; None if they are malformed.

    pycocotools does not check this: it returns uninitialised memory after the last run. Each
    character holds 5 bits, lowest first, and a bit for "more follows"; from the fourth run on, a
    run is stored as the difference to the last but one.
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


def differences(
    thing: Row, expected: Row, degrees_per_pixel: float, source: str = "the id map"
) -> Iterator[str]:
    """Fields that differ from those recomputed; the mask is compared in `_check_mask`."""
    for name, truth in expected.items():
        value: Any = thing[name]
        if name == "segmentation" or value == truth:
            continue
        if name == "solid_angle" and math.isclose(value, truth, rel_tol=1e-9):
            continue
        if name == "bfov" and _same_box(value, truth, degrees_per_pixel):
            continue
        yield f"{name} is {value}, by {source} {truth}"


def _same_box(one: list[float], other: list[float], tolerance: float) -> bool:
    """Whether two spherical boxes agree to a pixel, because sines depend on the processor."""
    if len(one) != 4 or not all(map(math.isfinite, one)):
        return False
    first, second = (lonlat_to_direction(*np.radians(box[:2])) for box in (one, other))
    distance = np.degrees(np.arccos(np.clip(np.dot(first, second), -1, 1)))
    return bool(distance < tolerance and np.allclose(one[2:], other[2:], rtol=0, atol=tolerance))
