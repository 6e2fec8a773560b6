"""Instance id map to annotations: one dictionary per instance, as the shards store it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco
from rlemasklib import RLEMask

from pipeline.annotations.boxes import (
    Box,
    WrappedCrop,
    bfov,
    crosses_seam,
    touches_pole,
    wrapped_crop,
)
from pipeline.annotations.click_point import click_crop
from pipeline.annotations.sizes import size_of
from pipeline.sphere import Floats, pixel_solid_angles

Ids = NDArray[np.uint16]
LABELS_PER_CALL = 255
"""`RLEMask.from_label_map` takes 8-bit labels, of which 0 is the background."""


class InstanceInfo(NamedTuple):
    """The scene's description of an instance.

    Attributes:
        name: The object's name in the scene.
        category: Its category, from `pipeline.categories`.
        is_structure: Whether it is a wall, floor, ceiling or other structure, not an object.
    """

    name: str
    category: str
    is_structure: bool


def annotate(
    ids: Ids, instances: Mapping[int, InstanceInfo], min_area_pixels: int
) -> tuple[list[dict[str, Any]], int]:
    """Annotate every instance of a panorama.

    Args:
        ids: (H, W) uint16 instance ids; 0 is no instance.
        instances: Descriptions by id; ids that do not occur in the map are ignored.
        min_area_pixels: Smaller instances get no annotation (their pixels keep their id).

    Returns:
        objects: Dictionaries with the fields of `objects` in `pipeline.shards.schema`, by id.
        dropped: The number of instances without annotation.

    Raises:
        ValueError: The map holds an id that is not in `instances`.
    """
    height, width = ids.shape
    areas = np.bincount(ids.reshape(-1), minlength=1)
    present = [int(label) for label in np.flatnonzero(areas) if label]
    unknown = [label for label in present if label not in instances]
    if unknown:
        raise ValueError(f"the id map holds ids that scene.json does not list: {unknown}")
    kept = [label for label in present if areas[label] >= min_area_pixels]
    row_solid_angles = pixel_solid_angles(width, height)

    objects = []
    for label, bbox, counts in _encode(ids, kept):
        crop = wrapped_crop(ids, label, bbox)
        objects.append(_describe(crop, label, instances[label], bbox, counts, row_solid_angles))
    return objects, len(present) - len(kept)


def annotate_mask(mask: NDArray[np.bool_], label: int, instance: InstanceInfo) -> dict[str, Any]:
    """Annotate a single mask with the fields of `annotate`; masks may overlap each other.

    Args:
        mask: (H, W) bool.
        label: The instance's id.
        instance: The instance's description.

    Raises:
        ValueError: The mask is empty.
    """
    rle = RLEMask.from_array(mask)
    x, y, w, h = (int(value) for value in rle.bbox())
    if not w:
        raise ValueError(f"the mask of instance {label} is empty")
    crop = wrapped_crop(mask, True, (x, y, w, h))
    row_solid_angles = pixel_solid_angles(crop.width, crop.height)
    counts = rle.to_dict()["counts"].decode("ascii")
    return _describe(crop, label, instance, (x, y, w, h), counts, row_solid_angles)


def _describe(
    crop: WrappedCrop,
    label: int,
    instance: InstanceInfo,
    bbox: Box,
    counts: str,
    row_solid_angles: Floats,
) -> dict[str, Any]:
    """The annotation of an instance; `counts` is its run-length encoded mask."""
    click = click_crop(crop)
    row_pixels = np.count_nonzero(crop.mask, axis=1)
    area = int(row_pixels.sum())
    name, category, is_structure = instance
    return {
        "id": label,
        "category": category,
        "name": name,
        "is_structure": is_structure,
        "area": area,
        "solid_angle": math.fsum(row_pixels * row_solid_angles[crop.y :][: len(row_pixels)]),
        "size": size_of(area, crop.width, crop.height),
        "bbox": [float(value) for value in bbox],
        "bbox_wrapped": [float(value) for value in crop.box],
        "crosses_seam": crosses_seam(crop),
        "touches_pole": touches_pole(crop),
        "bfov": list(bfov(crop)),
        "click": [click.x, click.y],
        "iscrowd": 0,
        "segmentation": {"size": [crop.height, crop.width], "counts": counts},
    }


def paint_ids(objects: Iterable[Mapping[str, Any]], shape: tuple[int, ...]) -> Ids:
    """The id map (H, W) of annotated masks that may overlap: smaller ones lie in front."""
    ids = np.zeros(shape, np.uint16)
    for thing in sorted(objects, key=lambda thing: thing["area"], reverse=True):
        x, y, w, h = map(int, thing["bbox"])
        mask = coco.decode(thing["segmentation"]).view(np.bool_)
        ids[y : y + h, x : x + w][mask[y : y + h, x : x + w]] = thing["id"]
    return ids


def _encode(ids: Ids, labels: list[int]) -> Iterator[tuple[int, Box, str]]:
    """Label, COCO bbox and COCO's compressed run-length counts of each label, in order."""
    for start in range(0, len(labels), LABELS_PER_CALL):
        chunk = labels[start : start + LABELS_PER_CALL]
        to_8_bit = np.zeros(2**16, np.uint8)  # 0 for labels outside the chunk
        to_8_bit[chunk] = np.arange(1, len(chunk) + 1)
        masks = RLEMask.from_label_map(to_8_bit[ids])
        for index, label in enumerate(chunk, start=1):
            x, y, w, h = (int(value) for value in masks[index].bbox())
            yield label, (x, y, w, h), masks[index].to_dict()["counts"].decode("ascii")
