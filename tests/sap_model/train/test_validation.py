"""Scores of predictions whose IoU is known, and a picture that shows them."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from pycocotools import mask as coco
from torch import nn

from pipeline.shards.reader import ShardReader, decode_image
from sap_model.clicks import Click
from sap_model.model.build import build
from sap_model.predict.memory import MemoryPredictor
from sap_model.train import validation
from sap_model.train.clip import ClipBatch, Tracked
from sap_model.train.network import TRAIN
from sap_model.train.scan_clips import ScanClips, ShardRows
from sap_model.train.settings import TrainSettings
from tests.sap_model.models import responsive
from tests.sap_model.train.clips import SIDE, discs


class Answers(nn.Module):
    """A network that answers the truth, nothing, or everything; in two groups of objects."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.weight, self.what = nn.Parameter(torch.zeros(1)), what

    def seed(self, seed: int) -> None: ...

    def forward(self, batch: ClipBatch) -> list[Tracked]:
        assert not self.training and not torch.is_grad_enabled()
        masks = {"truth": batch.masks, "nothing": batch.masks & False,
                 "everything": batch.masks | True}[self.what]  # fmt: skip
        groups = [[k for k in range(masks.shape[1]) if k % 2 == odd] for odd in (1, 0)]
        return [
            Tracked(torch.tensor(group), [answer(mask[group]) for mask in masks])
            for group in groups
        ]


def answer(mask: torch.Tensor) -> dict[str, Any]:
    """What SAM2Train gives for one frame with masks (G, S, S)."""
    present = mask.flatten(1).any(1, keepdim=True).float() * 2 - 1
    return {
        "pred_masks_high_res": mask[:, None].float() * 2 - 1,
        "multistep_object_score_logits": [present],
    }


def clip() -> ClipBatch:
    """Three objects on four frames, the first two of which are clicked; one object is gone once."""
    batch = discs(prompted=(0, 1))
    batch.truth[batch.views[3, 1]] &= ~torch.tensor(1 << 1, dtype=torch.uint8)
    return batch


def score(what: str, batch: ClipBatch | None = None, least: int = 1):
    network = Answers(what)
    found = validation.score(network, [batch or clip()], least)
    assert network.training
    return found


def test_the_truth_scores_one():
    found, (masks,) = score("truth")
    assert (found.clicked, found.memory, found.presence, found.criterion) == (1, 1, 1, 1)
    assert torch.equal(masks, clip().masks[:, 0])


def test_nothing_scores_zero_and_is_right_about_what_is_gone():
    batch = clip()
    gone = ~batch.masks.flatten(2).any(-1)
    assert 0 < gone.sum() < 4
    found, _ = score("nothing")
    assert (found.clicked, found.memory) == (0, 0)
    assert found.presence == pytest.approx(float(gone.float().mean()))
    assert found.views == (6, 6 - int(gone[2:].sum()))


def test_everything_scores_the_objects_share_of_the_view():
    pixels = clip().masks.flatten(2).sum(-1).float()
    for least in (1, int(pixels[:2].median()) + 1):
        found, _ = score("everything", least=least)
        for value, views, part in (
            (found.clicked, found.views[0], pixels[:2]),
            (found.memory, found.views[1], pixels[2:]),
        ):
            counted = part[part >= least]
            assert views == len(counted) > 0
            assert value == pytest.approx(float(counted.mean()) / SIDE**2, rel=1e-5)


def test_a_clip_may_be_clicked_on_every_frame_or_on_none():
    found, _ = score("truth", discs(frames=2, prompted=(0, 1)))
    assert (found.clicked, found.memory, found.views) == (1, 0, (6, 0))
    found, _ = score("truth", discs(frames=2))
    assert (found.clicked, found.memory, found.views) == (0, 1, (0, 6))


def test_only_what_is_drawn_is_kept(monkeypatch):
    monkeypatch.setattr(validation, "FRAMES", 3)
    clips = [discs(frames=4)] * (2 * validation.SHOWN + 1)
    _, masks = validation.score(Answers("truth"), clips, 1)
    shape = (3, SIDE, SIDE)
    assert [part.shape for part in masks] == [shape] * validation.SHOWN
    assert validation.shown(clips) == [0, 2, 4] and validation.shown(clips[:2]) == [0, 1]


@pytest.mark.parametrize("half", [False, True])
def test_scores_are_computed_as_in_training(half):
    class Seen(Answers):
        def forward(self, batch: ClipBatch) -> list[Tracked]:
            assert torch.is_autocast_enabled("cpu") == half
            return super().forward(batch)

    validation.score(Seen("truth"), [clip()], 1, half)


def test_the_picture_shows_masks_outlines_and_clicks(tmp_path):
    clips, pictures = [clip()] * 4, {}
    for what in ("truth", "nothing"):
        network = Answers(what)
        _, masks = validation.score(network, clips, 1)
        validation.draw(tmp_path / "pictures" / f"{what}.jpg", clips, masks)
        pictures[what] = cv2.imread(str(tmp_path / "pictures" / f"{what}.jpg"))[..., ::-1]
    shape = (validation.SHOWN * (SIDE + 2), 4 * (SIDE + 2), 3)
    assert pictures["truth"].shape == pictures["nothing"].shape == shape
    differs = np.abs(pictures["truth"].astype(int) - pictures["nothing"]).max(-1) > 40
    inside = np.zeros(shape[:2], bool)
    for t, mask in enumerate(clip().masks[:, 0].numpy()):
        inside[:SIDE, t * (SIDE + 2) :][:, :SIDE] = mask
    assert differs[: SIDE + 2][inside[: SIDE + 2]].mean() > 0.5
    assert differs[: SIDE + 2][~inside[: SIDE + 2]].mean() < 0.05
    bars = pictures["nothing"][1].astype(int)  # in the middle of the bar above clicked frames
    green = (np.abs(bars - validation.TRUTH).max(-1) < 60).reshape(4, SIDE + 2)[:, :SIDE].mean(1)
    assert green.tolist() == pytest.approx([1, 1, 0, 0], abs=0.1)


def test_fixed_clips_are_the_same_every_time(shards):
    source = ScanClips(
        ShardRows([shards], "validation"), 64, objects=2, frames=3, inference_prompt_fraction=1.0
    )
    first, again = (validation.fixed_clips(source, 4) for _ in range(2))
    assert len(first) == 4 and all(clip.prompts for clip in first)
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.images, other.images) and torch.equal(one.views, other.views)
    assert len({clip.images.sum() for clip in first}) == 4


def test_panorama_iou_is_that_of_the_predictor(shards):
    tracker = responsive()
    network = build("nano", SIDE, TRAIN)
    network.load_state_dict(tracker.state_dict())
    rows = ShardRows([shards], "validation")
    settings = TrainSettings(data=(str(shards),), size="nano", image_size=SIDE)
    found = validation.panorama_iou(network, settings, rows, panoramas=1, objects=3)
    predictor, expected = MemoryPredictor(tracker), []
    row = ShardReader(shards, "validation").row(0)
    things = sorted(row["objects"], key=lambda thing: (thing["area"], thing["id"]))
    predictor.set_panorama(decode_image(row["image"]))
    for i in range(3):  # evenly spaced by area
        thing = things[(2 * i + 1) * len(things) // 6]
        mask = predictor.predict([Click(*thing["click"], 1)]).mask
        truth = coco.decode(thing["segmentation"]).astype(bool)
        expected.append((mask & truth).sum() / (mask | truth).sum())
    assert found == pytest.approx(np.mean(expected), abs=1e-6)
