"""What fine-tuning along the scan costs on GPUs, from the networks' own arithmetic.

    forward, backward = count("large")
    work = clip_flops(forward, objects=6, frames=48, conditioning=8, images=24)
    work += clip_flops(backward, objects=6, frames=48, conditioning=8, images=24)
    hours(work, clips=183_440, gpus=8, flops_per_second=0.3 * 989e12)

Operations are counted on the real networks by torch, on its meta device, which computes nothing: no
GPU and little memory are needed. What a GPU makes of its peak is for the caller to assume. Of the
operations only products of matrices, convolutions and attention count; the seven corrections of a
prompted frame, which run the small mask decoder alone, do not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sap_model.model.build import build
from sap_model.train.clip import ClipBatch
from sap_model.train.network import PROMPTS, TRAIN, SapTrain

RECENT = 6
"""Followed frames that a frame looks back at, besides all its conditioning frames (SAM2: 7 - 1)."""


@dataclass(frozen=True)
class Flops:
    """Operations of the parts of a pass; a multiplication with its addition is two.

    Attributes:
        encode: One image through the encoder.
        condition: One object on a frame with a prompt, its memory included.
        follow: One object on a frame that looks back at one memory.
        memory: For each memory more.
    """

    encode: float
    condition: float
    follow: float
    memory: float


def count(size: str, image_size: int = 1024, checkpointing: bool = True) -> tuple[Flops, Flops]:
    """Operations of training with a frozen encoder.

    Args:
        size, image_size: As in `sap_model.model.build`.
        checkpointing: Activations are computed again in the backward pass, which is counted.

    Returns:
        Those of the forward and of the backward pass, which leaves the encoder out.
    """
    prompts = PROMPTS | {"num_correction_pt_per_frame": 0}
    network = build(size, image_size, TRAIN, checkpointing=checkpointing, **prompts)
    network = cast(SapTrain, network.to("meta").train())
    with sdpa_kernel(SDPBackend.MATH):  # attention as products of matrices, which are counted
        encode = _counted(lambda: network.encode(_batch(image_size, 1).images))[0]
        one, two, three = (_passes(network, _batch(image_size, frames)) for frames in (1, 2, 3))
    parts = []
    for k, encoding in enumerate((encode, 0.0)):
        first, second = two[k] - one[k], three[k] - two[k]
        parts.append(Flops(encoding, one[k] - encoding, first, second - first))
    return parts[0], parts[1]


def clip_flops(parts: Flops, objects: int, frames: int, conditioning: int, images: int) -> float:
    """Operations of one pass over a clip.

    Args:
        parts: Of the pass.
        objects: K.
        frames: T of each object.
        conditioning: Frames with a prompt among them, which SAM2 goes through first.
        images: That are encoded: 24 where objects and cycles share them, K times T where not.

    >>> clip_flops(Flops(100, 10, 20, 1), objects=2, frames=4, conditioning=1, images=3)
    446
    """
    memories = sum(conditioning + min(k, RECENT) - 1 for k in range(frames - conditioning))
    tracking = conditioning * parts.condition + (frames - conditioning) * parts.follow
    return images * parts.encode + objects * (tracking + memories * parts.memory)


def hours(work: float, clips: int, gpus: int, flops_per_second: float) -> float:
    """Hours for so many clips.

    Args:
        work: Operations of a clip.
        clips: Of the run.
        gpus: That share it.
        flops_per_second: That one of them sustains.

    >>> hours(1e15, clips=7200, gpus=2, flops_per_second=1e14)
    10.0
    """
    return work * clips / (gpus * flops_per_second) / 3600


def loader_cores(work: float, seconds: float, gpus: int, flops_per_second: float) -> float:
    """CPU cores that make clips as fast as the GPUs use them up.

    Args:
        work: Operations of a clip.
        seconds: CPU-seconds to make one.
        gpus, flops_per_second: As in `hours`.
    """
    return seconds * gpus * flops_per_second / work


def _batch(image_size: int, frames: int) -> ClipBatch:
    """One object on `frames` frames that show the same image, clicked on the first of them."""
    with torch.device("meta"):
        return ClipBatch(
            torch.zeros(1, 3, image_size, image_size),
            torch.zeros(1, image_size, image_size, dtype=torch.uint8),
            torch.zeros(frames, 1, dtype=torch.int64),
            torch.zeros(1, dtype=torch.int64),
            ({0: ((0.0, 0.0, 1),)},),
        )


def _passes(network: SapTrain, batch: ClipBatch) -> tuple[float, float]:
    """Operations of a forward pass over a batch, and of the backward pass."""
    forward, (tracked,) = _counted(lambda: network(batch))
    total: Tensor = sum(
        output["multistep_pred_multimasks"][0].sum()
        + output["multistep_pred_ious"][0].sum()
        + output["multistep_object_score_logits"][0].sum()
        for output in tracked.outputs
    )
    backward, _ = _counted(total.backward)
    return forward, backward


def _counted(run: Callable[[], Any]) -> tuple[float, Any]:
    with FlopCounterMode(display=False) as counter:
        found = run()
    return counter.get_total_flops(), found
