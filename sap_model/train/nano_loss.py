"""What the nano model's encoder and decoder learn from single views: prompts and losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor
from torch.nn import functional

from sap_model.model.tracker import DEVIATION, MEAN
from sap_model.scan.views import SOFT_RANGE
from sap_model.train.nano_images import Scene, anywhere, half_known, innermost

Prompts = dict[str, Tensor]


@dataclass(frozen=True)
class Asked:
    """What is asked of each image of a step.

    Attributes:
        objects: First clicks.
        masks, corrections: Second prompts: half-known masks, and clicks on errors.
    """

    objects: int = 16
    masks: int = 3
    corrections: int = 3


def losses_of(
    network: SAM2Base,
    scenes: Sequence[Scene],
    asked: Asked,
    rng: np.random.Generator,
) -> dict[str, Tensor]:
    """Losses of a step: first clicks, then second prompts over the same encoded images."""
    features = encode(network, to_input([scene.image for scene in scenes]))
    count = asked.objects
    owners, masks, clicks = [], [], []
    for number, scene in enumerate(scenes):
        chosen = rng.permutation(scene.objects)
        chosen = np.resize(chosen, count)
        for place, key in enumerate(chosen):
            mask = scene.ids == key
            inner = rng.random() < 0.5 and place < len(scene.objects)
            clicks.append(innermost(mask) if inner else anywhere(mask, rng))
            owners.append(number)
            masks.append(mask)
    truth = np.stack(masks)
    target = torch.from_numpy(truth)
    first = decode(network, features, owners, _prompts([[(*click, 1)] for click in clicks]))
    losses = mask_losses(first, target, multimask=True)

    # second prompts: of each image the first ones get a mask, the next ones a correction
    guesses = functional.interpolate(
        first.masks[:, :1].detach(), truth.shape[1:], mode="bilinear", align_corners=False
    )[:, 0].numpy()
    again: list[int] = []
    points: list[list[tuple[int, int, int]]] = []
    dense: list[NDArray[np.float32]] = []
    low = first.masks.shape[-1]
    for number in range(len(scenes)):
        start = number * count
        for index in range(start, start + asked.masks):
            known = half_known(truth[index], rng)
            inside = known & truth[index]
            spot = innermost(inside) if rng.random() < 0.7 else anywhere(inside, rng)
            again.append(index)
            points.append([(*spot, 1), (0, 0, -1)])
            soft = known.astype(np.float32).reshape(low, known.shape[0] // low, low, -1)
            dense.append((soft.mean(axis=(1, 3)) - 0.5) * 2 * SOFT_RANGE)
        start += asked.masks
        for index in range(start, start + asked.corrections):
            wrong = np.not_equal(guesses[index] > 0, truth[index])
            if wrong.sum() < 4:
                continue
            places = truth[index] & wrong, ~truth[index] & wrong
            part = int(places[1].sum() > places[0].sum())
            where = innermost(places[part])
            again.append(index)
            points.append([(*clicks[index], 1), (*where, 1 - part)])
            dense.append(np.clip(first.masks[index, 0].detach().numpy(), -32, 32))
    prompts = _prompts(points) | {"masks": torch.from_numpy(np.stack(dense))[:, None]}
    second = decode(network, features, [owners[index] for index in again], prompts)
    more = mask_losses(second, target[again], multimask=False)
    share = len(again) / len(truth)
    losses |= {f"again_{name}": value * share for name, value in more.items()}
    return losses


@dataclass(frozen=True)
class Decoded:
    """What the decoder says of B prompts.

    Attributes:
        masks: (B, 4, S / 4, S / 4) logits: the single mask, then three candidates.
        ious: (B, 4) estimates.
        scores: (B, 1) logits that there is an object.
    """

    masks: Tensor
    ious: Tensor
    scores: Tensor


def to_input(images: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Images (S, S, 3) as the encoder takes them: (N, 3, S, S), channels last."""
    batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255.0
    mean, deviation = torch.tensor(MEAN), torch.tensor(DEVIATION)
    return (batch - mean[:, None, None]) / deviation[:, None, None]


def encode(network: SAM2Base, images: Tensor) -> list[Tensor]:
    """Features of images at strides 4 (16 channels), 8 (32) and 16 (128)."""
    fine, middle, coarse = network.image_encoder(images)["backbone_fpn"]
    decoder = network.sam_mask_decoder
    coarse = coarse + network.no_mem_embed.view(1, -1, 1, 1)  # as SAM2 does it without memory
    return [part.contiguous() for part in (decoder.conv_s0(fine), decoder.conv_s1(middle), coarse)]


def decode(
    network: SAM2Base, features: list[Tensor], owners: Sequence[int], prompts: Prompts
) -> Decoded:
    """Decode B prompts, each over the image of its owner.

    Args:
        features: Of `encode`.
        owners: (B,) numbers of images.
        prompts: "coords" (B, P, 2), "labels" (B, P), and optionally "masks" (B, 1, S / 4, S / 4).
    """
    chosen = torch.tensor(owners)
    sparse, dense = network.sam_prompt_encoder(
        points=(prompts["coords"], prompts["labels"]), boxes=None, masks=prompts.get("masks")
    )
    fine, middle, coarse = (level[chosen] for level in features)
    masks, ious, _, scores = network.sam_mask_decoder.predict_masks(
        image_embeddings=coarse,
        image_pe=network.sam_prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        repeat_image=False,
        high_res_features=[fine, middle],
    )
    return Decoded(masks, ious, scores)


def _prompts(points: Sequence[Sequence[tuple[int, int, int]]]) -> Prompts:
    table = torch.tensor(points, dtype=torch.float32)
    return {"coords": table[..., :2], "labels": table[..., 2].int()}


def mask_losses(decoded: Decoded, truth: Tensor, multimask: bool) -> dict[str, Tensor]:
    """Losses of masks against truth (B, S, S) bool.

    The single mask is compared at half of the image's resolution. Of the three candidates, at a
    quarter, the best one learns.
    """
    truth = truth[:, None].float()
    half = functional.avg_pool2d(truth, 2)
    large = functional.interpolate(
        decoded.masks[:, :1], half.shape[2:], mode="bilinear", align_corners=False
    )
    entropy, dice, overlap = compared(large, half)
    losses = {
        "mask": 2 * entropy.mean(),
        "dice": dice.mean(),
        "iou": 0.3 * (decoded.ious[:, :1] - overlap).abs().mean(),
        "score": 0.05 * functional.softplus(-decoded.scores).mean(),
    }
    if multimask:
        quarter = functional.avg_pool2d(truth, 4)
        entropy, dice, overlap = compared(decoded.masks[:, 1:], quarter.expand(-1, 3, -1, -1))
        losses["candidates"] = 0.5 * (2 * entropy + dice).amin(dim=1).mean()
        losses["iou"] = losses["iou"] + 0.3 * (decoded.ious[:, 1:] - overlap).abs().mean()
    return losses


def compared(logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy, dice loss and IoU of masks (B, M, h, w), each (B, M).

    In the cross-entropy the object weighs as its area to the power of 0.7, so that small objects
    are not drowned by their background.
    """
    each = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    area = truth.mean(dim=(2, 3)).clamp(1e-5, 1 - 1e-5)
    on, off = area**0.7, (1 - area) ** 0.7
    inside = (each * truth).mean(dim=(2, 3)) / area
    outside = (each * (1 - truth)).mean(dim=(2, 3)) / (1 - area)
    entropy = (on * inside + off * outside) / (on + off)
    soft = logits.sigmoid()
    both = (soft * truth).sum(dim=(2, 3))
    dice = 1 - (2 * both + 1) / (soft.sum(dim=(2, 3)) + truth.sum(dim=(2, 3)) + 1)
    with torch.no_grad():
        hard, real = logits > 0, truth > 0.5
        union = (hard | real).sum(dim=(2, 3)).clamp(min=1)
        overlap = (hard & real).sum(dim=(2, 3)) / union
    return entropy, dice, overlap


def distillation(network: SAM2Base, teacher: SAM2Base, scenes: Sequence[Scene]) -> Tensor:
    """How far the encoder's features are from the teacher's, relative to their variance."""
    images = to_input([scene.image for scene in scenes])
    with torch.no_grad():
        wanted = teacher.image_encoder(images)["backbone_fpn"]
    found = network.image_encoder(images)["backbone_fpn"]
    parts = [(f - w).square().mean() / w.var() for f, w in zip(found, wanted, strict=True)]
    return torch.stack(parts).mean()


@torch.inference_mode()
def score(network: SAM2Base, scenes: Sequence[Scene], most: int = 12) -> dict[str, float]:
    """Mean IoU after one innermost click: of the single mask, of the candidate that is judged best,
    and of the best candidate."""
    found: dict[str, list[NDArray]] = {"single": [], "judged": [], "best": [], "small": []}
    for scene in scenes:
        features = encode(network, to_input([scene.image]))
        keys = scene.objects[np.linspace(0, len(scene.objects) - 1, most).astype(int)]
        masks = np.stack([scene.ids == key for key in np.unique(keys)])
        clicks = [[(*innermost(mask), 1)] for mask in masks]
        decoded = decode(network, features, [0] * len(masks), _prompts(clicks))
        large = functional.interpolate(
            decoded.masks, masks.shape[1:], mode="bilinear", align_corners=False
        )
        truth = torch.from_numpy(masks)[:, None].float().expand(-1, 4, -1, -1)
        overlap = compared(large, truth)[2]
        judged = overlap[:, 1:].gather(1, decoded.ious[:, 1:].argmax(dim=1, keepdim=True))
        found["single"].append(overlap[:, 0].numpy())
        found["judged"].append(judged[:, 0].numpy())
        found["best"].append(overlap[:, 1:].amax(dim=1).numpy())
        small = masks.sum(axis=(1, 2)) < 400
        found["small"].append(overlap[:, 0].numpy()[small])
    return {name: round(float(np.concatenate(parts).mean()), 4) for name, parts in found.items()}
