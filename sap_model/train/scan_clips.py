"""Our shards as training data: clips of rows along the scan (paper, section 3.5)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sap_model.clicks import POSITIVE, Click
from sap_model.model.tracker import Points
from sap_model.predict.predictor import ViewsOf
from sap_model.predict.prompts import PromptPlan, Views, plan_prompts
from sap_model.scan.trajectory import Scan
from sap_model.scan.views import PerspectiveViews
from sap_model.train.clip import Clip, NoObjectError, bits_of
from sap_model.train.shard_rows import DecodedPanorama, ShardRows
from sap_model.train.shard_rows import NoSplitError as NoSplitError

TRIES = 64
"""Objects that are looked at for ones that can be followed together."""


class ScanClips:
    """Clips along the scan: 24 views of a panorama, windows of the closed trajectory.

    Args:
        rows: The panoramas.
        image_size: S, the side of the views, which is that of the model's input.
        objects: K, objects of a clip; where fewer can be had, some are taken twice.
        frames: T, the length of a window; more than one cycle comes round to views again.
        sap: Share of clips that are prompted as at inference, the same click in every view that
            sees it, from the start of `predict.prompts`. The others start at any view that shows
            the object, and leave prompts to SAM2.
        min_pixels: Pixels that an object has at least in the view at which it starts, so that it
            is more than noise at this image size.
        scan, views: The trajectory, and what a view is; the paper's unless told otherwise.
    """

    def __init__(
        self,
        rows: ShardRows,
        image_size: int,
        objects: int,
        frames: int,
        inference_prompt_fraction: float = 0.5,
        min_pixels: int = 16,
        scan: Scan | None = None,
        views: ViewsOf = PerspectiveViews,
    ) -> None:
        self.rows, self.image_size, self.objects, self.frames = rows, image_size, objects, frames
        self.inference_prompt_fraction = inference_prompt_fraction
        self.min_pixels = min_pixels
        self.scan, self.views_of = scan or Scan(), views
        self._views: dict[int, Views] = {}

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_views": {}}  # tables are made again where they are needed

    def __len__(self) -> int:
        return len(self.rows)

    def clip(self, index: int, rng: np.random.Generator) -> Clip:
        """A clip of a row, the same for the same state of rng.

        Raises:
            NoObjectError: Nothing in the row is visible enough.
        """
        panorama = self.rows[index]
        views = self.views(panorama.image.shape[1])
        seen = views.render_ids(panorama.ids)
        pixels = pixels_of(seen, panorama.objects)
        if rng.random() < self.inference_prompt_fraction:
            chosen, sequences, prompts = self._as_at_inference(panorama, views, pixels, rng)
        else:
            chosen, sequences = self._from_anywhere(panorama, views, pixels, rng)
            prompts = None
        needed, order = np.unique(sequences, return_inverse=True)
        ids = panorama.objects[chosen]
        truth = bits_of(seen[needed] == ids[:, None, None, None])
        images = views.render(panorama.image)[needed]
        return Clip(images, truth, order.reshape(sequences.shape), prompts, panorama.name)

    def views(self, width: int) -> Views:
        """The views of panoramas of a width, with their tables."""
        if width not in self._views:
            self._views[width] = self.views_of(self.scan, self.image_size, width)
        return self._views[width]

    def _from_anywhere(
        self, panorama: DecodedPanorama, views: Views, pixels: NDArray, rng: np.random.Generator
    ) -> tuple[NDArray, NDArray]:
        """Objects, each with a window from any view that shows enough of it."""
        able = np.flatnonzero((pixels >= self.min_pixels).any(axis=0))
        if not able.size:
            raise NoObjectError(panorama.name)
        chosen = draw(able, self.objects, rng)
        starts = [rng.choice(np.flatnonzero(pixels[:, k] >= self.min_pixels)) for k in chosen]
        windows = [views.scan.cyclic(start, self._cycles(views))[: self.frames] for start in starts]
        return chosen, np.array(windows).T

    def _as_at_inference(
        self, panorama: DecodedPanorama, views: Views, pixels: NDArray, rng: np.random.Generator
    ) -> tuple[NDArray, NDArray, dict[int, Points]]:
        """Objects whose clicks are seen on the same frames, counted from their own starts.

        SAM2 follows objects together only if they are prompted at the same frames. A click's frames
        depend on where it lies in the grid of views, and most clicks share theirs with many. Those
        of the first object are taken, unless too few others share them and more share some others.
        """
        able = np.flatnonzero((pixels >= self.min_pixels).any(axis=0))
        most = min(self.objects, len(able))
        groups: dict[
            tuple[int, ...], dict[int, list[PromptPlan]]
        ] = {}  # frames: object: its clicks
        for k in draw(able, TRIES, rng) if able.size else ():
            each = self._plan(panorama, int(k), views, rng)
            if each is None or pixels[each.views[0], k] < self.min_pixels:
                continue
            prompted = tuple(frame for frame in each.conditioning if frame < self.frames)
            known = groups.setdefault(prompted, {}).setdefault(int(k), [])
            if each not in known:
                known.append(each)
            first = next(iter(groups.values()))
            if len(first) >= most and sum(map(len, first.values())) >= self.objects:
                break
        if not groups:
            raise NoObjectError(panorama.name)
        # the first of the largest, where no more than `most` objects count
        frames, members = max(groups.items(), key=lambda group: min(len(group[1]), most))
        chosen = draw(np.array(list(members)), self.objects, rng)
        plans = []
        for place, k in enumerate(chosen.tolist()):  # again with another click, if there is one
            known = members[k]
            plans.append(known[chosen[:place].tolist().count(k) % len(known)])
        prompts = {}
        for frame in frames:
            spots = np.array([each.conditioning[frame] for each in plans])
            prompts[frame] = Points(
                spots[..., :2].astype(np.float32), spots[..., 2].astype(np.int32)
            )
        return chosen, np.array([each.views[: self.frames] for each in plans]).T, prompts

    def _plan(
        self, panorama: DecodedPanorama, k: int, views: Views, rng: np.random.Generator
    ) -> PromptPlan | None:
        """The video of one object for its stored click, or for one anywhere on it."""
        x, y = panorama.clicks[k]
        if rng.random() < 0.5:
            rows, columns = np.nonzero(panorama.ids == panorama.objects[k])
            pixel = rng.integers(len(rows))
            x, y = columns[pixel], rows[pixel]
        return plan_prompts(
            [Click(int(x), int(y), POSITIVE)], views, self._cycles(views), self.image_size
        )

    def _cycles(self, views: Views) -> int:
        return -(-self.frames // len(views.scan))


def pixels_of(ids: NDArray[np.uint16], objects: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pixels (V, N) of each of N objects in each of V id maps (V, S, S)."""
    most = max(int(ids.max()), int(objects.max(initial=0))) + 1
    counts = np.stack([np.bincount(view.ravel(), minlength=most) for view in ids])
    return counts[:, objects]


def draw(able: NDArray, count: int, rng: np.random.Generator) -> NDArray:
    """`count` of some indices in random order, all of them before any twice."""
    rounds = [rng.permutation(able) for _ in range(-(-count // len(able)))]
    return np.concatenate(rounds)[:count]
