"""Batches of discs, made without any of the code that makes them for training."""

from __future__ import annotations

import torch

from sap_model.train.clip import ClipBatch

SIDE = 64
"""Of the images."""


def discs(frames: int = 4, objects: int = 3, images: int = 5, prompted: tuple = ()) -> ClipBatch:
    """Objects that move from image to image, each visiting the images in its own order.

    Args:
        frames, objects, images: T, B, V.
        prompted: Frames on which the centre of each object is clicked; none leaves prompts to SAM2.
    """
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    colours = torch.randint(60, 255, (objects, 3, 1, 1), generator=generator)
    pictures = torch.randint(0, 40, (images, 3, SIDE, SIDE), generator=generator)
    truth = torch.zeros(images, SIDE, SIDE, dtype=torch.uint8)
    centres = torch.empty(images, objects, 2)
    for v in range(images):
        for k in range(objects):
            centre = torch.tensor([14 + 16 * k, 16 + 8 * v])
            inside = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < (7 + k) ** 2
            pictures[v] = torch.where(inside, colours[k], pictures[v])
            truth[v] |= inside.to(torch.uint8) << k
            centres[v, k] = centre
    order = [torch.randperm(images, generator=generator)[:frames] for _ in range(objects)]
    views = torch.stack(order, dim=1)
    every = torch.arange(objects)
    prompts = tuple(
        {frame: ((*centres[views[frame, k], k].tolist(), 1),) for frame in prompted}
        for k in range(objects)
    )
    return ClipBatch(pictures.to(torch.uint8), truth, views, every, prompts if prompted else None)


def ready(batch: ClipBatch) -> ClipBatch:
    """With its images normalised, on the CPU."""
    return batch.to(torch.device("cpu"))
