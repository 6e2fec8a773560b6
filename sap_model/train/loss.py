"""What training minimises: SAM2's own loss, and one for models that are trained from scratch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from training.loss_fns import CORE_LOSS_KEY, MultiStepMultiMasksAndIous, dice_loss, iou_loss

from sap_model.train.clip import Tracked

FULL_SIZE = "multistep_pred_multimasks_high_res"
"""Masks at the input's resolution in SAM2's outputs, where `SapTrain` has kept them."""


class Sam2Loss(MultiStepMultiMasksAndIous):
    """The loss of SAM2.1's published training configuration: the mean over a batch's objects, the
    sum over frames and clicks.

    SAM2 divides by the number of objects of all processes, which have to meet for it at every
    forward pass. Here each batch is weighed by its clips instead, and processes meet once a step.

    Args:
        checkpointing: Recompute the loss of a frame in the backward pass instead of keeping about
            ten maps of the input's size for every mask: at 1024 × 1024 half of a step's memory.
    """

    def __init__(self, checkpointing: bool = False) -> None:
        super().__init__(
            weight_dict={"loss_mask": 20, "loss_dice": 1, "loss_iou": 1, "loss_class": 1},
            supervise_all_iou=True,
            iou_use_l1_loss=True,
            pred_obj_scores=True,
            focal_gamma_obj_score=0.0,
            focal_alpha_obj_score=-1.0,
        )
        self.checkpointing = checkpointing

    def forward(self, tracked: Sequence[Tracked], targets: Tensor) -> dict[str, Tensor]:
        """Losses of what `SapTrain` gave for a batch.

        Args:
            tracked: All groups of its objects.
            targets: (T, B, S, S) bool.
        """
        losses: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=targets.device))
        for objects, outputs in tracked:
            for output, target in zip(outputs, targets[:, objects], strict=True):
                arguments = _needed(output), target, targets.shape[1]
                if self.checkpointing and torch.is_grad_enabled():
                    found = checkpoint(
                        self._frame, *arguments, use_reentrant=False, preserve_rng_state=False
                    )
                else:
                    found = self._frame(*arguments)
                for name, value in found.items():
                    losses[name] = losses[name] + value
        return losses

    def _frame(self, output: dict[str, Any], target: Tensor, objects: int) -> dict[str, Tensor]:
        """SAM2's losses of one frame (G, S, S), divided by the number of objects of the batch."""
        masks, ious, scores = zip(*_steps(output, target.shape[-1]), strict=True)
        output = {
            FULL_SIZE: masks,
            "multistep_pred_ious": ious,
            "multistep_object_score_logits": scores,
        }
        return self._forward(output, target, objects)


def _needed(output: dict[str, Any]) -> dict[str, Any]:
    """What the loss needs of a frame's outputs; the others should not be kept for it."""
    names = ("multistep_pred_multimasks", "multistep_pred_ious", "multistep_object_score_logits")
    return {name: output[name] for name in (*names, FULL_SIZE) if name in output}


def _steps(output: dict[str, Any], side: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The prediction of a frame and what became of it after each correction.

    Args:
        output: Of SAM2Train on the frame.
        side: S, the side of the masks that the loss compares.

    Yields:
        Mask logits (G, M, S, S), interpolated as SAM2 does it; estimated IoUs (G, M) and object
        scores (G, 1) in float32: in bfloat16 confident scores would round to no loss at all.
    """
    for masks, ious, scores in zip(
        output.get(FULL_SIZE) or output["multistep_pred_multimasks"],
        output["multistep_pred_ious"],
        output["multistep_object_score_logits"],
        strict=True,
    ):
        if masks.shape[-1] != side:
            masks = functional.interpolate(masks.float(), (side, side), mode="bilinear")
        yield masks, ious.float(), scores.float()


class FromScratchLoss(nn.Module):
    """A loss under which clicks and memory are learnt without pretrained weights.

    Cross-entropy and dice on every mask. At first the object and the background weigh the same in
    the cross-entropy; otherwise the masks of small objects become empty and stay empty.

    SAM2 ignores the mask of an absent object, which its object score gates. Here that mask is
    trained to be empty as well, and in the masks both kinds of frames weigh the same. In the object
    score frames count as they occur: six of seven views without a click do not show the object. If
    the frames that show it had three times the weight of the others in all, the score would shift
    by log(3 · 6), about 3, and a gate that opens too often adds false masks to the panorama.
    Subtracting 3 from the scores of a model trained with such weights raised its mIoU from 15.5 to
    20.6 (72 objects).

    Attributes:
        balance: Weight of the balanced cross-entropy against the plain one, in [0, 1].
    """

    balance = 1.0

    def forward(self, tracked: Sequence[Tracked], targets: Tensor) -> dict[str, Tensor]:
        """Losses of what `SapTrain` gave for a batch; targets (T, B, S, S) bool."""
        parts: dict[str, list[Tensor]] = defaultdict(list)  # each (G,), of a frame and a click
        for objects, outputs in tracked:
            for output, target in zip(outputs, targets[:, objects], strict=True):
                truth = target[:, None].float()
                for masks, ious, scores in _steps(output, target.shape[-1]):
                    parts["present"].append(target.flatten(1).any(1))
                    parts["loss_mask"].append(self._entropy(masks, truth))
                    dice = dice_loss(masks, truth, 1, loss_on_multimask=True)
                    parts["loss_dice"].append(dice[:, 0])
                    iou = iou_loss(masks, truth, ious, 1, True, use_l1_loss=True)
                    parts["loss_iou"].append(iou[:, 0])
                    parts["scores"].append(scores[:, 0])
        each = {name: torch.cat(part) for name, part in parts.items()}
        present = each.pop("present")
        means = {name: _mean(each[name], present) for name in ("loss_dice", "loss_iou")}
        means["loss_mask"] = _mean(each["loss_mask"], present) + _mean(each["loss_mask"], ~present)
        surprise = functional.softplus(torch.where(present, -each["scores"], each["scores"]))
        means["loss_class"] = surprise.mean()
        if "grouping" in tracked[0].outputs[0]:
            means["loss_grouping"] = tracked[0].outputs[0]["grouping"]
        return means | {CORE_LOSS_KEY: torch.stack(list(means.values())).sum()}

    def _entropy(self, masks: Tensor, truth: Tensor) -> Tensor:
        """(B,) cross-entropy of masks (B, 1, S, S)."""
        each = functional.binary_cross_entropy_with_logits(masks, truth, reduction="none")
        plain = each.mean(dim=(1, 2, 3))
        if not self.balance:
            return plain
        on = (each * truth).sum(dim=(1, 2, 3)) / truth.sum(dim=(1, 2, 3)).clamp(min=1)
        off = (each * (1 - truth)).sum(dim=(1, 2, 3)) / (1 - truth).sum(dim=(1, 2, 3)).clamp(min=1)
        return self.balance * (on + off) / 2 + (1 - self.balance) * plain


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    """The mean of some of (N,) values; 0 of none."""
    return (values * chosen).sum() / chosen.sum().clamp(min=1)


def pixel_grouping_loss(features: Tensor, truth: Tensor, anchors: int = 48) -> Tensor:
    """How badly the finest features separate pixels of one object from other pixels.

    Features of pixels of one object are pulled towards one direction, those of other pixels away
    from it. Every pixel acts as a click whose answer needs no decoder: an encoder that is trained
    from scratch learns to group pixels several times faster than from masks alone.

    Args:
        features: (V, C, h, w), what the mask decoder makes masks of.
        truth: (V, S, S) uint8, a bit for each object, as in `ClipBatch`.
        anchors: Pixels of each image that are compared with all others; small objects get more
            than their share of area.

    Returns:
        Balanced cross-entropy plus dice, a scalar.
    """
    step = truth.shape[-1] // features.shape[-1]
    labels = truth[:, step // 2 :: step, step // 2 :: step].flatten(1).long()
    sizes = functional.one_hot(labels, 256).sum(dim=1).float()
    weights = torch.where(labels > 0, sizes.gather(1, labels).rsqrt(), 1e-6)
    chosen = torch.multinomial(weights, anchors, replacement=True)
    directions = functional.normalize(features.flatten(2), dim=1)
    ours = directions.gather(2, chosen[:, None].expand(-1, directions.shape[1], -1))
    logits = 10.0 * torch.einsum("vca,vcn->van", ours, directions) - 5.0
    same = ((labels.gather(1, chosen)[:, :, None] & labels[:, None]) > 0).float()
    each = functional.binary_cross_entropy_with_logits(logits, same, reduction="none")
    on = (each * same).sum(-1) / same.sum(-1).clamp(min=1)
    off = (each * (1 - same)).sum(-1) / (1 - same).sum(-1).clamp(min=1)
    soft = logits.sigmoid()
    dice = 1 - (2 * (soft * same).sum(-1) + 1) / (soft.sum(-1) + same.sum(-1) + 1)
    known = (labels.gather(1, chosen) > 0).float()
    return (((on + off) / 2 + dice) * known).sum() / known.sum().clamp(min=1)
