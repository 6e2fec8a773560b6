"""Small, medium and large: the one place of the area thresholds.

COCO splits objects at 32² and 96² pixels (cocodataset.org, "Metrics"), in images of nominally
640 × 480. The paper rescales these to 4K panoramas without saying by how much; we scale by the
ratio of pixel counts, which at 4096 × 2048 is × 27.3. Rows also store each object's area, so
another split can be recomputed from them.
"""

from __future__ import annotations

from typing import Literal

Size = Literal["small", "medium", "large"]

SIZES: tuple[Size, ...] = ("small", "medium", "large")
COCO_IMAGE_PIXELS = 640 * 480
COCO_SMALL, COCO_MEDIUM = 32**2, 96**2
"""Areas below the first are small, below the second medium, in pixels of a COCO image."""

PAPER_MIX_PERCENT: dict[Size, float] = {"small": 37.84, "medium": 25.70, "large": 36.47}
"""Shares of the masks of the paper's dataset ("Segment Any 4K Panorama", dataset statistics)."""
PAPER_MASKS_PER_PANORAMA = 34.9
"""Mean number of masks per panorama of the paper's dataset (same place)."""


def size_thresholds(width: int, height: int) -> tuple[float, float]:
    """Areas in pixels at which medium and large objects begin in a panorama of this size.

    >>> [round(area) for area in size_thresholds(4096, 2048)]
    [27962, 251658]
    """
    ratio = width * height / COCO_IMAGE_PIXELS
    return COCO_SMALL * ratio, COCO_MEDIUM * ratio


def size_of(area: float, width: int, height: int) -> Size:
    """The size class of an object of `area` pixels in a panorama of width × height pixels."""
    medium, large = size_thresholds(width, height)
    if area < medium:
        return "small"
    return "medium" if area < large else "large"
