"""Clicks on a panorama → the video that SAM2 follows for that object, and its prompts.

For each object (paper, sections 3.3 and 3.5, appendix A):

1. Its video is the closed scan, run through `cycles` times from its own start: the first view
   along the scan that sees its first positive click. "First" is counted from the end of the
   longest stretch of views that do not see it; where the scan's numbers begin does not matter.
2. Every frame whose view sees a positive click is a conditioning frame and is given all clicks that
   its view sees: "all of the frames in which the prompt is visible" (section 3.3). In the second
   cycle these are the same views again, which adds nothing but weight to their memories, and
   time. With `prompted="first"` the second visit is followed from memory like any other frame.
3. A frame whose view sees negative clicks alone is followed from memory, with these clicks added.
   The paper is silent here. As a conditioning frame it would be segmented without memory, as a
   single image of which only is known what does *not* belong to the object.

Of 24 views at fov 90° and overlap 0.5, a click is seen by 3 to 5.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError
from sap_model.clicks import NEGATIVE, POSITIVE, Click
from sap_model.model.tracker import Points, PromptBatch
from sap_model.names import Prompted
from sap_model.scan.views import Fusion, Sighting


class Trajectory(Protocol):
    """The order in which views are visited: `trajectory.Scan` is one."""

    def __len__(self) -> int: ...

    def cyclic(self, start: int = 0, cycles: int = 2) -> tuple[int, ...]: ...


class Views(Protocol):
    """What the predictor needs of views; every `views.Projector` is one."""

    @property
    def scan(self) -> Trajectory: ...

    @property
    def size(self) -> int: ...

    def render(self, panorama: NDArray) -> NDArray: ...

    def render_ids(self, ids: NDArray) -> NDArray: ...

    def visible(self, x: float, y: float) -> list[Sighting]: ...

    def to_panorama(self, masks: NDArray, fusion: Fusion = "max") -> NDArray[np.bool_]: ...

    def soft_panorama(self, masks: NDArray, fusion: Fusion = "max") -> NDArray[np.float32]: ...


Spots = tuple[tuple[float, float, int], ...]
"""Clicks on one view: u, v in pixels of the model's input, and the label."""


@dataclass(frozen=True)
class PromptPlan:
    """One object's video and its prompts."""

    views: tuple[int, ...]
    """Which view each frame shows."""
    conditioning: Mapping[int, Spots]
    """Frame: all clicks that it sees, a positive one among them."""
    corrections: Mapping[int, Spots]
    """Frame: the negative clicks that it sees."""

    @property
    def shape(self) -> tuple:
        """Frames and numbers of clicks; objects of equal shape can be followed as one batch."""
        return tuple(
            (len(self.views), *((frame, len(spots)) for frame, spots in sorted(prompts.items())))
            for prompts in (self.conditioning, self.corrections)
        )


def plan_prompts(
    clicks: Sequence[Click],
    views: Views,
    cycles: int,
    image_size: int,
    prompted: Prompted = "every",
) -> PromptPlan | None:
    """The plan of one object; None if no view sees any of its positive clicks.

    Views that overlap by half see the whole sphere. Views that do not overlap leave gaps.

    Args:
        clicks: In panorama pixels, in the order in which they were made.
        views: The views they are carried over to.
        cycles: How often the scan is run through.
        image_size: Side of the model's input, to which positions in the views are scaled.
        prompted: Which visits to a view that sees clicks are prompted.

    Raises:
        UserError: There is no positive click, or a label is neither 0 nor 1.
    """
    labels = {label for _, _, label in clicks}
    if not labels <= {POSITIVE, NEGATIVE} or POSITIVE not in labels:
        raise UserError(f"an object needs clicks labelled 1 (on it) or 0, one of them 1: {clicks}")
    scale = image_size / views.size
    seen: dict[int, list[tuple[float, float, int]]] = defaultdict(list)
    start: int | None = None
    for x, y, label in clicks:
        sightings = views.visible(x, y)
        for view, u, v in sightings:
            # pixel centres to pixel centres
            seen[view].append(((u + 0.5) * scale - 0.5, (v + 0.5) * scale - 0.5, label))
        if start is None and label == POSITIVE and sightings:
            start = first_of([sighting.view for sighting in sightings], len(views.scan))
    if start is None:
        return None
    sequence = views.scan.cyclic(start, cycles)
    told = sequence if prompted == "every" else sequence[: len(views.scan)]
    prompts = {frame: tuple(seen[view]) for frame, view in enumerate(told) if view in seen}
    on = {frame for frame, spots in prompts.items() if any(spot[2] == POSITIVE for spot in spots)}
    return PromptPlan(
        sequence,
        {frame: spots for frame, spots in prompts.items() if frame in on},
        {frame: spots for frame, spots in prompts.items() if frame not in on},
    )


def first_of(views: Sequence[int], count: int) -> int:
    """Which of some views comes first on a closed scan of `count` views.

    The one that ends the longest stretch without any of them; of equally long stretches, the one
    that ends at the lowest index.

    >>> first_of([1, 2, 4, 22], 24)
    22
    """
    ordered = sorted(views)
    # the stretch before the first one runs over the end of the scan
    gaps = [(ordered[i] - ordered[i - 1]) % count or count for i in range(len(ordered))]
    return ordered[gaps.index(max(gaps))]


def batches(
    plans: Sequence[PromptPlan | None],
    limit: int,
    previous: Sequence[NDArray[np.float32] | None] = (),
) -> Iterator[tuple[list[int], PromptBatch]]:
    """Objects of equal shape, at most `limit` at a time: their indices, and what to follow.

    Args:
        plans: Of all objects.
        limit: Objects of a batch, at most.
        previous: For each object, the logits (N, s, s) of its views that its clicks correct, or
            None; by default nothing is corrected.
    """
    previous = previous or [None] * len(plans)
    groups: dict[tuple, list[int]] = defaultdict(list)
    for index, each in enumerate(plans):
        if each is not None:
            groups[each.shape, previous[index] is None].append(index)
    for indices in groups.values():
        for first in range(0, len(indices), limit):
            chosen = indices[first : first + limit]
            yield (
                chosen,
                _batch(
                    [each for i in chosen if (each := plans[i]) is not None],
                    [masks for i in chosen if (masks := previous[i]) is not None],
                ),
            )


def _batch(plans: list[PromptPlan], previous: list[NDArray[np.float32]]) -> PromptBatch:
    prompted = (*plans[0].conditioning, *plans[0].corrections) if previous else ()
    return PromptBatch(
        np.array([each.views for each in plans], np.int64),
        {t: _points([each.conditioning[t] for each in plans]) for t in plans[0].conditioning},
        {t: _points([each.corrections[t] for each in plans]) for t in plans[0].corrections},
        {
            t: np.stack([seen[each.views[t]] for each, seen in zip(plans, previous, strict=True)])
            for t in prompted
        },
    )


def _points(spots: list[Spots]) -> Points:
    table = np.array(spots, np.float64)
    return Points(table[..., :2].astype(np.float32), table[..., 2].astype(np.int32))
