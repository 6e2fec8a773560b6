"""`Clip`, which every source of training data returns, and `ClipBatch`, several as tensors.

A clip is what SAM2 calls a video, but its distinct images are kept apart from the order in which
each object visits them: a panorama has 24 images, which all its objects share, whatever view each
object starts from. Objects of one clip may be prompted on different frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sap_model.model.tracker import DEVIATION, MEAN
from sap_model.predict.prompts import Spots
from sap_model.train.settings import MAX_OBJECTS

Prompts = Mapping[int, Spots]
"""Frame: the clicks (u, v, label) on one object there, in pixels of the model's input."""


class NoObjectError(Exception):
    """A row, image or video holds nothing to train on; the caller takes another one."""


@dataclass(frozen=True)
class Clip:
    """V images, K objects, and T frames for each object.

    Attributes:
        images: (V, S, S, 3) uint8 RGB, at the size of the model's input.
        truth: (V, S, S) uint8; bit k is set where a pixel belongs to object k. Masks may overlap.
        views: (T, K) int64: which image each object's frame t shows. On its first frame an object
            is visible.
        prompts: For each object, its clicks by frame. None: prompts are drawn from the truth as in
            SAM2's training, on frame 0 first.
        name: What it was made from, for messages.
    """

    images: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    views: NDArray[np.int64]
    prompts: Sequence[Prompts] | None = None
    name: str = ""

    @property
    def shape(self) -> tuple[int, bool]:
        """Clips of equal shape can be one batch: T, and whether clicks are given."""
        return len(self.views), self.prompts is not None


@dataclass(frozen=True)
class ClipBatch:
    """Clips of equal shape as tensors; B objects in all.

    Attributes:
        images: (V, 3, S, S) float32, normalised for SAM2; uint8 before `to`.
        truth: (V, S, S) uint8, see `Clip`.
        views: (T, B) int64 into `images`.
        bits: (B,) int64: the bit of `truth` of each object.
        prompts: For each of the B objects, its clicks by frame; or None, see `Clip`.
    """

    images: Tensor
    truth: Tensor
    views: Tensor
    bits: Tensor
    prompts: tuple[Prompts, ...] | None

    @cached_property
    def masks(self) -> Tensor:
        """(T, B, S, S) bool: the truth on every frame."""
        bit = (1 << self.bits).to(torch.uint8)  # stays one byte per pixel, not eight
        return (self.truth[self.views] & bit[:, None, None]).bool()

    def pin_memory(self) -> ClipBatch:
        """A copy in page-locked memory, from which a GPU copies while it computes; torch's loader
        calls this."""
        return replace(
            self,
            images=self.images.pin_memory(),
            truth=self.truth.pin_memory(),
            views=self.views.pin_memory(),
            bits=self.bits.pin_memory(),
        )

    def to(self, device: torch.device) -> ClipBatch:
        """The batch on another device, with the images normalised."""
        images = self.images.to(device, non_blocking=True).float() / 255.0
        mean, deviation = images.new_tensor(MEAN), images.new_tensor(DEVIATION)
        return replace(
            self,
            images=(images - mean[:, None, None]) / deviation[:, None, None],
            truth=self.truth.to(device, non_blocking=True),
            views=self.views.to(device, non_blocking=True),
            bits=self.bits.to(device, non_blocking=True),
        )


class Tracked(NamedTuple):
    """Objects of a batch that were followed together.

    Attributes:
        objects: (G,) int64: their numbers in the batch.
        outputs: SAM2Train's outputs of every frame, in order.
    """

    objects: Tensor
    outputs: list[dict[str, Any]]


def collate(clips: Sequence[Clip]) -> ClipBatch:
    """Clips of equal shape as one batch, on the CPU, images still uint8.

    Raises:
        ValueError: Their shapes differ.
    """
    if len({clip.shape for clip in clips}) != 1:
        raise ValueError(f"clips of different shapes: {[clip.shape for clip in clips]}")
    firsts = np.cumsum([0, *(len(clip.images) for clip in clips)])
    views = [clip.views + first for clip, first in zip(clips, firsts, strict=False)]
    prompts = None
    if clips[0].prompts is not None:
        prompts = tuple(each for clip in clips for each in clip.prompts or ())
    return ClipBatch(
        _joined([clip.images for clip in clips]).permute(0, 3, 1, 2),
        _joined([clip.truth for clip in clips]),
        torch.from_numpy(np.concatenate(views, axis=1)),
        _joined([np.arange(clip.views.shape[1]) for clip in clips]),
        prompts,
    )


def _joined(parts: Sequence[NDArray]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts))


def bits_of(masks: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Masks (K, ..., S, S) of at most `MAX_OBJECTS` objects → (..., S, S) uint8, bit k for mask k.

    >>> bits_of(np.array([[[True, False]], [[True, True]]]))
    array([[3, 2]], dtype=uint8)
    """
    if len(masks) > MAX_OBJECTS:
        raise ValueError(f"{len(masks)} objects, not 1 to {MAX_OBJECTS}")
    truth = np.zeros(masks.shape[1:], np.uint8)
    for bit, mask in enumerate(masks):
        truth |= mask.astype(np.uint8) << bit
    return truth
