"""The simulated click: the point of a mask that is farthest from its boundary.

The paper's protocol (section 5.2) and SAM2's own code (`sample_one_point_from_error_center` with
padding): surround the mask by zeros, take the exact Euclidean distance transform, click on its
first maximum in row order. In a panorama the left and right border are no boundary, so the mask
is rolled first; the first and last row are.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.annotations.boxes import WrappedCrop, coco_box, wrapped_crop


class ClickPoint(NamedTuple):
    """A pixel of a panorama and its distance, in pixels, to the nearest one outside the mask.

    SAM2's correction click goes to whichever error region has the larger `distance`.
    """

    x: int
    y: int
    distance: float


def click_mask(mask: NDArray[np.bool_]) -> ClickPoint | None:
    """The click of any mask (H, W) of a panorama; None for an empty one.

    >>> mask = np.zeros((8, 16), bool)
    >>> mask[2:7, [15, 0, 1]] = True  # across the seam
    >>> click_mask(mask)
    ClickPoint(x=0, y=3, distance=2.0)
    """
    bbox = coco_box(mask)
    return click_crop(wrapped_crop(mask, True, bbox)) if bbox else None


def click_crop(crop: WrappedCrop) -> ClickPoint:
    """The click of an instance that is already cut out; same as `click_mask` on its mask."""
    h, w = crop.mask.shape
    # Zeros right outside the crop bound every distance by half its height, so that many columns
    # of a periodic crop's other end are enough to see round it.
    around = (h + 1) // 2 if crop.is_periodic else 0
    mask = np.pad(crop.mask.view(np.uint8), ((0, 0), (around, around)), mode="wrap")
    distance = cv2.distanceTransform(np.pad(mask, 1), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    distance = distance[1:-1, 1 + around : 1 + around + w]
    # OpenCV's last bit depends on the processor and on the position in the array. Squared
    # distances between pixels are whole numbers, which tell equal ones from nearly equal ones.
    rows, columns = np.nonzero(distance > distance.max() * (1 - 1e-6))
    squared = np.rint(distance[rows, columns].astype(np.float64) ** 2)
    first = int(np.argmax(squared))
    x = (crop.x + int(columns[first])) % crop.width
    return ClickPoint(x, crop.y + int(rows[first]), float(np.sqrt(squared[first])))
