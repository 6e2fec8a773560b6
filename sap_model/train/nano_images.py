"""Training images of the nano model: views into panoramas, pasted objects, and dead leaves.

Each image is drawn from a random state alone, so that step n of a run is the same whenever it is
computed. Masks are id maps: 0 is what no object covers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sap_model.scan.maps import resample
from sap_model.scan.views import pad
from sap_model.train.crops import reading, recoloured
from sap_model.train.shard_rows import DecodedPanorama, ShardRows

FOV = (20.0, 100.0)
"""Fields of view in degrees: as narrow as the zoom's last view, wider than the scan's."""

MIN_PIXELS = 24
"""Pixels of an object that is worth a click, at 256 × 256."""

FEW = 4
"""A view with fewer objects is drawn again, up to `TRIES` times."""

TRIES = 6


@dataclass(frozen=True)
class Scene:
    """An image and the objects in it.

    Attributes:
        image: (S, S, 3) uint8 RGB.
        ids: (S, S) uint16, with 0 for the background.
        objects: (N,) ids that are large enough to be clicked.
    """

    image: NDArray[np.uint8]
    ids: NDArray[np.uint16]
    objects: NDArray[np.int64]


@dataclass(frozen=True)
class PaddedPanorama:
    """A panorama, padded for `cv2.remap`."""

    image: NDArray[np.uint8]
    ids: NDArray[np.uint16]
    width: int


class Pool:
    """The panoramas that a run trains on, decoded and kept; more may be packed while it runs.

    Args:
        folders: Folders of shards.
        split: Of the rows.
    """

    def __init__(self, folders: Sequence[str], split: str = "train") -> None:
        self.folders, self.split = tuple(folders), split
        self.sources: dict[str, PaddedPanorama] = {}
        self.scenes: set[str] = set()
        self.refresh()

    def refresh(self) -> None:
        """Decode what was packed since the last call."""
        rows = ShardRows(self.folders, self.split)
        names = [
            row["image_id"] for reader in rows.readers for row in reader.annotations(["image_id"])
        ]
        for index, name in enumerate(names):
            if name not in self.sources:
                self.sources[name] = _source(rows[index])
        self.scenes = rows.scenes()

    def __len__(self) -> int:
        return len(self.sources)

    def draw(self, rng: np.random.Generator) -> PaddedPanorama:
        """One of the panoramas."""
        names = sorted(self.sources)
        return self.sources[names[int(rng.integers(len(names)))]]


def _source(panorama: DecodedPanorama) -> PaddedPanorama:
    known = np.isin(panorama.ids, panorama.objects)
    ids = np.where(known, panorama.ids, 0).astype(np.uint16)
    return PaddedPanorama(pad(panorama.image, 1), pad(ids, 1), panorama.ids.shape[1])


def view(
    source: PaddedPanorama, size: int, rng: np.random.Generator, fov: float | None = None
) -> Scene:
    """A perspective image (S, S) that looks anywhere, with `FOV` drawn evenly in the tangent."""
    for _ in range(TRIES):
        yaw, pitch = rng.uniform(-np.pi, np.pi), np.arcsin(rng.uniform(-0.95, 0.95))
        roll = np.radians(rng.normal(0, 5))
        low, high = np.tan(np.radians(FOV) / 2)
        angle = fov or float(np.degrees(2 * np.arctan(rng.uniform(low, high))))
        where = reading(yaw, pitch, roll, angle, size, source.width)
        ids = resample(source.ids, where, cv2.INTER_NEAREST)
        objects = visible(ids)
        if len(objects) >= FEW:
            break
    image = resample(source.image, where)
    if rng.random() < 0.5:
        image, ids = image[:, ::-1], ids[:, ::-1]
    return Scene(np.ascontiguousarray(image), np.ascontiguousarray(ids), objects)


def visible(ids: NDArray[np.uint16]) -> NDArray[np.int64]:
    """Ids with at least `MIN_PIXELS` pixels, scaled from 256 × 256."""
    counts = np.bincount(ids.ravel())
    counts[0] = 0
    return np.flatnonzero(counts >= MIN_PIXELS * ids.size / 256**2)


def varied(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Other colours; now and then grey, blurred or noisy."""
    image = recoloured(image, rng)
    if rng.random() < 0.1:
        grey = image.mean(axis=-1, keepdims=True)
        image = np.broadcast_to(grey, image.shape).astype(np.uint8)
    if rng.random() < 0.2:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.5)), np.uint8)
    if rng.random() < 0.25:
        noise = rng.normal(0, rng.uniform(1, 12), image.shape)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(image)


def pasted(scene: Scene, donor: Scene, count: int, rng: np.random.Generator) -> Scene:
    """A scene with up to `count` objects of another one pasted in: moved, scaled and mirrored."""
    if not len(donor.objects):
        return scene
    image, ids = scene.image.copy(), scene.ids.copy()
    size, name = len(ids), int(ids.max())
    for key in rng.choice(donor.objects, count):
        mask = donor.ids == key
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        if mask[box].size > 0.25 * mask.size:
            continue
        scale = float(np.exp(rng.uniform(-0.7, 0.7)))
        shape = np.maximum(np.round(np.array(mask[box].shape[::-1]) * scale), 4).astype(int)
        shape = np.minimum(shape, size)
        cut = cv2.resize(donor.image[box], shape.tolist(), interpolation=cv2.INTER_LINEAR)
        part = cv2.resize(
            mask[box].astype(np.uint8), shape.tolist(), interpolation=cv2.INTER_NEAREST
        ).view(bool)
        if rng.random() < 0.5:
            cut, part = cut[:, ::-1], part[:, ::-1]
        cut = recoloured(np.asarray(cut, np.uint8), rng)
        x, y = rng.integers(0, size - shape[0] + 1), rng.integers(0, size - shape[1] + 1)
        name += 1
        place = slice(y, y + shape[1]), slice(x, x + shape[0])
        image[place][part] = cut[part]
        ids[place][part] = name
    return Scene(image, ids, visible(ids))


def dead_leaves(size: int, rng: np.random.Generator) -> Scene:
    """Overlapping textured shapes of all sizes: what an edge is, without any furniture."""
    image = _texture(size, size, rng)
    ids = np.zeros((size, size), np.uint16)
    for name in range(1, int(rng.integers(12, 40))):
        radius = min(size * (0.03 * rng.pareto(1.2) + 0.02), size * 0.4)
        side = int(2 * radius) + 3
        middle = side / 2
        shape = np.zeros((side, side), np.uint8)
        if rng.random() < 0.4:
            axes = (radius * rng.uniform(0.4, 1.0, 2)).astype(int) + 1
            centre = (int(middle), int(middle))
            cv2.ellipse(shape, centre, axes.tolist(), rng.uniform(0, 180), 0, 360, (1,), -1)
        else:
            corners = int(rng.integers(3, 9))
            angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
            lengths = radius * rng.uniform(0.4, 1.0, corners)
            points = middle + lengths[:, None] * np.stack([np.cos(angles), np.sin(angles)], -1)
            cv2.fillPoly(shape, [points.astype(np.int32)], (1,))
        left, top = (rng.integers(-side // 2, size - side // 2, 2)).tolist()
        here = tuple(slice(max(start, 0), min(start + side, size)) for start in (top, left))
        there = tuple(
            slice(part.start - start, part.stop - start)
            for part, start in zip(here, (top, left), strict=True)
        )
        inside = shape[there].view(bool)
        image[here][inside] = _texture(inside.shape[0], inside.shape[1], rng)[inside]
        ids[here][inside] = name
    return Scene(image, ids, visible(ids))


def _texture(height: int, width: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Colour with soft light, and sometimes grain or stripes."""
    light = rng.normal(0, 18, (3, 3, 3)).astype(np.float32)
    texture: NDArray[Any] = cv2.resize(light, (width, height), interpolation=cv2.INTER_LINEAR)
    texture += rng.uniform(20, 235, 3).astype(np.float32)
    kind = rng.random()
    if kind < 0.3:
        cells = int(rng.integers(4, 48))
        grain = rng.normal(0, rng.uniform(5, 40), (cells, cells)).astype(np.float32)
        texture += cv2.resize(grain, (width, height))[..., None]
    elif kind < 0.5:
        y, x = np.mgrid[:height, :width].astype(np.float32)
        angle, period = rng.uniform(0, np.pi), rng.uniform(4, 30)
        wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * (2 * np.pi / period))
        texture += wave.astype(np.float32)[..., None] * rng.normal(0, 30, 3).astype(np.float32)
    return np.clip(texture, 0, 255).astype(np.uint8)


def innermost(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """The pixel (x, y) of a mask (S, S) that is farthest from its boundary."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, left = rows[0], columns[0]
    cut = np.pad(mask[top : rows[-1] + 1, left : columns[-1] + 1].astype(np.uint8), 1)
    depth = cv2.distanceTransform(cut, cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return int(left + x), int(top + y)


def anywhere(mask: NDArray[np.bool_], rng: np.random.Generator) -> tuple[int, int]:
    """Any pixel (x, y) of a mask (S, S)."""
    places = np.flatnonzero(mask)
    place = int(places[rng.integers(len(places))])
    return place % mask.shape[1], place // mask.shape[1]


def half_known(mask: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
    """A part of a mask (S, S), as a neighbouring view that sees only some of it would give.

    It ends at a straight line through the object, and its outline is somewhat wrong.
    """
    size = len(mask)
    known: NDArray[Any] = mask.astype(np.uint8)
    kernel = np.ones((3, 3), np.uint8)
    times = int(rng.integers(0, 3))
    if times:
        known = (cv2.erode if rng.random() < 0.5 else cv2.dilate)(known, kernel, iterations=times)
    if rng.random() < 0.8:
        x, y = anywhere(mask, rng)
        angle = rng.uniform(0, 2 * np.pi)
        rows, columns = np.mgrid[:size, :size]
        side = (columns - x) * np.cos(angle) + (rows - y) * np.sin(angle)
        known = known & (side > 0)
    known = known.astype(bool)
    return known if (known & mask).sum() >= 12 else mask
