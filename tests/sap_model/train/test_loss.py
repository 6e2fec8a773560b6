"""What is minimised: SAM2's own loss is the judge, and numbers that can be worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from training.loss_fns import CORE_LOSS_KEY, MultiStepMultiMasksAndIous

from sap_model.train.loss import FromScratchLoss, Sam2Loss

FRAMES, OBJECTS, SIDE = 3, 4, 16


def outputs(candidates: int = 3, clicks: int = 2, seed: int = 0) -> list[dict]:
    """What SAM2Train gives for frames with `clicks` rounds of `candidates` masks."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> list[torch.Tensor]:
        return [torch.randn(OBJECTS, *shape, generator=generator) for _ in range(clicks)]

    return [
        {
            "multistep_pred_multimasks_high_res": drawn(candidates, SIDE, SIDE),
            "multistep_pred_ious": [ious.sigmoid() for ious in drawn(candidates)],
            "multistep_object_score_logits": drawn(1),
        }
        for _ in range(FRAMES)
    ]


def targets() -> torch.Tensor:
    """Half of every frame, but for one object that is gone on one frame."""
    truth = torch.zeros(FRAMES, OBJECTS, SIDE, SIDE, dtype=torch.bool)
    truth[..., : SIDE // 2] = True
    truth[1, 2] = False
    return truth


def perfect(logit: float = 30.0) -> list[dict]:
    """Sure of the truth, everywhere."""
    return [
        {
            "multistep_pred_multimasks_high_res": [(truth[:, None].float() * 2 - 1) * logit],
            "multistep_pred_ious": [torch.ones(OBJECTS, 1)],
            "multistep_object_score_logits": [
                (truth.flatten(1).any(1, keepdim=True).float() * 2 - 1) * logit
            ],
        }
        for truth in targets()
    ]


@pytest.mark.parametrize("candidates", [1, 3])
def test_sam2s_loss_is_sam2s(candidates):
    weights = {"loss_mask": 20, "loss_dice": 1, "loss_iou": 1, "loss_class": 1}
    theirs = MultiStepMultiMasksAndIous(
        weights,
        supervise_all_iou=True,
        iou_use_l1_loss=True,
        pred_obj_scores=True,
        focal_gamma_obj_score=0.0,
        focal_alpha_obj_score=-1.0,
    )
    expected = theirs(outputs(candidates), targets())
    losses = Sam2Loss()(outputs(candidates), targets())
    assert (
        losses.keys()
        == expected.keys()
        == {"loss_mask", "loss_dice", "loss_iou", "loss_class", CORE_LOSS_KEY}
    )
    for name, value in losses.items():
        torch.testing.assert_close(value, torch.as_tensor(expected[name]), msg=name)


def test_a_batchs_loss_is_the_mean_of_its_objects():
    """So that clips can be weighed by their objects, however they were put together."""
    loss, alone = Sam2Loss(), []
    for k in range(OBJECTS):
        parts = [
            {name: [x[k : k + 1] for x in rounds] for name, rounds in frame.items()}
            for frame in outputs(1)
        ]
        alone.append(loss(parts, targets()[:, k : k + 1])[CORE_LOSS_KEY])
    together = loss(outputs(1), targets())[CORE_LOSS_KEY]
    torch.testing.assert_close(together, torch.stack(alone).mean())


@pytest.mark.parametrize("loss", [Sam2Loss(), FromScratchLoss()])
def test_the_truth_costs_nothing(loss):
    assert float(loss(perfect(), targets())[CORE_LOSS_KEY]) == pytest.approx(0, abs=1e-6)
    assert float(loss(outputs(1), targets())[CORE_LOSS_KEY]) > 0.5


def test_from_nothing_is_known_where_everything_is_undecided():
    """Logits of 0 on half of the pixels: cross-entropy ln 2, dice 1 - (n + 1) / (n + 1 + …)."""
    undecided = [
        {name: [torch.zeros_like(x) for x in rounds] for name, rounds in frame.items()}
        for frame in outputs(1, clicks=1)
    ]
    pixels = SIDE * SIDE
    losses = FromScratchLoss()(undecided, targets())
    # balanced: half of it is owed by pixels of the object, of which one that is gone has none
    assert float(losses["loss_mask"]) == pytest.approx(1.5 * math.log(2))
    assert float(losses["loss_class"]) == pytest.approx(math.log(2))
    dice = 1 - (pixels / 2 + 1) / (pixels / 2 + pixels / 2 + 1)
    assert float(losses["loss_dice"]) == pytest.approx(dice)
    assert float(losses["loss_iou"]) == pytest.approx(0)  # the IoU of an empty mask, as estimated
    total = losses["loss_mask"] + losses["loss_dice"] + losses["loss_class"]
    assert float(losses[CORE_LOSS_KEY]) == pytest.approx(float(total))


@pytest.mark.parametrize("balance", [1.0, 0.25, 0.0])
def test_balance_is_the_weight_of_a_small_object_against_the_rest(balance):
    """One pixel of 256 that is missed with logit -20 costs 20; the rest costs nothing."""
    truth = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.bool)
    truth[..., 3, 3] = True
    missed = [
        {
            "multistep_pred_multimasks_high_res": [torch.full((1, 1, SIDE, SIDE), -20.0)],
            "multistep_pred_ious": [torch.zeros(1, 1)],
            "multistep_object_score_logits": [torch.full((1, 1), 20.0)],
        }
    ]
    loss = FromScratchLoss()
    loss.balance = balance
    expected = balance / 2 + (1 - balance) / SIDE**2
    assert float(loss(missed, truth)["loss_mask"]) == pytest.approx(20 * expected, rel=1e-4)


def test_the_object_score_settles_at_the_share_of_frames_that_show_the_object():
    """One of twelve is gone: one score for all of them is best at the log of the odds, 11."""
    score = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([score], lr=4.0)
    for _ in range(200):
        frames = outputs(1, clicks=1)
        for frame in frames:
            frame["multistep_object_score_logits"] = [score.expand(OBJECTS, 1)]
        optimizer.zero_grad()
        FromScratchLoss()(frames, targets())[CORE_LOSS_KEY].backward()
        optimizer.step()
    assert score.item() == pytest.approx(math.log(11), abs=0.01)


def test_from_nothing_empties_masks_of_what_is_not_there():
    frames = outputs(1)
    masks = [x.requires_grad_() for x in frames[1]["multistep_pred_multimasks_high_res"]]
    FromScratchLoss()(frames, targets())[CORE_LOSS_KEY].backward()
    for mask in masks:
        assert (mask.grad[2] > 0).all(), "every pixel of the one that is gone is pushed down"
        assert (mask.grad[0] < 0).any(), "one that is there is not"
