"""Random panoramas, prompts and clips: what is computed here needs no data and no weights."""

from __future__ import annotations

from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from training.loss_fns import CORE_LOSS_KEY

from sap_model.model.build import build
from sap_model.model.tracker import Points, PromptBatch
from sap_model.train.clip import ClipBatch
from sap_model.train.loss import Sam2Loss
from sap_model.train.network import TRAIN, SapTrain

VIEWS = 24
"""Of a panorama in the paper's scan."""

PROMPTED = (0, 1, 4, 23)
"""Frames of a cycle that see a click, as usual for one on the horizon."""


class StepResult(NamedTuple):
    """What a training step computed."""

    loss: float
    gradient: float
    """Norm of the gradient of all parameters."""


def panorama(width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Noise with coloured discs (W / 2, W, 3)."""
    draw = np.random.default_rng(seed)
    image = draw.integers(0, 60, (width // 2, width, 3), np.uint8)
    y, x = np.mgrid[: width // 2, :width]
    for _ in range(12):
        centre, radius = draw.uniform((0, 0), (width // 2, width)), draw.uniform(0.02, 0.08) * width
        image[np.hypot(y - centre[0], x - centre[1]) < radius] += draw.integers(
            60, 190, 3, np.uint8
        )
    return image


def prompts(frames: int, objects: int, side: int) -> PromptBatch:
    """Objects of different starts along the scan, each clicked in four views of every cycle."""
    views = (np.arange(frames)[:, None] + 3 * np.arange(objects)).T % VIEWS
    points = Points(np.full((objects, 1, 2), side / 2, np.float32), np.ones((objects, 1), np.int32))
    seen = {frame: points for frame in range(frames) if frame % VIEWS in PROMPTED}
    return PromptBatch(views.astype(np.int64), seen)


def clip(frames: int, objects: int, side: int, images: int = VIEWS) -> ClipBatch:
    """A clip of a panorama that is prompted as at inference: images uint8, on the CPU."""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (images, 3, side, side), generator=generator)
    truth = torch.zeros(images, side, side, dtype=torch.uint8)
    for k in range(objects):
        start = k * side // (2 * objects)
        truth[:, start : start + side // 2, start : start + side // 2] |= 1 << k
    every = torch.arange(objects)
    given = {
        frame: ((side / 2 - 1.0, side / 2 - 1.0, 1),)
        for frame in range(frames)
        if frame % VIEWS in PROMPTED
    }
    return ClipBatch(
        pictures.to(torch.uint8),
        truth,
        (torch.arange(frames)[:, None] + 3 * every) % images,
        every,
        tuple(given for _ in range(objects)),
    )


def trainer(size: str, side: int, checkpointing: bool) -> SapTrain:
    """A network with fresh weights, trained as `train` does it by default."""
    network = build(size, side, TRAIN, checkpointing=checkpointing, freeze_encoder=True)
    return cast(SapTrain, network).train()


def training_step(network: SapTrain, batch: ClipBatch, half: bool) -> StepResult:
    """Forward, loss and backward pass of a clip, on the device that the network is on.

    Args:
        network: Of `trainer`.
        batch: Of `clip`.
        half: Compute in bfloat16 where that is safe, as in training on GPUs.
    """
    parameters = [each for each in network.parameters() if each.requires_grad]
    device = parameters[0].device
    batch = batch.to(device)
    network.seed(0)
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        tracked = network(batch)
    losses: dict[str, Tensor] = Sam2Loss(network.checkpointing)(tracked, batch.masks)
    losses[CORE_LOSS_KEY].backward()
    norm = nn.utils.clip_grad_norm_(parameters, 0.1)
    result = StepResult(float(losses[CORE_LOSS_KEY].detach()), float(norm))
    network.zero_grad(set_to_none=True)
    return result
