"""How good a network is along the scan, on fixed objects of panoramas that it is not trained on.

Three numbers: the IoU in views that see the click; the IoU in views that are reached through memory
alone, which is what the paper fine-tunes for; and the mIoU on whole panoramas, which is what users
get and what the best weights are chosen by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sap_model.clicks import POSITIVE, Click
from sap_model.metrics import iou
from sap_model.model.build import build
from sap_model.model.tracker import ScanTracker
from sap_model.predict.methods import make
from sap_model.predict.objects import Prompt
from sap_model.train.clip import ClipBatch, NoObjectError, collate
from sap_model.train.network import SapTrain
from sap_model.train.scan_clips import ScanClips
from sap_model.train.settings import TrainSettings
from sap_model.train.shard_rows import ShardRows

SHOWN, FRAMES = 3, 12
"""Of a picture: clips, with their first object each; and frames of each, at most."""

LIGHT, TRUTH = (255, 170, 0), (0, 255, 90)
"""Colours of a predicted mask and of the true outline, RGB."""


@dataclass(frozen=True)
class ValidationScore:
    """Means over objects and frames.

    Attributes:
        clicked: IoU on frames that see the click.
        memory: IoU on other frames that show the object.
        presence: Share of frames on which the object score is right about whether it is there.
        views: Frames behind `clicked` and `memory`.
        panorama: mIoU of objects on panoramas, after one click; None where none was predicted.
    """

    clicked: float
    memory: float
    presence: float
    views: tuple[int, int]
    panorama: float | None = None

    @property
    def criterion(self) -> float:
        """The number by which the best weights are chosen."""
        return (self.clicked + self.memory) / 2 if self.panorama is None else self.panorama


def fixed_clips(source: ScanClips, count: int, seed: int = 0) -> list[ClipBatch]:
    """`count` clips, spread over the panoramas, the same every time."""
    clips = []
    for k in range(count):
        rng = np.random.default_rng([seed, k])
        try:
            clips.append(collate([source.clip(k * len(source) // count, rng)]))
        except NoObjectError:
            continue
    return clips


def shown(clips: Sequence[ClipBatch]) -> list[int]:
    """Which clips are drawn: `SHOWN` of them, spread evenly."""
    return list(range(len(clips)))[:: max(1, len(clips) // SHOWN)][:SHOWN]


@torch.no_grad()
def score(
    network: SapTrain, clips: Sequence[ClipBatch], min_pixels: int, half: bool = False
) -> tuple[ValidationScore, list[Tensor]]:
    """Follow the objects of clips as at inference.

    Args:
        network: On any device; its mode is left as it was.
        clips: With given prompts.
        min_pixels: Frames on which fewer pixels of an object are seen are left out.
        half: Compute in bfloat16 where that is safe, as in training.

    Returns:
        The score; and of each clip that is `shown`, the predicted masks of its first object on the
        first `FRAMES` frames, (T, S, S) bool on the CPU.
    """
    training, device = network.training, next(network.parameters()).device
    network.eval()
    ious: dict[bool, list[Tensor]] = {True: [], False: []}
    right: list[Tensor] = []
    predictions, drawn = [], shown(clips)
    for number, clip in enumerate(clips):
        batch = clip.to(device)
        truth = batch.masks
        masks, scores = torch.zeros_like(truth), torch.zeros(truth.shape[:2], device=device)
        network.seed(0)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            tracked = network(batch)
        for objects, outputs in tracked:
            for frame, output in enumerate(outputs):
                masks[frame, objects] = output["pred_masks_high_res"][:, 0] > 0
                logits = output["multistep_object_score_logits"][-1][:, 0]
                scores[frame, objects] = logits.float()
        if number in drawn:
            predictions.append(masks[:FRAMES, 0].cpu())
        pixels = truth.flatten(2).sum(-1)
        both, either = (part.flatten(2).sum(-1) for part in (masks & truth, masks | truth))
        right.append((scores > 0) == (pixels > 0))
        prompted = torch.zeros_like(truth[..., 0, 0])
        for k, prompts in enumerate(batch.prompts or ()):
            prompted[list(prompts), k] = True
        enough = pixels >= min_pixels
        for kind in ious:
            ious[kind].append((both / either.clamp(min=1))[enough & (prompted == kind)])
    network.train(training)
    # a clip may have frames of one kind only: all that a method without a scan has are clicked
    clicked, memory = (torch.cat([torch.empty(0, device=device), *ious[k]]) for k in (True, False))
    return (
        ValidationScore(
            float(clicked.mean()) if len(clicked) else 0.0,
            float(memory.mean()) if len(memory) else 0.0,
            float(torch.cat([part.flatten() for part in right]).float().mean()),
            (len(clicked), len(memory)),
        ),
        predictions,
    )


def panorama_iou(
    network: SapTrain, settings: TrainSettings, rows: ShardRows, panoramas: int, objects: int
) -> float:
    """mIoU on panoramas after one click, with the method that the weights are trained for.

    Args:
        network: On any device.
        settings: Of its training.
        rows: The panoramas.
        panoramas: How many are taken, evenly spaced.
        objects: Objects of each, at most: evenly spaced by area.
    """
    tracker = cast(ScanTracker, build(settings.size, settings.image_size))
    tracker.load_state_dict(network.state_dict())
    device = next(network.parameters()).device
    method = make(settings.method, tracker.to(device))
    ious: list[float] = []
    for number in range(min(panoramas, len(rows))):
        row = rows[number * len(rows) // min(panoramas, len(rows))]
        areas = np.bincount(row.ids.ravel(), minlength=int(row.objects.max(initial=0)) + 1)
        order = row.objects.argsort(kind="stable")
        order = order[areas[row.objects[order]].argsort(kind="stable")]
        count = min(objects, len(order))
        chosen = [int(order[(2 * i + 1) * len(order) // (2 * count)]) for i in range(count)]
        method.set_panorama(row.image)
        prompts = []
        for k in chosen:
            x, y = row.clicks[k].tolist()
            prompts.append(Prompt([Click(x, y, POSITIVE)]))
        for k, prediction in zip(chosen, method.predict_many(prompts), strict=True):
            ious.append(iou(prediction.mask, row.ids == row.objects[k]))
    return float(np.mean(ious)) if ious else 0.0


def draw(path: Path, clips: Sequence[ClipBatch], predictions: Sequence[Tensor]) -> None:
    """A picture of what `score` gives to draw: predictions, and the truth of the same clips."""
    rows = []
    for k, masks in zip(shown(clips), predictions, strict=True):
        clip = clips[k]
        images = clip.images.permute(0, 2, 3, 1).numpy()
        truth = clip.masks[:, 0].numpy()
        tiles = [
            _tile(images[clip.views[t, 0]], mask, truth[t], t in (clip.prompts or ({},))[0])
            for t, mask in enumerate(masks.numpy())
        ]
        rows.append(np.hstack(tiles))
    width = min(row.shape[1] for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.vstack([row[:, :width] for row in rows])[..., ::-1])


def _tile(
    image: NDArray[np.uint8], mask: NDArray[np.bool_], truth: NDArray[np.bool_], clicked: bool
) -> NDArray[np.uint8]:
    tile = image.copy()
    tile[mask] = (0.5 * tile[mask] + 0.5 * np.array(LIGHT)).astype(np.uint8)
    outline, _ = cv2.findContours(truth.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(tile, outline, -1, TRUTH, 1)
    if clicked:  # a bar above frames that see the click
        tile[:3] = TRUTH
    return np.pad(tile, ((0, 2), (0, 2), (0, 0)))
