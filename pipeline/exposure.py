"""Automatic exposure of a rendered panorama."""

from __future__ import annotations

from typing import Any

import numpy as np

MIDDLE_GREY = 0.18
EXPOSURE_STOPS = (-6.0, 10.0)
"""Limits of the exposure, in stops: scenes range from one dim lamp to full sun."""

REC709 = (0.2126, 0.7152, 0.0722)
"""Weights of red, green and blue in luminance (ITU-R BT.709)."""


def automatic_exposure(colour: np.ndarray[Any, np.dtype[np.float32]]) -> float:
    """The exposure that brings a picture's log-average luminance to middle grey.

    Args:
        colour: (H, W, ≥3) float32, scene-linear RGB. Rows are weighted by their solid angle;
            pixels that are not finite count as black.

    Returns:
        Stops, within `EXPOSURE_STOPS`, in thousandths: the last bits of sums of floats differ
        between processes, and every pixel would change with them.

    >>> automatic_exposure(np.full((4, 8, 3), 0.09, np.float32))  # half of middle grey
    1.0
    """
    luminance = colour[..., :3] @ np.array(REC709, dtype=np.float32)
    luminance = np.nan_to_num(luminance, posinf=0.0)
    height = luminance.shape[0]
    weights = np.cos((0.5 - (np.arange(height) + 0.5) / height) * np.pi)
    logs = np.log2(np.maximum(luminance, 1e-6)).mean(axis=1)
    stops = np.log2(MIDDLE_GREY) - np.average(logs, weights=weights)
    return round(float(np.clip(stops, *EXPOSURE_STOPS)), 3)
