"""Our shards as training data: clips of rows along the scan (paper, section 3.5)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sap_model.clicks import POSITIVE, Click
from sap_model.predict.memory import ViewsOf
from sap_model.predict.prompts import Prompted, PromptPlan, Views, plan_prompts
from sap_model.scan.trajectory import Scan
from sap_model.scan.views import PerspectiveViews
from sap_model.train.augment import draw_turn, recolour, turn_panorama
from sap_model.train.clip import Clip, NoObjectError, Prompts, bits_of
from sap_model.train.shard_rows import DecodedPanorama, ShardRows
from sap_model.train.shard_rows import NoSplitError as NoSplitError

TRIES = 64
"""Clicks that are tried, at least, to fill a clip; objects with fewer pixels than it takes fail."""


class ScanClips:
    """Clips along the scan: 24 views of a panorama, windows of the closed trajectory.

    Args:
        rows: The panoramas.
        image_size: S, the side of the views, which is that of the model's input.
        objects: K, objects of a clip; where a panorama has fewer, some are taken twice.
        frames: T, the length of a window; more than one cycle visits views again.
        inference_prompt_fraction: Share of clips that are prompted as at inference: one click, in
            every view that sees it, from the start of `predict.prompts`. The others start at any
            view that shows the object, and leave prompts to SAM2.
        min_pixels: Pixels that an object has at least in the view at which it starts, so that it
            is more than noise at this image size.
        scan, views: The trajectory, and what a view is; the paper's by default.
        prompted: Which visits to a view that sees the click are prompted, as at inference.
        augment: Turn panoramas on the sphere, mirror and recolour them at random.
        random_clicks: Share of the clicks that lie anywhere on the object; the others are the
            stored ones, with which the protocol begins.
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
        prompted: Prompted = "every",
        augment: bool = False,
        random_clicks: float = 0.5,
    ) -> None:
        self.rows, self.image_size, self.objects, self.frames = rows, image_size, objects, frames
        self.inference_prompt_fraction = inference_prompt_fraction
        self.min_pixels = min_pixels
        self.scan, self.views_of = scan or Scan(), views
        self.prompted: Prompted = prompted
        self.augment, self.random_clicks = augment, random_clicks
        self._views: dict[int, Views] = {}

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_views": {}}  # each process makes its own tables

    def __len__(self) -> int:
        return len(self.rows)

    def clip(self, index: int, rng: np.random.Generator) -> Clip:
        """A clip of a row, the same for the same state of rng.

        Raises:
            NoObjectError: Nothing in the row is visible enough.
        """
        panorama = self.rows[index]
        if self.augment:
            panorama = turn_panorama(panorama, draw_turn(panorama.image.shape[1], rng))
            (image,) = recolour(panorama.image[None], rng, by_frame=False)
            panorama = replace(panorama, image=image)
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
    ) -> tuple[NDArray, NDArray, list[Prompts]]:
        """Objects with a click each, drawn without regard to the frames that see the click.

        So every pattern of prompted frames occurs as often as it does at inference.
        """
        able = np.flatnonzero((pixels >= self.min_pixels).any(axis=0))
        chosen: list[int] = []
        plans: list[PromptPlan] = []
        for k in draw(able, max(TRIES, len(able)), rng) if able.size else ():
            if len(chosen) == self.objects:
                break
            each = self._plan(panorama, int(k), views, rng)
            if each is None or pixels[each.views[0], k] < self.min_pixels:
                continue
            if (int(k), each) not in zip(chosen, plans, strict=True):
                chosen.append(int(k))
                plans.append(each)
        if not chosen:
            raise NoObjectError(panorama.name)
        order = np.resize(np.arange(len(chosen)), self.objects)
        prompts: list[Prompts] = [
            {t: spots for t, spots in plans[i].conditioning.items() if t < self.frames}
            for i in order
        ]
        windows = np.array([plans[i].views[: self.frames] for i in order]).T
        return np.array(chosen)[order], windows, prompts

    def _plan(
        self, panorama: DecodedPanorama, k: int, views: Views, rng: np.random.Generator
    ) -> PromptPlan | None:
        """The video of one object for its stored click, or for one anywhere on it."""
        x, y = panorama.clicks[k]
        if rng.random() < self.random_clicks:
            rows, columns = np.nonzero(panorama.ids == panorama.objects[k])
            pixel = rng.integers(len(rows))
            x, y = columns[pixel], rows[pixel]
        click = Click(int(x), int(y), POSITIVE)
        return plan_prompts([click], views, self._cycles(views), self.image_size, self.prompted)

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
