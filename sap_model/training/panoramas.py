"""Our shards as training data: rows, and clips of rows along the scan (paper, section 3.5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.shards.reader import ShardReader, decode_ids, decode_image
from sap_model.clicks import POSITIVE, Click
from sap_model.model.tracker import Points
from sap_model.predict.predictor import ViewsOf
from sap_model.predict.prompts import Plan, Views, plan
from sap_model.scan.trajectory import Scan
from sap_model.scan.views import PerspectiveViews
from sap_model.training.clip import Clip, NoObjectError, bits_of

COLUMNS = (
    "image_id",
    "scene_id",
    "image",
    "ids",
    "objects.list.element.id",
    "objects.list.element.click",
    "objects.list.element.segmentation",
)

Prompting = Literal["sam2", "sap"]
"""Prompts drawn as in SAM2's training, or the same click in every view that sees it."""

TRIES = 64
"""Objects that are looked at for ones that can be followed together."""


class NoSplitError(UserError):
    """None of some folders of shards has a split."""


@dataclass(frozen=True)
class Panorama:
    """A row, decoded.

    Attributes:
        name: Its image_id.
        image: (H, W, 3) uint8.
        ids: (H, W) uint16.
        objects: (N,) ids of the annotated instances.
        clicks: (N, 2) their stored first clicks (x, y).
    """

    name: str
    image: NDArray[np.uint8]
    ids: NDArray[np.uint16]
    objects: NDArray[np.int64]
    clicks: NDArray[np.int64]


class Rows:
    """Rows of one or more folders of shards, decoded when they are asked for.

    Args:
        folders: Folders or URLs of shards; small ones may lack a split that another has.
        split: Of the rows.
        kept: Decoded rows that stay in memory; a 1024 × 512 one takes 2.6 MB, a 4K one 42 MB.

    Raises:
        NoSplitError: No folder has it.
        UserError: There are no shards.
    """

    def __init__(self, folders: Sequence[Path | str], split: str | None, kept: int = 0) -> None:
        self.readers = [
            ShardReader(folder, split)
            for folder in folders
            if split is None or split in ShardReader(folder).splits
        ]
        if not self.readers:
            raise NoSplitError(
                f"no {split} panoramas in {', '.join(map(str, folders))}: render more"
            )
        self.kept = kept
        self._keep()

    def __getstate__(self) -> dict:
        return {"readers": self.readers, "kept": self.kept}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._keep()

    def __len__(self) -> int:
        return sum(len(reader) for reader in self.readers)

    def __getitem__(self, index: int) -> Panorama:
        return self._get(index)

    def scenes(self) -> set[str]:
        """Names of all scenes, as far as the rows' annotations tell."""
        return {
            row["scene_id"] for reader in self.readers for row in reader.annotations(["scene_id"])
        }

    def _keep(self) -> None:
        self._get = lru_cache(self.kept)(self._read) if self.kept else self._read

    def _read(self, index: int) -> Panorama:
        for reader in self.readers:
            if index < len(reader):
                return decode(reader.row(index, COLUMNS))
            index -= len(reader)
        raise IndexError(index)


def decode(row: dict) -> Panorama:
    """A row of a shard with `COLUMNS`.

    Raises:
        UserError: Its image, ids and annotations do not fit each other.
    """
    image, ids = decode_image(row["image"]), decode_ids(row["ids"])
    name, objects = row["image_id"], row["objects"]
    if ids.shape != image.shape[:2]:
        raise UserError(f"{name}: ids of {ids.shape} for an image of {image.shape[:2]}; pack again")
    if image.shape[1] != 2 * image.shape[0]:
        raise UserError(
            f"{name}: {image.shape[1]} × {image.shape[0]} pixels are no panorama, which is twice "
            "as wide as high"
        )
    for thing in objects:
        if tuple(thing["segmentation"]["size"]) != ids.shape:
            raise UserError(
                f"{name}: the mask of object {thing['id']} has size "
                f"{thing['segmentation']['size']}, its image {list(ids.shape)}; pack again"
            )
    return Panorama(
        name,
        image,
        ids,
        np.array([thing["id"] for thing in objects], np.int64),
        np.array([thing["click"] for thing in objects], np.int64).reshape(-1, 2),
    )


class Scans:
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
        rows: Rows,
        image_size: int,
        objects: int,
        frames: int,
        sap: float = 0.5,
        min_pixels: int = 16,
        scan: Scan | None = None,
        views: ViewsOf = PerspectiveViews,
    ) -> None:
        self.rows, self.image_size, self.objects, self.frames = rows, image_size, objects, frames
        self.sap, self.min_pixels = sap, min_pixels
        self.scan, self.views_of = scan or Scan(), views
        self._views: dict[int, Views] = {}

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_views": {}}  # tables are made anew where they are needed

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
        if rng.random() < self.sap:
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
        self, panorama: Panorama, views: Views, pixels: NDArray, rng: np.random.Generator
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
        self, panorama: Panorama, views: Views, pixels: NDArray, rng: np.random.Generator
    ) -> tuple[NDArray, NDArray, dict[int, Points]]:
        """Objects whose clicks are seen on the same frames, counted from their own starts.

        SAM2 follows objects together only if they are prompted at the same frames. A click's frames
        depend on where it lies in the grid of views, and most clicks share theirs with many.
        """
        able = np.flatnonzero((pixels >= self.min_pixels).any(axis=0))
        alike: dict[int, Plan] = {}
        frames: list[int] = []
        for k in draw(able, TRIES, rng) if able.size else ():
            each = self._plan(panorama, int(k), views, rng)
            if each is None or pixels[each.views[0], k] < self.min_pixels:
                continue
            prompted = [frame for frame in each.conditioning if frame < self.frames]
            frames = frames or prompted
            if prompted == frames:
                alike.setdefault(int(k), each)
            if len(alike) == self.objects:
                break
        if not alike:
            raise NoObjectError(panorama.name)
        chosen = draw(np.array(list(alike)), self.objects, rng)
        plans = [alike[int(k)] for k in chosen]
        prompts = {}
        for frame in frames:
            spots = np.array([each.conditioning[frame] for each in plans])
            prompts[frame] = Points(
                spots[..., :2].astype(np.float32), spots[..., 2].astype(np.int32)
            )
        return chosen, np.array([each.views[: self.frames] for each in plans]).T, prompts

    def _plan(
        self, panorama: Panorama, k: int, views: Views, rng: np.random.Generator
    ) -> Plan | None:
        """The video of one object for its stored click, or for one anywhere on it."""
        x, y = panorama.clicks[k]
        if rng.random() < 0.5:
            rows, columns = np.nonzero(panorama.ids == panorama.objects[k])
            pixel = rng.integers(len(rows))
            x, y = columns[pixel], rows[pixel]
        return plan([Click(int(x), int(y), POSITIVE)], views, self._cycles(views), self.image_size)

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
