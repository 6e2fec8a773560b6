"""How well a predicted mask of a panorama matches the true one. NumPy and OpenCV, no torch.

`iou` is the paper's metric (section 5.2); it counts pixels. Equirectangular pixels shrink towards
the poles, so that it weighs a lamp overhead more than one ahead: `spherical_iou` weighs each pixel
with its solid angle. Both are blind to ragged borders of large objects, which `boundary_iou` sees.

All of them are symmetric, lie in [0, 1], and are 1 for two empty masks (0 / 0): a model that
predicts nothing where nothing is has made no error. All are unchanged when the panorama is rolled.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.annotations.boxes import coco_box, wrapped_crop
from pipeline.sphere import pixel_solid_angles, take_columns

Mask = NDArray[np.bool_]

BOUNDARY_SHARE = 0.02
"""Width of the boundary band as a share of the image's diagonal (Cheng et al., "Boundary IoU",
CVPR 2021, the default of its reference code). At 4096 × 2048 it is 92 pixels, or 8° at the equator.
That is wide as an angle, but the paper scales COCO's size thresholds by pixels as well: an object
has to be as large compared to its size class as in COCO before the band leaves out its inside."""


class Scores(NamedTuple):
    """The three scores of one prediction, each in [0, 1]."""

    iou: float
    spherical_iou: float
    boundary_iou: float


def score(prediction: Mask, truth: Mask) -> Scores:
    """All scores of a prediction, in one pass over its and the truth's common box.

    Args:
        prediction: (H, W) bool.
        truth: (H, W) bool.
    """
    pair = _Pair.cut(prediction, truth)
    if pair is None:
        return Scores(1.0, 1.0, 1.0)
    return Scores(pair.iou(), pair.spherical_iou(), pair.boundary_iou())


def iou(prediction: Mask, truth: Mask) -> float:
    """Intersection over union of two masks (H, W), in pixels.

    >>> left, both = np.eye(2, 4, dtype=bool), np.ones((2, 4), bool)
    >>> iou(left, both)
    0.25
    """
    return _ratio(np.count_nonzero(prediction & truth), np.count_nonzero(prediction | truth))


def spherical_iou(prediction: Mask, truth: Mask) -> float:
    """Intersection over union of two masks (H, W), in solid angle."""
    pair = _Pair.cut(prediction, truth)
    return pair.spherical_iou() if pair else 1.0


def boundary_iou(prediction: Mask, truth: Mask) -> float:
    """Intersection over union of the boundary bands of two masks (H, W).

    The band of a mask is what a square of 2d + 1 pixels takes away when it erodes the mask, with d
    as `boundary_width` gives it: its pixels that have one outside within d columns and d rows.
    Columns wrap; beyond the first and last row everything is outside, as in the original.
    """
    pair = _Pair.cut(prediction, truth)
    return pair.boundary_iou() if pair else 1.0


def boundary_width(width: int, height: int) -> int:
    """Width of the boundary band in pixels, at least 1."""
    return max(1, round(BOUNDARY_SHARE * math.hypot(width, height)))


class _Pair(NamedTuple):
    """Two masks, cut out along the smallest periodic box that holds both."""

    prediction: Mask  # (h, w)
    truth: Mask  # (h, w)
    y: int  # the panorama's row of their first row
    width: int  # of the panorama
    height: int

    @classmethod
    def cut(cls, prediction: Mask, truth: Mask) -> _Pair | None:
        """The cut of two masks (H, W); None if both are empty."""
        union = prediction | truth
        bbox = coco_box(union)
        if bbox is None:
            return None
        crop = wrapped_crop(union, True, bbox)
        x, y, w, h = crop.box
        return cls(
            take_columns(prediction[y : y + h], x, w),
            take_columns(truth[y : y + h], x, w),
            y,
            crop.width,
            crop.height,
        )

    def iou(self) -> float:
        return iou(self.prediction, self.truth)

    def spherical_iou(self) -> float:
        weights = pixel_solid_angles(self.width, self.height)[self.y :]
        both, either = (
            math.fsum(_row_counts(mask) * weights[: len(mask)])
            for mask in (self.prediction & self.truth, self.prediction | self.truth)
        )
        return _ratio(both, either)

    def boundary_iou(self) -> float:
        band = boundary_width(self.width, self.height)
        periodic = self.prediction.shape[1] == self.width
        return iou(_band(self.prediction, band, periodic), _band(self.truth, band, periodic))


def _ratio(both: float, either: float) -> float:
    return both / either if either else 1.0


def _row_counts(mask: Mask) -> NDArray[np.int32]:
    """Number of pixels in each row of a mask (h, w)."""
    ones = np.ascontiguousarray(mask).view(np.uint8)
    return np.asarray(cv2.reduce(ones, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S), np.int32).ravel()


def _band(mask: Mask, band: int, periodic: bool) -> Mask:
    """Pixels of a cut-out mask (h, w) with one outside it at max(|dx|, |dy|) <= band.

    Beyond a cut that is not periodic there is at least one empty column, and at most as many as
    there are between the two ends of the panorama's gap; the nearest one decides.
    """
    around = band if periodic else 0
    ones = np.pad(mask.view(np.uint8), ((0, 0), (around, around)), mode="wrap")
    # exact for this distance, and quicker than an erosion by a large square
    distance = cv2.distanceTransform(np.pad(ones, 1), cv2.DIST_C, cv2.DIST_MASK_3)
    distance = distance[1:-1, 1 + around : 1 + around + mask.shape[1]]
    return mask & (distance <= band)
