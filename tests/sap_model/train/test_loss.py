"""The losses: against SAM2's own, and against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from training.loss_fns import CORE_LOSS_KEY, MultiStepMultiMasksAndIous

from sap_model.train.clip import Tracked
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


def tracked(frames: list[dict], *groups: list[int]) -> list[Tracked]:
    """Outputs of all objects as `SapTrain` gives them: in groups, or all of them together."""
    objects = frames[0]["multistep_pred_ious"][0].shape[0]
    return [
        Tracked(
            torch.tensor(group),
            [{name: [x[group] for x in rounds] for name, rounds in f.items()} for f in frames],
        )
        for group in groups or (list(range(objects)),)
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
    losses = Sam2Loss()(tracked(outputs(candidates)), targets())
    assert (
        losses.keys()
        == expected.keys()
        == {"loss_mask", "loss_dice", "loss_iou", "loss_class", CORE_LOSS_KEY}
    )
    for name, value in losses.items():
        torch.testing.assert_close(value, torch.as_tensor(expected[name]), msg=name)


def test_a_batch_weighs_its_objects_equally():
    """So that clips can be weighed by their objects, whichever share a batch."""
    loss = Sam2Loss()
    alone = []
    for k in range(OBJECTS):
        (one,) = tracked(outputs(1), [k])
        moved = [Tracked(torch.tensor([0]), one.outputs)]
        alone.append(loss(moved, targets()[:, k : k + 1])[CORE_LOSS_KEY])
    together = loss(tracked(outputs(1)), targets())[CORE_LOSS_KEY]
    torch.testing.assert_close(together, torch.stack(alone).mean())


@pytest.mark.parametrize("loss", [Sam2Loss(), Sam2Loss(checkpointing=True), FromScratchLoss()])
def test_groups_of_objects_have_the_loss_of_the_batch(loss):
    together = loss(tracked(outputs(1)), targets())
    for groups in (([2], [0, 3, 1]), ([3], [2], [1], [0])):
        apart = loss(tracked(outputs(1), *groups), targets())
        for name, value in together.items():
            torch.testing.assert_close(apart[name], value, msg=name)


def test_checkpointing_keeps_a_fraction_of_the_memory():
    results, kept = [], []
    for checkpointing in (False, True):
        frames = outputs()
        for frame in frames:
            large = frame.pop("multistep_pred_multimasks_high_res")
            small = [m[..., ::4, ::4].contiguous().requires_grad_() for m in large]
            frame["multistep_pred_multimasks"] = small
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda part, sizes=sizes: sizes.append(part.nbytes) or part, lambda part: part
        ):
            loss = Sam2Loss(checkpointing)(tracked(frames), targets())[CORE_LOSS_KEY]
        kept.append(sum(sizes))
        loss.backward()
        leaves = [m for frame in frames for m in frame["multistep_pred_multimasks"]]
        results.append((loss.detach(), [leaf.grad for leaf in leaves]))
    torch.testing.assert_close(*results)
    assert kept[1] < 0.1 * kept[0]


@pytest.mark.parametrize("loss", [Sam2Loss(), FromScratchLoss()])
def test_the_truth_costs_nothing(loss):
    assert float(loss(tracked(perfect()), targets())[CORE_LOSS_KEY]) == pytest.approx(0, abs=1e-6)
    assert float(loss(tracked(outputs(1)), targets())[CORE_LOSS_KEY]) > 0.5


def test_undecided_logits_cost_what_the_formula_says():
    """Logits of 0 on half of the pixels: cross-entropy ln 2, dice 1 - (n + 1) / (n + 1 + …)."""
    undecided = [
        {name: [torch.zeros_like(x) for x in rounds] for name, rounds in frame.items()}
        for frame in outputs(1, clicks=1)
    ]
    pixels = SIDE * SIDE
    losses = FromScratchLoss()(tracked(undecided), targets())
    # balanced: pixels of the object make up half of it; the absent object has none
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
    assert float(loss(tracked(missed), truth)["loss_mask"]) == pytest.approx(
        20 * expected, rel=1e-4
    )


def test_the_object_score_settles_at_the_share_of_frames_that_show_the_object():
    """One of twelve is gone: one score for all of them is best at the log of the odds, 11."""
    score = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([score], lr=4.0)
    for _ in range(200):
        frames = outputs(1, clicks=1)
        for frame in frames:
            frame["multistep_object_score_logits"] = [score.expand(OBJECTS, 1)]
        optimizer.zero_grad()
        FromScratchLoss()(tracked(frames), targets())[CORE_LOSS_KEY].backward()
        optimizer.step()
    assert score.item() == pytest.approx(math.log(11), abs=0.01)


def test_masks_of_absent_objects_are_pushed_down():
    frames = outputs(1)
    masks = [x.requires_grad_() for x in frames[1]["multistep_pred_multimasks_high_res"]]
    FromScratchLoss()(tracked(frames), targets())[CORE_LOSS_KEY].backward()
    for mask in masks:
        assert (mask.grad[2] > 0).all(), "every pixel of the one that is gone is pushed down"
        assert (mask.grad[0] < 0).any(), "one that is there is not"
