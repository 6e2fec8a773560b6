"""Defects that exclude a panorama from the dataset, and their thresholds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

BLACK_MEAN = 3.0
"""Mean grey level (0..255) of a black picture: an unlit room, or a camera inside a wall."""
BLOWN_LEVEL, BLOWN_SHARE = 250, 0.5
"""A panorama is overexposed if this share of its pixels has this level in all three channels."""
CONSTANT_DEVIATION = 1.0
"""Standard deviation of the grey levels of a picture of one flat colour."""
FILLING_SHARE = 0.75
"""If one instance fills this share of the sphere, the camera is inside it or right in front of it.
The four walls of an empty cubic room, seen from its middle, fill 0.67."""


def defects(image: NDArray[np.uint8], objects: Sequence[Mapping[str, Any]]) -> list[str]:
    """The defects of a panorama, in words; an empty list for a good panorama.

    Args:
        image: (H, W, 3) uint8 RGB.
        objects: Its annotations, as `pipeline.annotations.annotate.annotate` returns them.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    (mean,), (deviation,) = (moment.ravel() for moment in cv2.meanStdDev(grey))
    blown = cv2.inRange(image, np.full(3, BLOWN_LEVEL), np.full(3, 255))
    blown_share = cv2.countNonZero(blown) / grey.size

    reasons = []
    if mean < BLACK_MEAN:
        reasons.append(f"black: mean grey level {mean:.1f}")
    if blown_share > BLOWN_SHARE:
        reasons.append(f"blown out: {blown_share:.0%} of the pixels at {BLOWN_LEVEL} or above")
    if deviation < CONSTANT_DEVIATION:
        reasons.append(f"constant: grey levels deviate by {deviation:.1f}")
    for thing in objects:
        share = thing["solid_angle"] / (4 * np.pi)
        if share > FILLING_SHARE:
            reasons.append(f"{thing['name']} fills {share:.0%} of the sphere")
    if all(thing["is_structure"] for thing in objects):
        reasons.append("no objects, only structure or nothing")
    return reasons
