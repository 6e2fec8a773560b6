"""Where in a panorama a view's mask leaves anything open: tile by tile, without sampling it.

A panorama is cut into tiles, a mask of a view into blocks of 16 × 16 pixels. For each tile that a
view sees there is known which blocks sampling it would read. If these blocks are all empty, so is
the tile; if they are all full, so is what the view sees of the tile. Only what is left has to be
sampled: the outline of an object, not its inside.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from sap_model.scan.maps import OUTSIDE, Maps, Place

TILE = 64
"""Edge of a panorama's tiles in pixels, or the divisor of the panorama's width nearest to it."""

BLOCK = 16
"""Edge of a mask's blocks in pixels."""


class Tiles(NamedTuple):
    """The tiles that a view sees; arrays are (rows, columns) of tiles."""

    row: int
    """Row of the first one in the panorama's grid of tiles."""
    column: int
    """Column of the first one, counted from the tile that holds the view's `Place.column`."""
    left: NDArray[np.intp]
    """First column of the mask's blocks that a tile reads."""
    top: NDArray[np.intp]
    """First row of them."""
    right: NDArray[np.intp]
    """Column after the last one."""
    bottom: NDArray[np.intp]
    """Row after the last one."""
    any_seen: NDArray[np.bool_]
    """Whether the view sees any of the tile's pixels."""
    all_seen: NDArray[np.bool_]
    """Whether it sees all of them."""


class Blocks(NamedTuple):
    """Sums over a mask's blocks, for `cv2.integral`'s rule: (rows + 1, columns + 1)."""

    touched: NDArray[np.int32]
    """Of blocks that hold anything."""
    full: NDArray[np.int32]
    """Of blocks that hold 1 and nothing else."""


class TileMaps:
    """The tiles of all views of `Maps`."""

    def __init__(self, maps: Maps) -> None:
        self.maps = maps
        divisors = [n for n in range(1, maps.width + 1) if maps.width % n == 0]
        self.edge = min(divisors, key=lambda n: (abs(np.log(n / TILE)), n))
        self.shape = -(-maps.height // self.edge), maps.width // self.edge
        """Rows and columns of tiles of the panorama."""
        self._tiles = lru_cache(len(maps.places))(self._make)

    def of(self, place: Place) -> tuple[Tiles, NDArray[np.intp]]:
        """A view's tiles, and which columns of the panorama's grid of tiles they are in."""
        shift, phase = divmod(place.column, self.edge)
        tiles = self._tiles(place.pitch, place.fraction, phase)
        columns = shift + tiles.column + np.arange(tiles.left.shape[1])
        return tiles, columns % self.shape[1]

    def _make(self, pitch: float, fraction: Fraction, phase: int) -> Tiles:
        box, table = self.maps.writing(pitch, fraction)
        edge = self.edge
        row, above = divmod(box.top, edge)
        column, before = divmod(box.west + phase, edge)
        below = -(box.bottom) % edge
        after = -(box.east + phase) % edge
        margin = ((above, below), (before, after))

        def tiled(array: NDArray, fill: int) -> NDArray:
            array = np.pad(array, margin, constant_values=fill)
            rows, columns = array.shape[0] // edge, array.shape[1] // edge
            return (
                array.reshape(rows, edge, columns, edge).swapaxes(1, 2).reshape(rows, columns, -1)
            )

        seen = table.whole[..., 0] != OUTSIDE
        last = self.maps.geometry.size - 1
        edges = []
        for axis in (0, 1):
            first = np.where(seen, table.whole[..., axis], last)
            final = np.where(seen, np.minimum(table.whole[..., axis] + 1, last), 0)
            edges.append(tiled(first, last).min(axis=-1) // BLOCK)
            edges.append(tiled(final, 0).max(axis=-1) // BLOCK + 1)
        left, right, top, bottom = (array.astype(np.intp) for array in edges)
        any_seen = tiled(seen, False).any(axis=-1)
        # rows below the panorama's last one do not exist, so they are not missing
        missing = tiled(~seen, True)
        if box.bottom == self.maps.height and below:
            exist = np.arange(edge) < edge - below
            missing[-1] &= np.repeat(exist, edge)
        return Tiles(row, column, left, top, right, bottom, any_seen, ~missing.any(axis=-1))


def blocks_of(mask: NDArray) -> Blocks | None:
    """The blocks of a mask (L, L), bool or float32; None where it is empty."""
    if not cv2.hasNonZero(mask.view(np.uint8) if mask.dtype == bool else mask):
        return None
    touched = _reduce(mask if mask.dtype == bool else mask > 0, np.bitwise_or)
    full = _reduce(mask if mask.dtype == bool else mask >= 1, np.bitwise_and)
    return Blocks(_integral(touched), _integral(full))


def _integral(blocks: NDArray[np.bool_]) -> NDArray[np.int32]:
    return np.asarray(cv2.integral(blocks.view(np.uint8)), np.int32)


def _reduce(mask: NDArray[np.bool_], combine: np.ufunc) -> NDArray[np.bool_]:
    """Blocks (ceil(L / 16), ceil(L / 16)) of a mask (L, L): all of its pixels combined."""
    missing = -len(mask) % BLOCK
    if missing:
        mask = np.pad(mask, (0, missing), mode="edge")
    # eight pixels at a time
    words = np.ascontiguousarray(mask).view(np.uint64)
    count = len(mask) // BLOCK
    words = combine.reduce(words.reshape(count, BLOCK, -1), axis=1)
    return combine.reduce(words.view(bool).reshape(count, count, BLOCK), axis=2)


def states(tiles: Tiles, blocks: Blocks) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Of each tile of a view: whether it may hold anything; whether all that is seen of it is 1."""

    def total(sums: NDArray[np.int32]) -> NDArray[np.int32]:
        return (
            sums[tiles.bottom, tiles.right]
            - sums[tiles.top, tiles.right]
            - sums[tiles.bottom, tiles.left]
            + sums[tiles.top, tiles.left]
        )

    size = (tiles.bottom - tiles.top) * (tiles.right - tiles.left)
    some = tiles.any_seen & (total(blocks.touched) > 0)
    return some, tiles.any_seen & (total(blocks.full) == size)


def runs(grid: NDArray[np.bool_]) -> Iterator[tuple[int, int, int]]:
    """row, first column, column after the last one of every run of True in the rows of a grid.

    >>> list(runs(np.array([[1, 1, 0, 1], [0, 0, 0, 0]], bool)))
    [(0, 0, 2), (0, 3, 4)]
    """
    change = np.diff(np.pad(grid, ((0, 0), (1, 1))).view(np.int8), axis=1)
    rows, first = np.nonzero(change == 1)
    _, after = np.nonzero(change == -1)
    yield from zip(rows.tolist(), first.tolist(), after.tolist(), strict=True)
