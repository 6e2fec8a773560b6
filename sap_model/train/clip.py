"""`Clip`, which every source of training data returns, and `ClipBatch`, several as tensors.

A clip is what SAM2 calls a video, with its distinct images kept apart from the order in which each
object visits them. A panorama has 24 images, which all its objects share, whatever their starts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sap_model.model.tracker import DEVIATION, MEAN, Points
from sap_model.train.settings import MAX_OBJECTS


class NoObjectError(Exception):
    """A row, image or video has nothing in it that could be trained on; another one is taken."""


@dataclass(frozen=True)
class Clip:
    """V images, K objects, and T frames for each object.

    Attributes:
        images: (V, S, S, 3) uint8 RGB, at the size of the model's input.
        truth: (V, S, S) uint8; bit k tells whether a pixel belongs to object k. Masks may overlap.
        views: (T, K) int64: which image each object's frame t shows. On its first frame an object
            is visible.
        prompts: Frame: clicks on each object there, (K, P, 2) and (K, P), the same frames for all
            objects. None: prompts are drawn from the truth as in SAM2's training, on frame 0 first.
        name: What it was made from, for messages.
    """

    images: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    views: NDArray[np.int64]
    prompts: Mapping[int, Points] | None = None
    name: str = ""

    @property
    def shape(self) -> tuple:
        """Clips of equal shape can be a batch: T, and the frames and numbers of clicks."""
        if self.prompts is None:
            return len(self.views), None
        prompts = sorted(self.prompts.items())
        return len(self.views), tuple((frame, spots.labels.shape[1]) for frame, spots in prompts)


@dataclass(frozen=True)
class ClipBatch:
    """Clips of equal shape as tensors; B objects in all.

    Attributes:
        images: (V, 3, S, S) float32, normalised as SAM2 wants it, or uint8 before `to`.
        truth: (V, S, S) uint8, see `Clip`.
        views: (T, B) int64 into `images`.
        bits: (B,) int64: the bit of `truth` that tells of each object.
        prompts: Frame: {"point_coords": (B, P, 2), "point_labels": (B, P)}; or None.
    """

    images: Tensor
    truth: Tensor
    views: Tensor
    bits: Tensor
    prompts: dict[int, dict[str, Tensor]] | None

    @cached_property
    def masks(self) -> Tensor:
        """(T, B, S, S) bool: the truth on every frame."""
        bit = (1 << self.bits).to(torch.uint8)  # a byte per pixel all the way, not eight
        return (self.truth[self.views] & bit[:, None, None]).bool()

    def pin_memory(self) -> ClipBatch:
        """In memory from which a GPU copies while it computes; torch's loader asks for this."""
        return ClipBatch(
            self.images.pin_memory(),
            self.truth.pin_memory(),
            self.views.pin_memory(),
            self.bits.pin_memory(),
            self.prompts
            and {
                frame: {name: part.pin_memory() for name, part in points.items()}
                for frame, points in self.prompts.items()
            },
        )

    def to(self, device: torch.device) -> ClipBatch:
        """On another device, with the images normalised."""
        images = self.images.to(device, non_blocking=True).float() / 255.0
        mean, deviation = images.new_tensor(MEAN), images.new_tensor(DEVIATION)
        prompts = self.prompts and {
            frame: {name: part.to(device) for name, part in points.items()}
            for frame, points in self.prompts.items()
        }
        return ClipBatch(
            (images - mean[:, None, None]) / deviation[:, None, None],
            self.truth.to(device, non_blocking=True),
            self.views.to(device),
            self.bits.to(device),
            prompts,
        )


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
        given = [clip.prompts for clip in clips if clip.prompts is not None]
        prompts = {
            frame: {
                "point_coords": _joined([points[frame].coords for points in given]),
                "point_labels": _joined([points[frame].labels for points in given]),
            }
            for frame in given[0]
        }
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
