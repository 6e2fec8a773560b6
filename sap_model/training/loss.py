"""What training minimises: SAM2's own loss, and one for a model that starts from nothing."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from training.loss_fns import CORE_LOSS_KEY, MultiStepMultiMasksAndIous, dice_loss, iou_loss

PARTS = ("loss_mask", "loss_dice", "loss_iou", "loss_class")
"""Of a loss: focal (or cross-entropy), dice, estimated IoU, object score."""


class Sam2Loss(MultiStepMultiMasksAndIous):
    """The loss of SAM2.1's published training configuration: the mean over a batch's objects, the
    sum over frames and clicks.

    SAM2 divides by the number of objects of all processes, for which they have to meet at every
    forward pass. Here each batch is weighed by its clips instead, and processes meet once a step.
    """

    def __init__(self) -> None:
        super().__init__(
            weight_dict={"loss_mask": 20, "loss_dice": 1, "loss_iou": 1, "loss_class": 1},
            supervise_all_iou=True,
            iou_use_l1_loss=True,
            pred_obj_scores=True,
            focal_gamma_obj_score=0.0,
            focal_alpha_obj_score=-1.0,
        )

    def forward(self, outputs: list[dict[str, Any]], targets: Tensor) -> dict[str, Tensor]:
        """Losses of T frames; `outputs` as SAM2Train gives them, targets (T, B, S, S) bool."""
        losses: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=targets.device))
        for output, target in zip(outputs, targets, strict=True):
            for name, value in self._forward(output, target, target.shape[0]).items():
                losses[name] = losses[name] + value
        return losses


class FromNothing(nn.Module):
    """A loss under which a click is learnt without pretrained weights.

    Cross-entropy and dice on every mask. At first the object and the rest weigh the same in the
    cross-entropy, or the masks of small objects become empty and stay so.

    Attributes:
        balance: Weight of the balanced cross-entropy against the plain one, in [0, 1].
    """

    balance = 1.0

    def forward(self, outputs: list[dict[str, Any]], targets: Tensor) -> dict[str, Tensor]:
        """Losses of T frames; `outputs` as SAM2Train gives them, targets (T, B, S, S) bool."""
        losses: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=targets.device))
        steps = 0
        for output, target in zip(outputs, targets, strict=True):
            present = target.flatten(1).any(1).float()
            for masks, ious, scores in zip(
                output["multistep_pred_multimasks_high_res"],
                output["multistep_pred_ious"],
                output["multistep_object_score_logits"],
                strict=True,
            ):
                steps += 1
                truth = target[:, None].float()
                losses["loss_mask"] += (self._entropy(masks, truth) * present).mean()
                dice = dice_loss(masks, truth, 1, loss_on_multimask=True)[:, 0]
                losses["loss_dice"] += (dice * present).mean()
                iou = iou_loss(masks, truth, ious, 1, loss_on_multimask=True, use_l1_loss=True)
                losses["loss_iou"] += (iou[:, 0] * present).mean()
                losses["loss_class"] += functional.binary_cross_entropy_with_logits(
                    scores[:, 0].float(), present
                )
        means = {part: losses[part] / steps for part in PARTS}
        total = means["loss_mask"] + means["loss_dice"] + means["loss_iou"]
        if "grouping" in outputs[0]:
            means["loss_grouping"] = outputs[0]["grouping"]
            total = total + means["loss_grouping"]
        return means | {CORE_LOSS_KEY: total + 0.2 * means["loss_class"]}

    def _entropy(self, masks: Tensor, truth: Tensor) -> Tensor:
        """(B,) cross-entropy of masks (B, 1, S, S)."""
        each = functional.binary_cross_entropy_with_logits(masks, truth, reduction="none")
        plain = each.mean(dim=(1, 2, 3))
        if not self.balance:
            return plain
        on = (each * truth).sum(dim=(1, 2, 3)) / truth.sum(dim=(1, 2, 3)).clamp(min=1)
        off = (each * (1 - truth)).sum(dim=(1, 2, 3)) / (1 - truth).sum(dim=(1, 2, 3)).clamp(min=1)
        return self.balance * (on + off) / 2 + (1 - self.balance) * plain


def grouping(features: Tensor, truth: Tensor, anchors: int = 48) -> Tensor:
    """How badly the finest features tell which pixels belong together.

    Pixels of an object shall have features of like direction, others not. Every pixel is a click
    here whose answer needs no decoder, which teaches an encoder that starts from nothing to group
    pixels several times faster than masks alone.

    Args:
        features: (V, C, h, w), what the mask decoder makes masks of.
        truth: (V, S, S) uint8, a bit for each object, as in `Batch`.
        anchors: Pixels of each image that are compared with all others; small objects have more
            than their share.

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
