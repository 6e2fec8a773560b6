"""Values of any depth to the 8 bits that models and shards hold.

Integers of more than 8 bits are scaled by the bits that they use: the smallest of `DEPTHS` that
holds the brightest value apart from hot pixels, or as many as the file declares. Floats are taken
for scene-linear light: they get the pipeline's automatic exposure, and then sRGB's curve.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.exposure import REC709, automatic_exposure

DEPTHS = (8, 10, 12, 14, 16)

MOST_HOT = 1e-4
"""Share of values that hot pixels may be; a single pixel may be hot in any picture."""

ROWS = 256
"""Rows of floats that are converted at a time, so that no copies of a large picture pile up."""


class NoLightError(Exception):
    """A picture of floats in which no value is positive."""


def integers_to_8_bits(
    values: NDArray[np.uint16], declared: int = 16
) -> tuple[NDArray[np.uint8], int, int]:
    """Scale by the bits in use.

    Hot pixels of a sensor are white in a picture of 10 to 14 bits that is stored with 16. They are
    few, have the highest bit set, and nothing lies between them and the values of the picture,
    whereas lights in a dark picture of 16 bits have borders of all values. They become white.

    Args:
        values: Any shape.
        declared: Bits that the file says are in use.

    Returns:
        The values as uint8, the bits, and how many values are hot.

    Example:
        >>> integers_to_8_bits(np.array([0, 2047, 4095], np.uint16))
        (array([  0, 127, 255], dtype=uint8), 12, 0)
    """
    bits, hot = _depth(int(values.max(initial=0))), 0
    if bits == 16:
        is_hot = values >= 2**15
        few = np.count_nonzero(is_hot)
        rest = _depth(int(values.max(initial=0, where=~is_hot)))
        if few <= max(3, MOST_HOT * values.size) and 8 < rest < 16:
            bits, hot = rest, few
    bits = declared if bits <= declared < 16 else bits
    full = 2**bits - 1
    table = np.rint(np.minimum(np.arange(2**16), full) * (255 / full)).astype(np.uint8)
    return table[values], bits, hot


def _depth(brightest: int) -> int:
    return next(depth for depth in DEPTHS if brightest < 2**depth)


def light_to_8_bits(light: NDArray[np.float32]) -> tuple[NDArray[np.uint8], float]:
    """Expose and encode scene-linear light.

    Args:
        light: (H, W, 3) linear RGB in any unit; what is no number or negative counts as black, and
            what is infinite as white.

    Returns:
        (H, W, 3) sRGB, and the exposure in stops.

    Raises:
        NoLightError: No value is positive and finite.
    """
    with np.errstate(all="ignore"):  # of values that are no numbers
        luminance = light @ np.array(REC709, np.float32)
        lit = luminance[np.isfinite(luminance) & (luminance > 0)]
        if not lit.size:
            raise NoLightError
        # the automatic exposure is meant for a render's units: others are brought near to them
        unit = -round(float(np.log2(lit.mean(dtype=np.float64))))
        near = np.ldexp(light, unit)
        stops = automatic_exposure(near)
        gain = np.float32(2.0**stops)
        return _encode(near, gain), unit + stops


def _encode(light: NDArray[np.float32], gain: np.float32) -> NDArray[np.uint8]:
    encoded = np.empty(light.shape, np.uint8)
    for top in range(0, len(light), ROWS):
        rows = np.nan_to_num(light[top : top + ROWS], nan=0.0, posinf=np.inf, neginf=0.0)
        encoded[top : top + ROWS] = np.rint(srgb(np.clip(rows * gain, 0, 1)) * 255)
    return encoded


def srgb(linear: NDArray[np.float32]) -> NDArray[np.float32]:
    """sRGB's curve (IEC 61966-2-1) over values from 0 to 1.

    >>> srgb(np.array([0, 0.18, 1], np.float32)).round(3)
    array([0.   , 0.461, 1.   ], dtype=float32)
    """
    curve = 1.055 * np.power(linear, 1 / 2.4, dtype=np.float32) - 0.055
    return np.where(linear <= 0.0031308, linear * 12.92, curve).astype(np.float32, copy=False)
