"""Which of many masks show the same object. Areas are counted in samples of equal solid angle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.sphere import Floats

COMMON = 0.5
"""Share of a mask that another view must see, for its masks to decide about it."""


@dataclass(frozen=True)
class Candidates:
    """n masks that were found in one view, of s × s pixels."""

    view: int
    logits: NDArray[np.float16]
    """(n, s, s)."""
    ious: NDArray[np.float32]
    """(n,) the model's own estimates."""
    stability: NDArray[np.float32]
    """(n,)."""
    points: Floats
    """(n, 2) where they were found: x, y of the panorama."""
    cut: NDArray[np.bool_]
    """(n,) whether the view cuts them off."""
    index: NDArray[np.intp]
    """(m,) the samples of the sphere that the view sees."""
    sampled: NDArray[np.bool_]
    """(n, m) which of these samples lie in each mask."""

    def __len__(self) -> int:
        return len(self.ious)

    @property
    def quality(self) -> NDArray[np.float32]:
        """(n,) whole masks before those that are cut off, then by IoU and stability."""
        return self.ious * self.stability + np.where(self.cut, np.float32(0), np.float32(10))

    def take(self, chosen: Sequence[int] | NDArray[np.intp]) -> Candidates:
        """Some of them, in the given order."""
        rows = np.asarray(chosen, np.intp)
        per_mask = ("logits", "ious", "stability", "points", "cut", "sampled")
        changes = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name in per_mask}
        return replace(self, **changes)


def best_of(sampled: NDArray[np.bool_], quality: NDArray, overlap: float) -> list[int]:
    """Of masks (n, m) over the same samples, the best ones: no two have an IoU above `overlap`.

    >>> masks = np.array([[1, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 1]], bool)
    >>> best_of(masks, np.array([0.5, 0.9, 0.1]), 0.7)
    [1, 2]
    """
    values = sampled.astype(np.float32)
    both = values @ values.T
    area = values.sum(axis=1)
    either = area[:, None] + area[None] - both
    return _greedy(both > overlap * either, quality)


def best_of_view(candidates: Candidates, overlap: float) -> Candidates:
    """The best candidates of one view. Masks without a sample are too small to tell apart."""
    there = candidates.take(np.flatnonzero(candidates.sampled.any(axis=1)))
    return there.take(best_of(there.sampled, there.quality, overlap))


def best_on_sphere(found: Sequence[Candidates], samples: int, overlap: float) -> list[Candidates]:
    """The best candidates of all views.

    Two masks of different views are compared where both views look. The better one takes the place
    of the other if they agree there, and if at least `COMMON` of the other lies there.

    Args:
        found: Per view, without duplicates.
        samples: Number of samples on the sphere.
        overlap: IoU from which two masks are one object.
    """
    offsets = np.cumsum([0, *(len(one) for one in found)])
    count = int(offsets[-1])
    is_same = np.zeros((count, count), bool)  # [i, j]: i may take the place of j
    for a, first in enumerate(found):
        position = np.full(samples, -1, np.intp)
        position[first.index] = np.arange(len(first.index))
        for b, second in enumerate(found):
            here, there = slice(*offsets[a : a + 2]), slice(*offsets[b : b + 2])
            if b <= a or not len(first) or not len(second):
                continue
            common = position[second.index] >= 0
            if not common.any():
                continue
            ours = first.sampled[:, position[second.index[common]]].astype(np.float32)
            theirs = second.sampled[:, common].astype(np.float32)
            both = ours @ theirs.T
            area, area_b = ours.sum(axis=1), theirs.sum(axis=1)
            same = both > overlap * (area[:, None] + area_b[None] - both)
            seen = area >= COMMON * first.sampled.sum(axis=1)
            seen_b = area_b >= COMMON * second.sampled.sum(axis=1)
            is_same[here, there] = same & seen_b[None]
            is_same[there, here] = same.T & seen[None]
    quality = np.concatenate([one.quality for one in found]) if count else np.zeros(0)
    best = np.array(_greedy(is_same, quality), np.intp)
    return [
        one.take(best[(best >= start) & (best < end)] - start)
        for one, start, end in zip(found, offsets[:-1], offsets[1:], strict=True)
    ]


def _greedy(is_same: NDArray[np.bool_], quality: NDArray) -> list[int]:
    """Indices from the best to the worst, without those whose place a better one takes.

    Args:
        is_same: (n, n) [i, j]: i may take the place of j.
        quality: (n,).
    """
    open_ = np.ones(len(quality), bool)
    best = []
    for index in np.argsort(-quality, kind="stable"):
        if open_[index]:
            best.append(int(index))
            open_ &= ~is_same[index]
    return best
