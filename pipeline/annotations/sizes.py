"""Size classes small, medium and large, and their area thresholds.

COCO's thresholds are 32² and 96² pixels (cocodataset.org, "Metrics"), for images of nominally
640 × 480. The paper rescales them to 4K panoramas without stating the factor; here it is the ratio
of pixel counts, 27.3 at 4096 × 2048. Rows store each object's area, so other thresholds can be
applied later.
"""

from __future__ import annotations

from typing import Literal

Size = Literal["small", "medium", "large"]

SIZES: tuple[Size, ...] = ("small", "medium", "large")
COCO_IMAGE_PIXELS = 640 * 480
COCO_IMAGE_WIDTH = 640
COCO_SMALL, COCO_MEDIUM = 32**2, 96**2
"""Areas below the first are small, below the second medium; pixels of a COCO image."""

PAPER_MIX_PERCENT: dict[Size, float] = {"small": 37.84, "medium": 25.70, "large": 36.47}
"""Shares of the masks in the paper's dataset ("Segment Any 4K Panorama", dataset statistics)."""
PAPER_MASKS_PER_PANORAMA = 34.9
"""Mean number of masks per panorama in the paper's dataset (same section)."""


def size_thresholds(width: int, height: int) -> tuple[float, float]:
    """The areas, in pixels, from which objects are medium and large in a panorama.

    >>> [round(area) for area in size_thresholds(4096, 2048)]
    [27962, 251658]
    """
    ratio = width * height / COCO_IMAGE_PIXELS
    return COCO_SMALL * ratio, COCO_MEDIUM * ratio


SIZE_READINGS = ("coco", "pixels", "side")
"""What "COCO's thresholds, rescaled to 4K" may mean: as they are; scaled by the number of pixels,
which decides `size` in a row; or by the length of a side."""


def reading_scale(reading: str, width: int, height: int) -> float:
    """What a reading multiplies COCO's areas by, in a panorama of width × height pixels.

    >>> [round(reading_scale(reading, 4096, 2048), 2) for reading in SIZE_READINGS]
    [1.0, 27.31, 40.96]
    """
    return {
        "coco": 1.0,
        "pixels": width * height / COCO_IMAGE_PIXELS,
        "side": (width / COCO_IMAGE_WIDTH) ** 2,
    }[reading]


def size_of(area: float, width: int, height: int) -> Size:
    """The size class of an object of `area` pixels in a panorama of width × height pixels."""
    medium, large = size_thresholds(width, height)
    if area < medium:
        return "small"
    return "medium" if area < large else "large"
