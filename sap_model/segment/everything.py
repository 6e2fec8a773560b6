"""Segment everything in a panorama: SAM2's automatic mask generator, on the sphere.

    predictor.set_panorama(image)
    segments = predictor.segment_everything()
    segments[0].mask, segments[0].solid_angle

1. Points of equal area lie all over the sphere. Each goes to the view that sees it nearest to its
   centre, and is decoded there over the one encoding of that view.
2. Candidates stay whose estimated IoU and stability are high, as in SAM2's generator.
3. Of candidates that cover the same part of the sphere the best one stays, in whichever views they
   were found; one that its view cuts off yields to one that is seen whole.
4. What no view sees whole is followed into the other views, with the candidate as mask prompt.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from pipeline import sphere
from pipeline.errors import UserError
from pipeline.sphere import Floats
from sap_model.clicks import POSITIVE, Click
from sap_model.model.tracker import Features, ScanTracker
from sap_model.predict.formats import encode_rle, label_map
from sap_model.predict.objects import Prompt, solid_angle
from sap_model.scan.views import soft_masks
from sap_model.segment.duplicates import Candidates, best_of, best_of_view, best_on_sphere

AT_ONCE = 64
"""Points that are decoded together."""

STABILITY_OFFSET = 1.0
"""Stability: area of the logits above this, over area of those above its negative."""

BORDER_PIXELS = 2
"""Pixels on its view's border from which a mask counts as cut off."""

LEAST = {True: (0.8, 0.95), False: (0.2, 0.5)}
"""Least IoU and stability: SAM2's own for models with three candidates, which have its sizes; for
the small ones, which give one mask and estimate it low, a compromise: on one rendered panorama no
filter at all found more, with three times as many masks."""

TRUSTED = 0.5
"""IoU with its candidate that a followed mask must have; else the candidate stays."""


@dataclass(frozen=True)
class EverythingOptions:
    """What is looked for, and what is kept.

    Attributes:
        points: Points on the sphere.
        iou: Least IoU that the model estimates for a mask; `LEAST` says the model's default.
        stability: Least stability; as for `iou`.
        overlap: IoU on the sphere from which two masks are one object.
        follow: Complete masks that their views cut off.
        overlapping: Whether masks may overlap; otherwise smaller ones are cut out of larger ones.
    """

    points: int = 1536
    iou: float | None = None
    stability: float | None = None
    overlap: float = 0.7
    follow: bool = True
    overlapping: bool = True

    def __post_init__(self) -> None:
        if self.points < 1:
            raise UserError(f"POINTS={self.points} is less than 1; choose 256 to 8192")
        for name in ("iou", "stability", "overlap"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise UserError(f"{name} {value} is not between 0 and 1; choose one that is")

    def filters(self, model: ScanTracker) -> tuple[float, float]:
        """Least IoU and stability for a model."""
        iou, stability = LEAST[bool(model.multimask_output_in_sam)]
        return (
            iou if self.iou is None else self.iou,
            stability if self.stability is None else self.stability,
        )


@dataclass(frozen=True)
class Segment:
    """One mask of everything; kept compressed, because there are many."""

    rle: Mapping[str, Any]
    """Size (H, W) and counts, as pycocotools has them."""
    iou: float
    """The model's own estimate."""
    stability: float
    point: tuple[float, float]
    """Where it was found, panorama pixel x, y."""
    solid_angle: float
    """Steradian."""

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(H, W)."""
        return coco_mask.decode(self.rle).astype(bool)


class EverythingStep(NamedTuple):
    """How far `everything_steps` is."""

    stage: str
    """"decode", "follow" or "done"."""
    done: int
    total: int
    segments: list[Segment] | None = None
    """At the end."""
    seconds: Mapping[str, float] | None = None
    """At the end: of decoding and merging."""


class ProposingViews(Protocol):
    """Views that are encoded, and where they lie on the sphere."""

    features: Features

    def assign(self, points: Floats) -> NDArray[np.intp]:
        """Of each point (P, 2: x, y of the panorama), the view in which it is decoded."""

    def spots(self, view: int, points: Floats) -> Floats:
        """Points (P, 2) of the panorama as pixels (P, 2) of the model's input."""

    def samples(self, view: int, x: Floats, y: Floats, size: int) -> Sampling:
        """Which samples (x, y of the panorama) a view sees, and in which pixel of a mask."""

    def to_panorama(self, view: int, logits: NDArray[np.float32]) -> NDArray[np.bool_]:
        """The mask (H, W) of a view's logits (s, s)."""

    def is_cut(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which of masks (n, s, s) the view cuts off."""


class Sampling(NamedTuple):
    """Samples of the sphere that a view sees."""

    samples: NDArray[np.intp]
    """Their numbers."""
    pixel: NDArray[np.intp]
    """Of each, its pixel in a flattened mask (s * s)."""


class FollowingMethod(Protocol):
    """What completes masks that a view cuts off; `WarpPredictor` is one."""

    def predict_many(self, prompts: Sequence[Prompt], scores: bool = False) -> list[Any]: ...


def fibonacci_points(count: int, width: int) -> Floats:
    """Points (count, 2), x and y in panorama pixels, each in the middle of an equal solid angle.

    >>> fibonacci_points(2, 64).round(1).tolist()
    [[31.5, 10.2], [55.9, 20.8]]
    """
    number = np.arange(count)
    lat = np.arcsin(1 - (2 * number + 1) / count)
    lon = (number * np.pi * (3 - np.sqrt(5)) + np.pi) % (2 * np.pi) - np.pi
    return np.stack(sphere.lonlat_to_pixel(lon, lat, width, width // 2), axis=-1)


def sample_count(size: int) -> int:
    """Samples of the sphere for masks of `size` pixels across 90°: two for each of their pixels."""
    return int(min(2 * 4 * np.pi / (np.pi / 2 / size) ** 2, 2**18))


def everything_steps(
    model: ScanTracker,
    views: ProposingViews,
    points: Floats,
    width: int,
    options: EverythingOptions,
    follower: FollowingMethod | None = None,
) -> Iterator[EverythingStep]:
    """Segment everything in a panorama that is encoded, in steps.

    Args:
        model: Whose features the views hold.
        views: See there.
        points: (P, 2) x, y of the panorama.
        width: W.
        options: What is kept. `options.follow` needs a follower.
        follower: Completes masks that views cut off.

    Yields:
        A step after each view and after each mask that was followed; the last one has the segments,
        largest first.
    """
    began = time.monotonic()
    size = model.image_size // 4
    x, y = fibonacci_points(sample_count(size), width).T
    home = views.assign(points)
    chosen = np.unique(home)
    found: list[Candidates] = []
    for number, view in enumerate(chosen, start=1):
        here = points[home == view]
        sampling = views.samples(int(view), x, y, size)
        candidates = _propose(model, views, int(view), here, sampling, options)
        found.append(best_of_view(candidates, options.overlap))
        yield EverythingStep("decode", number, len(chosen))
    decoded = time.monotonic()
    kept = best_on_sphere(found, len(x), options.overlap)
    total = sum(len(one) for one in kept)
    segments: list[Segment] = []
    for candidates in kept:
        for each in range(len(candidates)):
            mask = views.to_panorama(candidates.view, candidates.logits[each].astype(np.float32))
            if options.follow and follower is not None and candidates.cut[each]:
                mask = _follow(follower, mask, candidates.points[each])
            if mask.any():
                segments.append(
                    Segment(
                        encode_rle(mask),
                        float(candidates.ious[each]),
                        float(candidates.stability[each]),
                        (float(candidates.points[each, 0]), float(candidates.points[each, 1])),
                        solid_angle(mask),
                    )
                )
            yield EverythingStep("follow", len(segments), total)
    segments = _without_duplicates(segments, x, y, options.overlap)
    segments.sort(key=lambda one: -one.solid_angle)
    if not options.overlapping:
        segments = without_overlap(segments)
    seconds = {"decode": decoded - began, "merge": time.monotonic() - decoded}
    yield EverythingStep("done", total, total, segments, seconds)


def without_overlap(segments: Sequence[Segment]) -> list[Segment]:
    """Segments of which smaller ones are cut out of larger ones; those that vanish are left out."""
    if not segments:
        return []
    masks = {number: one.mask for number, one in enumerate(segments, start=1)}
    height, width = segments[0].rle["size"]
    labels = label_map(masks, (height, width))
    left = []
    for number, one in enumerate(segments, start=1):
        mask = labels == number
        if mask.any():
            left.append(replace(one, rle=encode_rle(mask), solid_angle=solid_angle(mask)))
    return left


def _propose(
    model: ScanTracker,
    views: ProposingViews,
    view: int,
    points: Floats,
    sampling: Sampling,
    options: EverythingOptions,
) -> Candidates:
    """The candidates of a view that pass the filters."""
    least_iou, least_stability = options.filters(model)
    spots = views.spots(view, points).astype(np.float32)
    parts = []
    for start in range(0, len(points), AT_ONCE):
        logits, ious = model.propose(views.features, view, spots[start : start + AT_ONCE])
        inner = (logits > STABILITY_OFFSET).sum(dim=(-1, -2))
        outer = (logits > -STABILITY_OFFSET).sum(dim=(-1, -2))
        stability = inner / outer.clamp(min=1)
        good = (ious >= least_iou) & (stability >= least_stability) & (inner > 0)
        where = torch.nonzero(good)[:, 0].cpu().numpy() + start
        parts.append(
            (
                logits[good].cpu().numpy().astype(np.float16),
                ious[good].cpu().numpy(),
                stability[good].cpu().numpy(),
                points[where],
            )
        )
    logits, ious, stability, found_at = (np.concatenate(part) for part in zip(*parts, strict=True))
    masks = logits > 0
    return Candidates(
        view=view,
        logits=logits,
        ious=ious,
        stability=stability,
        points=found_at,
        cut=views.is_cut(masks),
        index=sampling.samples,
        sampled=masks.reshape(len(masks), masks.shape[1] * masks.shape[2])[:, sampling.pixel],
    )


def _follow(follower: FollowingMethod, mask: NDArray[np.bool_], point: Floats) -> NDArray[np.bool_]:
    """A mask that its view cut off, completed by the other views."""
    if not mask.any():
        return mask
    (found,) = follower.predict_many([Prompt([Click(point[0], point[1], POSITIVE)], mask=mask)])
    # what was seen is part of what is found, or the model took something else
    seen = np.count_nonzero(found.mask & mask) / np.count_nonzero(mask)
    completed: NDArray[np.bool_] = found.mask
    return completed if seen >= TRUSTED else mask


def _without_duplicates(
    segments: list[Segment], x: Floats, y: Floats, overlap: float
) -> list[Segment]:
    """Segments of which no two are one object: masks that were followed may have become equal."""
    if not segments:
        return []
    height, width = segments[0].rle["size"]
    column, row = sphere.nearest_pixel(x, y, width, height)
    sampled = np.stack([one.mask[row, column] for one in segments])
    quality = np.array([one.iou * one.stability for one in segments])
    return [segments[each] for each in best_of(sampled, quality, overlap)]


def resized(logits: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Logits (s, s) as a soft mask (size, size)."""
    large = cv2.resize(logits, (size, size), interpolation=cv2.INTER_LINEAR)
    return soft_masks(np.asarray(large))


def touches_border(masks: NDArray[np.bool_], sides: str = "tblr") -> NDArray[np.bool_]:
    """Which of masks (n, s, s) have `BORDER_PIXELS` on the given sides of the border."""
    edges = {"t": masks[:, 0], "b": masks[:, -1], "l": masks[:, :, 0], "r": masks[:, :, -1]}
    return sum(edges[side].sum(axis=1) for side in sides) >= BORDER_PIXELS
