"""The simulated click: the point of a mask that is farthest from its boundary.

As in the paper's protocol (section 5.2) and in SAM2's `sample_one_point_from_error_center` with
padding: surround the mask with zeros, compute the exact Euclidean distance transform, and click on
its first maximum in row order. In a panorama, the top and bottom rows are boundaries, but the left
and right borders are not: there the mask continues on the other side.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.annotations.boxes import WrappedCrop, coco_box, wrapped_crop


class ClickPoint(NamedTuple):
    """A pixel (x, y) of a panorama and its distance, in pixels, to the nearest pixel off the mask.

    SAM2 places its correction click in the error region with the larger `distance`.
    """

    x: int
    y: int
    distance: float


def click_mask(mask: NDArray[np.bool_]) -> ClickPoint | None:
    """The click of a mask (H, W) of a panorama; None for an empty mask.

    >>> mask = np.zeros((8, 16), bool)
    >>> mask[2:7, [15, 0, 1]] = True  # across the seam
    >>> click_mask(mask)
    ClickPoint(x=0, y=3, distance=2.0)
    """
    bbox = coco_box(mask)
    return click_crop(wrapped_crop(mask, True, bbox)) if bbox else None


def click_crop(crop: WrappedCrop) -> ClickPoint:
    """The click of an instance's crop; equal to `click_mask` of its full-frame mask."""
    h, w = crop.mask.shape
    # The zeros above and below the crop bound every distance by half its height, so a periodic
    # crop needs no more columns than that from its other end.
    margin = (h + 1) // 2 if crop.is_periodic else 0
    mask = np.pad(crop.mask.view(np.uint8), ((0, 0), (margin, margin)), mode="wrap")
    distance = cv2.distanceTransform(np.pad(mask, 1), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    distance = distance[1:-1, 1 + margin : 1 + margin + w]
    # The last bits of OpenCV's distances depend on the processor and the position in the array.
    # Squared distances between pixels are integers, so rounding them compares exactly.
    rows, columns = np.nonzero(distance > distance.max() * (1 - 1e-6))
    squared = np.rint(distance[rows, columns].astype(np.float64) ** 2)
    first = int(np.argmax(squared))
    x = (crop.x + int(columns[first])) % crop.width
    return ClickPoint(x, crop.y + int(rows[first]), float(np.sqrt(squared[first])))
