"""Masks of views → one mask of the panorama (paper, section 3.4), only where something is open.

What is fused are soft masks: 0 outside, 1 inside, bilinear between. "max" is the paper's equation
5. It dilates: a pixel belongs to the mask as soon as one of the four or so views that see it says
so, and each is blurred by sampling it. "mean" over the views that see a pixel does not.

Views whose mask is empty are skipped. A tile of the panorama (`tiles`) is sampled only if it
is neither empty in all views nor certainly 1 ("max": one view sees all of it as 1; "mean": every
view that sees any of it sees 1). The result is the same as without these short cuts, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from sap_model.scan.maps import Maps, Place
from sap_model.scan.tiles import TileMaps, Tiles, blocks_of, runs, states

FULL = 255
"""The integer that stands for 1 where bool masks are fused."""


class Fused(NamedTuple):
    """A fused soft mask of a panorama, not yet divided; 0 where neither open nor solid."""

    total: NDArray
    """(H, W): maximum or sum, of integers of which `FULL` is 1 (bool masks) or of float32.
    It means nothing where `solid`."""
    counts: NDArray[np.uint8] | None
    """(H, W): how many views a sum is over; None for a maximum."""
    open: NDArray[np.bool_]
    """Tiles that were sampled."""
    solid: NDArray[np.bool_]
    """Tiles that are 1 everywhere."""
    edge: int
    """Pixels along the edge of a tile."""

    def threshold(self) -> NDArray[np.bool_]:
        """(H, W): where the soft mask is at least 0.5."""
        result = np.zeros(self.total.shape, bool)
        for part in self._parts(self.solid):
            result[part] = True
        for part in self._parts(self.open):
            one = self._one(part)
            if self.total.dtype == np.float32:
                result[part] = self.total[part] >= one * np.float32(0.5)
            else:  # half of 255 is 127.5, which the sampling has rounded up
                result[part] = self.total[part] >= (one + 1) // 2
        return result

    def soft(self) -> NDArray[np.float32]:
        """(H, W): the soft mask, in [0, 1]."""
        result = np.zeros(self.total.shape, np.float32)
        for part in self._parts(self.solid):
            result[part] = 1
        for part in self._parts(self.open):
            np.divide(self.total[part], self._one(part), out=result[part], dtype=np.float32)
        return result

    def _parts(self, tiles: NDArray[np.bool_]) -> Iterator[tuple[slice, slice]]:
        for row, first, after in runs(tiles):
            rows = slice(row * self.edge, (row + 1) * self.edge)
            yield rows, slice(first * self.edge, after * self.edge)

    def _one(self, part: tuple[slice, slice]) -> NDArray | int:
        """What stands for 1; never 0."""
        one = 1 if self.total.dtype == np.float32 else FULL
        if self.counts is None:
            return one
        return np.maximum(self.counts[part], 1).astype(self.total.dtype) * self.total.dtype.type(
            one
        )


class MaskFuser:
    """Fuses the masks of the views of `Maps`."""

    def __init__(self, maps: Maps) -> None:
        self.maps = maps
        self.tiles = TileMaps(maps)

    def fuse(self, masks: NDArray, counts: NDArray[np.uint8] | None) -> Fused:
        """Fuse one object's masks (N, L, L), bool or float32.

        Args:
            counts: (H, W), how many views see each pixel, for the mean; None for the maximum.
        """
        some, solid = self._classify_tiles(masks, by_all=counts is not None)
        to_sample = np.zeros_like(solid)
        whole = masks.dtype == bool
        kind: type = np.float32 if not whole else np.uint8 if counts is None else np.uint16
        combine = np.maximum if counts is None else np.add
        total: NDArray = np.zeros((self.maps.height, self.maps.width), kind)
        for i, within in some.items():
            place = self.maps.places[i]
            tiles, columns = self.tiles.of(place)
            grid = np.ix_(tiles.row + np.arange(len(within)), columns)
            within = within & ~solid[grid]
            to_sample[grid] |= within
            mask = masks[i].view(np.uint8) * np.uint8(FULL) if whole else masks[i]
            for (rows, here), values in self._sample(place, tiles, within, mask):
                target = total[rows, here]
                combine(target, values, out=target)
        return Fused(total, counts, to_sample, solid, self.tiles.edge)

    def _classify_tiles(
        self, masks: NDArray, by_all: bool
    ) -> tuple[dict[int, NDArray[np.bool_]], NDArray[np.bool_]]:
        """Which of each view's tiles may hold anything, for views that are not empty; solid tiles.

        A tile is solid if one view sees all of it as 1 and (`by_all`) no view sees anything else.
        """
        some: dict[int, NDArray[np.bool_]] = {}
        solid = np.zeros(self.tiles.shape, bool)
        doubted = np.zeros(self.tiles.shape, bool)
        for i, (place, mask) in enumerate(zip(self.maps.places, masks, strict=True)):
            blocks = blocks_of(mask)
            if blocks is None and not by_all:
                continue
            tiles, columns = self.tiles.of(place)
            grid = np.ix_(tiles.row + np.arange(len(tiles.left)), columns)
            if blocks is None:
                doubted[grid] |= tiles.any_seen
                continue
            some[i], full = states(tiles, blocks)
            solid[grid] |= full & tiles.all_seen
            doubted[grid] |= tiles.any_seen & ~full
        return some, solid & ~doubted if by_all else solid

    def _sample(
        self, place: Place, tiles: Tiles, within: NDArray[np.bool_], mask: NDArray
    ) -> Iterator[tuple[tuple[slice, slice], NDArray]]:
        """Panorama rows and columns, and what a mask (L, L) says there, for some of its tiles."""
        box, table = self.maps.writing(place.pitch, place.fraction)
        edge = self.tiles.edge
        phase = place.column % edge
        for row, first, after in runs(within):
            top = max((tiles.row + row) * edge, box.top)
            bottom = min((tiles.row + row + 1) * edge, box.bottom)
            west = max((tiles.column + first) * edge - phase, box.west)
            east = min((tiles.column + after) * edge - phase, box.east)
            cut = slice(top - box.top, bottom - box.top), slice(west - box.west, east - box.west)
            positions = table.whole[cut], table.fraction[cut]
            values = cv2.remap(mask, *positions, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
            for here, there in pieces(place.column + west, east - west, self.maps.width):
                yield (slice(top, bottom), here), values[:, there]


def pieces(start: int, count: int, width: int) -> Iterator[tuple[slice, slice]]:
    """Columns start … start + count - 1, modulo `width`, as slices there and of 0 … count - 1.

    >>> list(pieces(6, 4, 8))
    [(slice(6, 8, None), slice(0, 2, None)), (slice(0, 2, None), slice(2, 4, None))]
    """
    done = 0
    while done < count:
        first = (start + done) % width
        step = min(count - done, width - first)
        yield slice(first, first + step), slice(done, done + step)
        done += step
