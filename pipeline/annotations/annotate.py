"""An instance id map to annotations: one dictionary per instance, as the shards store it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
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
LABELS = 255
"""Most labels that `RLEMask.from_label_map` takes at once (8 bits; 0 is none of them)."""


class InstanceInfo(NamedTuple):
    """What the scene says about an instance id.

    `is_structure` marks walls, floors, ceilings and the like, as opposed to objects.
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
        instances: What each id is; ids that this panorama does not show are ignored.
        min_area_pixels: Smaller instances are left out (their pixels keep their id in the map).

    Returns:
        objects: Dictionaries with the fields of `objects` in `pipeline.shards.schema`, by id.
        dropped: How many instances were left out.

    Raises:
        ValueError: The map holds an id that is not in `instances`.
    """
    height, width = ids.shape
    areas = np.bincount(ids.reshape(-1), minlength=1)
    present = [int(label) for label in np.flatnonzero(areas) if label]
    unknown = [label for label in present if label not in instances]
    if unknown:
        raise ValueError(f"the id map holds instance ids that the scene does not name: {unknown}")
    kept = [label for label in present if areas[label] >= min_area_pixels]
    row_solid_angles = pixel_solid_angles(width, height)

    objects = []
    for label, bbox, counts in _encode(ids, kept):
        crop = wrapped_crop(ids, label, bbox)
        objects.append(_describe(crop, label, instances[label], bbox, counts, row_solid_angles))
    return objects, len(present) - len(kept)


def annotate_mask(mask: NDArray[np.bool_], label: int, instance: InstanceInfo) -> dict[str, Any]:
    """Annotate one mask, which may overlap others, with the fields that `annotate` gives.

    Args:
        mask: (H, W) bool.
        label: Its id.
        instance: What it is.

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
    """The annotation of an instance that is cut out; `counts` is its mask, run-length encoded."""
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


def _encode(ids: Ids, labels: list[int]) -> Iterator[tuple[int, Box, str]]:
    """Label, COCO bbox and COCO's compressed run-length counts of each label, in order."""
    for start in range(0, len(labels), LABELS):
        chunk = labels[start : start + LABELS]
        small = np.zeros(2**16, np.uint8)  # id to 8-bit label, 0 for those not in this chunk
        small[chunk] = np.arange(1, len(chunk) + 1)
        masks = RLEMask.from_label_map(small[ids])
        for index, label in enumerate(chunk, start=1):
            x, y, w, h = (int(value) for value in masks[index].bbox())
            yield label, (x, y, w, h), masks[index].to_dict()["counts"].decode("ascii")
