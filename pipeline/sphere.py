"""Equirectangular pixels, longitude and latitude, unit directions. NumPy only.

A panorama has W × H pixels with W = 2H. Pixel (0, 0) is at the top left, and integer coordinates
are pixel centres, so the panorama reaches from -0.5 to W - 0.5:

    lon = ((x + 0.5) / W - 0.5) * 2 pi      -pi at the left border, pi at the right one
    lat = (0.5 - (y + 0.5) / H) * pi        pi/2 at the top border, -pi/2 at the bottom one

Directions are right-handed with Z up; longitude grows to the right:

    (lon, lat) = (0, 0) is +Y, (90°, 0) is +X, (., 90°) is +Z

These are the world axes of a Blender panorama camera with rotation (90°, 0, 0). Angles are in
radians.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def pixel_to_lonlat(x: ArrayLike, y: ArrayLike, width: int, height: int) -> tuple[Floats, Floats]:
    """Longitude and latitude of pixel coordinates, elementwise; x may lie outside [0, W).

    >>> lon, lat = pixel_to_lonlat(2047.5, 1023.5, 4096, 2048)
    >>> float(lon), float(lat)
    (0.0, 0.0)
    """
    lon = ((np.asarray(x, np.float64) + 0.5) / width - 0.5) * (2 * np.pi)
    lat = (0.5 - (np.asarray(y, np.float64) + 0.5) / height) * np.pi
    return lon, lat


def lonlat_to_pixel(
    lon: ArrayLike, lat: ArrayLike, width: int, height: int
) -> tuple[Floats, Floats]:
    """The inverse of `pixel_to_lonlat`, with x in [-0.5, W - 0.5).

    Returns:
        x, y: Real-valued pixel coordinates; `nearest_pixel` converts them to indices.
    """
    x = (np.asarray(lon, np.float64) / (2 * np.pi) + 0.5) % 1.0 * width - 0.5
    y = (0.5 - np.asarray(lat, np.float64) / np.pi) * height - 0.5
    return x, y


def nearest_pixel(
    x: ArrayLike, y: ArrayLike, width: int, height: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the pixels at real-valued coordinates: columns wrap, rows are clipped."""
    column = np.floor(np.asarray(x, np.float64) + 0.5).astype(np.int64) % width
    row = np.clip(np.floor(np.asarray(y, np.float64) + 0.5).astype(np.int64), 0, height - 1)
    return column, row


def lonlat_to_direction(lon: ArrayLike, lat: ArrayLike) -> Floats:
    """Unit directions (..., 3) of longitudes and latitudes, which are broadcast to (...)."""
    lon, lat = np.broadcast_arrays(np.asarray(lon, np.float64), np.asarray(lat, np.float64))
    ring = np.cos(lat)  # radius of the parallel
    return np.stack([ring * np.sin(lon), ring * np.cos(lon), np.sin(lat)], axis=-1)


def direction_to_lonlat(direction: ArrayLike) -> tuple[Floats, Floats]:
    """Longitude in [-pi, pi] and latitude of directions (..., 3) of any non-zero length.

    The longitude of a pole is arbitrary.
    """
    x, y, z = np.moveaxis(np.asarray(direction, np.float64), -1, 0)
    return np.arctan2(x, y), np.arctan2(z, np.hypot(x, y))


def pixel_solid_angles(width: int, height: int) -> Floats:
    """The exact solid angle of a pixel of each row, in steradian.

    A pixel spans Δλ = 2 pi / W in longitude. Integrating the area element cos φ dφ dλ over its
    latitudes gives Δλ (sin φ_top - sin φ_bottom).

    Returns:
        (H,) float64; the sum over all pixels is 4 pi.
    """
    edges = np.sin((0.5 - np.arange(height + 1) / height) * np.pi)
    return (edges[:-1] - edges[1:]) * (2 * np.pi / width)


def rotation_to_centre(lon: float, lat: float) -> Floats:
    """Rotation (3, 3) that takes direction (lon, lat) to (0, 0) without roll.

    It rotates about the vertical axis first and then tilts, so verticals at the centre stay
    vertical. Apply it with `rotate`; the inverse is the transpose.
    """
    sin_lon, cos_lon = np.sin(lon), np.cos(lon)
    sin_lat, cos_lat = np.sin(lat), np.cos(lat)
    return np.array(
        [
            [cos_lon, -sin_lon, 0.0],
            [cos_lat * sin_lon, cos_lat * cos_lon, sin_lat],
            [-sin_lat * sin_lon, -sin_lat * cos_lon, cos_lat],
        ]
    )


def rotate(directions: ArrayLike, rotation: Floats) -> Floats:
    """Rotate directions (..., 3): `directions @ rotation.T`, bit by bit reproducible.

    The last bits of a matrix product depend on the memory addresses of its operands, which could
    decide differently between two equally good results.
    """
    x, y, z = np.moveaxis(np.asarray(directions, np.float64), -1, 0)
    return np.stack([row[0] * x + row[1] * y + row[2] * z for row in rotation], axis=-1)


def largest_empty_gap(occupied: NDArray[np.bool_]) -> tuple[int, int]:
    """The longest run of False in a row of periodic columns.

    Args:
        occupied: (W,) bool; column W - 1 is the neighbour of column 0.

    Returns:
        start, length: The run consists of columns start, start + 1, … modulo W. Of equally long
        runs the one at the seam is returned, otherwise the leftmost. (0, 0) if every column is
        occupied, (0, W) if none is.

    >>> largest_empty_gap(np.array([0, 0, 1, 0, 1, 0], bool))
    (5, 3)
    """
    columns = np.flatnonzero(occupied)
    if columns.size == 0:
        return 0, len(occupied)
    # gap i follows occupied column i; the last gap crosses the seam
    lengths = np.diff(columns, append=columns[0] + len(occupied)) - 1
    longest = lengths.size - 1 if lengths[-1] == lengths.max() else int(np.argmax(lengths))
    length = int(lengths[longest])
    return (int(columns[longest]) + 1) % len(occupied) if length else 0, length


def take_columns(array: NDArray, start: int, count: int) -> NDArray:
    """Columns start, start + 1, …, start + count - 1, modulo the width, of an array (H, W, ...).

    Returns a view, or a copy if the seam is crossed. 0 <= start < W; count may exceed W.
    """
    width = array.shape[1]
    if start + count <= width:
        return array[:, start : start + count]
    return np.take(array, np.arange(start, start + count), axis=1, mode="wrap")
