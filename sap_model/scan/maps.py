"""Where views lie in a panorama's columns and rows: look-up tables for OpenCV, made once.

Views of one pitch differ by a shift of columns. Where the yaw step is an integer number of columns
(45° of 4096 are 512), one table per row of the scan serves all its views, and rolling a panorama
by that many columns rolls every result exactly. Otherwise there is a table for each fraction of a
column that occurs: none of 1K, 2K, 4K and 8K has more than 5 per row in the scans of the paper.

Tables hold positions in OpenCV's fixed-point format, rounded to 1/32 pixel: 6 bytes per pixel. For
the default scan at 4K and L = 1024 that is 19 MB for reading a panorama and 32 MB for writing one
(at 8K 75 and 126 MB); reading ids takes another 13 MB.

Views whose pixels are at least twice as large as the panorama's are antialiased: every pixel is the
mean of n × n samples, which lie about as densely as the panorama's pixels. 8K with L = 1024 has
n = 2, 4K with L = 256 has n = 5; 4K with L = 1024 has n = 1, as in the paper. (A smaller panorama
would lose detail at a view's corners, where its pixels are up to three times as dense.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline import sphere
from pipeline.errors import UserError
from sap_model.scan.geometry import Geometry
from sap_model.scan.trajectory import Scan, View

OUTSIDE = -16.0
"""Position in a view for what it does not see; far enough outside to be sampled as zero."""

ROUNDING = 1e-9
"""Share of a pixel by which rounding may move a border across a pixel's centre."""

MOST_SAMPLES = 8
"""Samples along each side of a view's pixel, at most: tables take 6 bytes for each."""


class RemapTable(NamedTuple):
    """Real-valued positions (h, w) in OpenCV's fixed-point format."""

    whole: NDArray[np.int16]
    """(h, w, 2): whole part of x and y."""
    fraction: NDArray[np.uint16]
    """(h, w): 32nds of y times 32, plus 32nds of x."""


class Box(NamedTuple):
    """Rows top … bottom - 1 and columns west … east - 1 of a panorama.

    Columns count from the one that holds a view's centre (`Place.column`), and may be negative.
    """

    top: int
    bottom: int
    west: int
    east: int


@dataclass(frozen=True)
class Place:
    """Where a view's centre lies in the panorama: column + fraction, with pitch as its latitude."""

    pitch: float
    """Radians."""
    column: int
    fraction: Fraction
    """In [0, 1)."""


class Maps:
    """The tables of all views of one scan, size and panorama width."""

    def __init__(self, scan: Scan, geometry: Geometry, width: int) -> None:
        if width < 8 or width % 2 or width // 4 > 16000:
            raise UserError(f"panoramas {width} wide: choose an even width from 8 to 64000")
        if geometry.size < 2:
            raise UserError(f"views of {geometry.size} pixels: choose a size of at least 2")
        self.geometry = geometry
        self.width, self.height = width, width // 2
        self.reach = math.ceil(width / 4) + 2
        """Columns on each side of a view's centre that it may read, with a margin."""
        self.strip = 2 * self.reach + 2
        """Columns of the strip of the padded panorama that one view reads."""
        spacing = width / (2 * math.pi * geometry.focal)
        self.samples = min(max(1, math.floor(spacing + ROUNDING)), MOST_SAMPLES)
        """Samples of the panorama along each side of a view's pixel."""
        self.places = [self._place(scan, view) for view in scan.views]
        kinds = len({(place.pitch, place.fraction) for place in self.places})
        self.reading = lru_cache(kinds)(self._reading)
        """`_reading`, once per pitch and fraction."""
        self.nearest = lru_cache(kinds)(self._nearest)
        """`_nearest`, once per pitch and fraction."""
        self.writing = lru_cache(kinds)(self._writing)
        """`_writing`, once per pitch and fraction."""

    def _place(self, scan: Scan, view: View) -> Place:
        # exactly, so that equal fractions are equal: the centre of the panorama is at (W - 1) / 2
        centre = Fraction(self.width - 1, 2) + Fraction(view.column * self.width, scan.columns)
        column = math.floor(centre)
        return Place(math.radians(view.pitch), column % self.width, centre - column)

    def _reading(self, pitch: float, fraction: Fraction) -> RemapTable:
        """For each sample (n L, n L) of a view its position in a padded strip of the panorama.

        The strip begins `reach` columns before the centre's column and one row above the panorama.
        """
        return _table(*self._positions(pitch, fraction, self.samples))

    def _nearest(self, pitch: float, fraction: Fraction) -> NDArray[np.int16]:
        """For each view pixel (L, L, 2) the column and row of the strip's nearest pixel.

        OpenCV's own rounding of tables to nearest pixels is the wrong way round: a fraction of
        1/4 counts as 1, one of 3/4 as 0.
        """
        x, y = self._positions(pitch, fraction)
        nearest = np.floor(np.stack([x, y], axis=-1) + 0.5).astype(np.int16)
        nearest[..., 1] = np.clip(nearest[..., 1], 1, self.height)
        return nearest

    def _positions(
        self, pitch: float, fraction: Fraction, samples: int = 1
    ) -> tuple[sphere.Floats, sphere.Floats]:
        pixels = (np.arange(samples * self.geometry.size) + 0.5) / samples - 0.5
        pixels = np.clip(pixels, 0, self.geometry.size - 1)  # a pole may lie on the border
        lon, lat = self.geometry.to_sphere(pitch, pixels, pixels[:, None])
        x, y = sphere.lonlat_to_pixel(lon, lat, self.width, self.height)
        return x - (self.width - 1) / 2 + self.reach + float(fraction), y + 1

    def _writing(self, pitch: float, fraction: Fraction) -> tuple[Box, RemapTable]:
        """The box of the panorama that a view sees, and the box's pixels' positions in the view."""
        box = self._box(pitch, fraction)
        columns = np.arange(box.west, box.east)
        rows = np.arange(box.top, box.bottom)[:, None]
        x = columns - float(fraction) + (self.width - 1) / 2
        lon, lat = sphere.pixel_to_lonlat(x, rows, self.width, self.height)
        u, v, seen = self.geometry.to_view(pitch, lon, lat)
        return box, _table(np.where(seen, u, OUTSIDE), np.where(seen, v, OUTSIDE))

    def _box(self, pitch: float, fraction: Fraction) -> Box:
        """The smallest box round all panorama pixels that a view sees."""
        west, east, south, north = self.geometry.bounds(pitch)
        x = np.array([west, east]) / (2 * np.pi) * self.width + float(fraction)
        y = (0.5 - np.array([north, south]) / np.pi) * self.height - 0.5
        first_column, first_row = np.ceil([x[0] - ROUNDING, y[0] - ROUNDING]).astype(int)
        last_column, last_row = np.floor([x[1] + ROUNDING, y[1] + ROUNDING]).astype(int)
        return Box(
            max(int(first_row), 0),
            min(int(last_row) + 1, self.height),
            int(first_column),
            min(int(last_column) + 1, int(first_column) + self.width),
        )


def resample(image: NDArray, positions: NDArray, how: int = cv2.INTER_LINEAR) -> NDArray:
    """Read an image at positions.

    Args:
        image: (H, W) or (H, W, C).
        positions: (h, w, 2) float32 or int16, x and y in pixels of the image.
        how: OpenCV's interpolation.
    """
    # the second map belongs to other kinds of first maps; OpenCV's types demand an array for it
    return cv2.remap(image, positions, None, how)  # type: ignore[call-overload]


def _table(x: NDArray[np.float64], y: NDArray[np.float64]) -> RemapTable:
    whole, fraction = cv2.convertMaps(
        x.astype(np.float32), y.astype(np.float32), cv2.CV_16SC2, None, None
    )
    return RemapTable(np.asarray(whole, np.int16), np.asarray(fraction, np.uint16))
