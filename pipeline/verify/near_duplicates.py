"""Panoramas that show the same, whichever way the camera was turned.

A panorama turned about the vertical axis is the same picture with its columns rolled. A Fourier
transform along the columns turns the roll into phases, so its magnitudes are the same; and by
Parseval's theorem two pictures differ by at least as much as their magnitudes do, whatever the
roll. So pairs whose magnitudes differ by more than the tolerance need not be looked at.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 32, 16
"""Size at which pictures are compared: 11° a pixel, in which noise has averaged out."""

FREQUENCIES = 6
"""Lowest frequencies of each row that are kept; 2 bytes each."""

TOLERANCE = 2.0
"""Grey levels (root of the mean square) up to which two pictures are called the same. Of 20
rendered panoramas, two of each scene, no two are closer than 28."""

PARTNERS = 10
"""A picture that occurs a thousand times need not be compared with all of the others."""

BLOCK = 2048
"""Panoramas that are compared at once; bounds the memory to 16 MiB."""

Magnitudes = NDArray[np.float16]


def thumbnail(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A picture (H, W, 3) RGB at the size of comparison: (HEIGHT, WIDTH) grey levels."""
    small = cv2.resize(image, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)


def magnitudes(small: NDArray[np.float32]) -> Magnitudes:
    """What a thumbnail and all its rolls have in common: (HEIGHT * FREQUENCIES,).

    Scaled so that the Euclidean distance of two is at most the root mean square difference of
    their thumbnails, at any roll.
    """
    spectrum = np.abs(np.fft.rfft(small, axis=1))[:, :FREQUENCIES]
    twice = np.full(FREQUENCIES, 2.0)  # a frequency and its negative twin
    twice[0] = 1.0
    return (spectrum * np.sqrt(twice / HEIGHT) / WIDTH).astype(np.float16).ravel()


def pack(found: Magnitudes) -> str:
    """Magnitudes as text, 256 characters."""
    return base64.b64encode(found.astype("<f2").tobytes()).decode("ascii")


def unpack(text: str) -> Magnitudes:
    """The inverse of `pack`."""
    return np.frombuffer(base64.b64decode(text), "<f2").astype(np.float16)


def difference(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Root mean square difference of two thumbnails at the roll where it is smallest.

    Sum |a - b|² = sum |a|² + sum |b|² - 2 times the correlation, which a Fourier transform gives
    for all rolls at once.
    """
    product = np.fft.rfft(one, axis=1) * np.conj(np.fft.rfft(other, axis=1))
    correlation = np.fft.irfft(product.sum(axis=0), WIDTH).max()
    total = np.square(one, dtype=np.float64).sum() + np.square(other, dtype=np.float64).sum()
    return float(np.sqrt(max(total - 2 * correlation, 0.0) / one.size))


def candidates(found: NDArray[np.float16]) -> Iterator[tuple[int, int]]:
    """Pairs (i, j), i < j, of rows (N, D) that may show the same; at most `PARTNERS` of each j."""
    margin = 0.25  # float16 keeps three digits
    for i in range(0, len(found), BLOCK):
        first = found[i : i + BLOCK].astype(np.float32)
        for j in range(i, len(found), BLOCK):
            second = found[j : j + BLOCK].astype(np.float32)
            squares = np.square(first).sum(1)[:, None] + np.square(second).sum(1)
            squares -= 2 * first @ second.T
            close = squares < (TOLERANCE + margin) ** 2
            if i == j:
                close = np.triu(close, 1)
            for b in np.flatnonzero(close.any(axis=0)).tolist():
                for a in np.flatnonzero(close[:, b])[:PARTNERS].tolist():
                    yield i + a, j + b
