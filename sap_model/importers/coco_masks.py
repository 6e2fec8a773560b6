"""COCO's segmentations to masks: polygons and both kinds of run-length encoding."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco
from rlemasklib import RLEMask

FARTHEST = 2
"""Widths of the picture beyond which a polygon's point is no slip of the hand; drawing it would
take very long."""

SLACK = 1.0
"""Pixels beyond the border that tools write for the border itself."""


class BadMaskError(ValueError):
    """A segmentation that is no mask of its picture; the text says why."""


def is_given(segmentation: Any) -> bool:
    """Whether there is a segmentation at all, as opposed to a box or keypoints only."""
    if isinstance(segmentation, list):
        return any(part != [] for part in segmentation)
    return segmentation not in (None, {}, "")


def to_mask(segmentation: Any, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """A segmentation as a mask (H, W).

    Raises:
        BadMaskError: It is neither polygons nor a run-length encoding, or of another size.
    """
    if isinstance(segmentation, dict):
        return _from_runs(segmentation, shape)
    if not isinstance(segmentation, list):
        raise BadMaskError("it is neither polygons nor a run-length encoding")
    polygons = [part for part in segmentation if part != []]
    for polygon in polygons:
        if not isinstance(polygon, list):
            raise BadMaskError("it is no list of polygons")
        if len(polygon) < 6 or len(polygon) % 2:
            raise BadMaskError(f"a polygon has {len(polygon) / 2:g} points")
        for value in polygon:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise BadMaskError(f"a polygon has the coordinate {str(value)[:40]!r}")
            if not abs(value) <= FARTHEST * shape[1]:  # NaN is not either
                raise BadMaskError(f"a polygon has the coordinate {str(value)[:40]}")
    if not polygons:
        return np.zeros(shape, bool)
    parts = coco.frPyObjects([list(map(float, polygon)) for polygon in polygons], *shape)
    return coco.decode(coco.merge(parts)).view(np.bool_)


def overshoot(segmentation: Any, shape: tuple[int, int]) -> str:
    """Where polygons that `to_mask` takes reach beyond the picture, in words; empty if nowhere."""
    if not isinstance(segmentation, list):
        return ""
    points = [value for polygon in segmentation for value in polygon]
    if not points:
        return ""
    for name, values, size in (("x", points[0::2], shape[1]), ("y", points[1::2], shape[0])):
        if min(values) < -SLACK or max(values) > size + SLACK:
            return f"{name} from {min(values):g} to {max(values):g}"
    return ""


def _from_runs(encoding: dict[str, Any], shape: tuple[int, int]) -> NDArray[np.bool_]:
    height, width = shape
    size, counts = encoding.get("size"), encoding.get("counts")
    if size != [height, width]:
        hint = " (width before height)" if size == [width, height] else ""
        raise BadMaskError(f"its size is {str(size)[:40]}{hint} instead of {[height, width]}")
    # rlemasklib checks that the runs fill the picture; pycocotools reads past their end
    if isinstance(counts, list):
        if not all(isinstance(run, int) and 0 <= run <= height * width for run in counts):
            raise BadMaskError("its counts are no runs of pixels")
        if sum(counts) != height * width:
            raise BadMaskError(f"its counts are {sum(counts)} pixels instead of {height * width}")
    elif not (isinstance(counts, str) and counts.isascii()):
        raise BadMaskError("it has no counts")
    key = "ucounts" if isinstance(counts, list) else "counts"
    try:
        rle = RLEMask.from_dict({"size": [height, width], key: counts})
        return rle.to_array().view(np.bool_)
    except (ValueError, OverflowError) as error:
        raise BadMaskError((str(error).splitlines() or ["its counts are damaged"])[0]) from None
