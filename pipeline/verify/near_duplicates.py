"""Near-duplicate panoramas, independent of the camera's heading.

Turning the camera about the vertical axis rolls the columns of a panorama. In the Fourier transform
along a row, the roll changes phases but not magnitudes, and by Parseval's theorem two pictures
differ, at any roll, by at least as much as their magnitudes. So only pairs with close magnitudes
need a comparison of the pictures themselves.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 32, 16
"""Pictures are compared at this size: 11° per pixel, which averages out noise."""

FREQUENCIES = 6
"""Number of lowest frequencies kept per row, 2 bytes each."""

TOLERANCE = 2.0
"""Root mean square difference, in grey levels, of two near duplicates. The closest two of 20
rendered panoramas, two of each scene, differ by 28."""

PARTNERS = 10
"""Maximum number of pairs per panorama, so that frequent duplicates do not cost quadratic time."""

BLOCK = 2048
"""Number of panoramas compared at once, which bounds the memory to 16 MiB."""

Magnitudes = NDArray[np.float16]


def thumbnail(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Reduce a picture (H, W, 3) uint8 RGB to grey levels (HEIGHT, WIDTH)."""
    small = cv2.resize(image, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)


def magnitudes(small: NDArray[np.float32]) -> Magnitudes:
    """Fourier magnitudes (HEIGHT * FREQUENCIES,) of a thumbnail, which do not depend on its roll.

    They are scaled so that the Euclidean distance of two is at most the root mean square difference
    of their thumbnails at any roll.
    """
    spectrum = np.abs(np.fft.rfft(small, axis=1))[:, :FREQUENCIES]
    weights = np.full(FREQUENCIES, 2.0)  # a frequency and its negative
    weights[0] = 1.0
    return (spectrum * np.sqrt(weights / HEIGHT) / WIDTH).astype(np.float16).ravel()


def pack(found: Magnitudes) -> str:
    """Encode magnitudes as text of 256 characters."""
    return base64.b64encode(found.astype("<f2").tobytes()).decode("ascii")


def unpack(text: str) -> Magnitudes:
    """Decode the text of `pack`."""
    return np.frombuffer(base64.b64decode(text), "<f2").astype(np.float16)


def difference(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Root mean square difference of two thumbnails at the best roll.

    Σ |a - b|² = Σ |a|² + Σ |b|² - 2 Σ a b, and a Fourier transform gives the correlation Σ a b of
    all rolls at once.
    """
    product = np.fft.rfft(one, axis=1) * np.conj(np.fft.rfft(other, axis=1))
    correlation = np.fft.irfft(product.sum(axis=0), WIDTH).max()
    total = np.square(one, dtype=np.float64).sum() + np.square(other, dtype=np.float64).sum()
    return float(np.sqrt(max(total - 2 * correlation, 0.0) / one.size))


def candidates(found: NDArray[np.float16]) -> Iterator[tuple[int, int]]:
    """Pairs (i, j), i < j, of close rows of an array (N, D); at most `PARTNERS` pairs per j."""
    margin = 0.25  # rounding of float16
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
