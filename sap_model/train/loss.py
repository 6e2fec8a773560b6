"""What training minimises: SAM2's own loss, and one for a model that starts from scratch."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from training.loss_fns import CORE_LOSS_KEY, MultiStepMultiMasksAndIous, dice_loss, iou_loss


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
            # as bfloat16 leaves them, sure scores and good estimates would round to no loss at all
            output = output | {
                name: [part.float() for part in output[name]]
                for name in ("multistep_object_score_logits", "multistep_pred_ious")
            }
            for name, value in self._forward(output, target, target.shape[0]).items():
                losses[name] = losses[name] + value
        return losses


class FromScratchLoss(nn.Module):
    """A loss under which clicks and memory are learnt without pretrained weights.

    Cross-entropy and dice on every mask. At first the object and the rest weigh the same in the
    cross-entropy, or the masks of small objects become empty and stay so.

    SAM2 learns nothing from the mask of an object that is absent, which its object score gates.
    Here the mask of an absent object is taught to be empty as well, and in the masks both kinds of
    frames weigh the same. In the object score they count as they come: six of seven views that are
    not clicked do not show the object. If those that do weighed three times as much in all as the
    others, the score would shift by log(3 · 6), about 3, and a gate that opens too often adds false
    masks to the panorama. Taking 3 off the scores of a model that was made so brought it from an
    mIoU of 15.5 to 20.6 (72 objects).

    Attributes:
        balance: Weight of the balanced cross-entropy against the plain one, in [0, 1].
    """

    balance = 1.0

    def forward(self, outputs: list[dict[str, Any]], targets: Tensor) -> dict[str, Tensor]:
        """Losses of T frames; `outputs` as SAM2Train gives them, targets (T, B, S, S) bool."""
        parts: dict[str, list[Tensor]] = defaultdict(list)  # each (B,), of a frame and a click
        for output, target in zip(outputs, targets, strict=True):
            truth = target[:, None].float()
            for masks, ious, scores in zip(
                output["multistep_pred_multimasks_high_res"],
                output["multistep_pred_ious"],
                output["multistep_object_score_logits"],
                strict=True,
            ):
                parts["present"].append(target.flatten(1).any(1))
                parts["loss_mask"].append(self._entropy(masks, truth))
                parts["loss_dice"].append(dice_loss(masks, truth, 1, loss_on_multimask=True)[:, 0])
                iou = iou_loss(masks, truth, ious.float(), 1, True, use_l1_loss=True)
                parts["loss_iou"].append(iou[:, 0])
                parts["scores"].append(scores[:, 0].float())
        each = {name: torch.cat(part) for name, part in parts.items()}
        present = each.pop("present")
        means = {name: _mean(each[name], present) for name in ("loss_dice", "loss_iou")}
        means["loss_mask"] = _mean(each["loss_mask"], present) + _mean(each["loss_mask"], ~present)
        surprise = functional.softplus(torch.where(present, -each["scores"], each["scores"]))
        means["loss_class"] = surprise.mean()
        if "grouping" in outputs[0]:
            means["loss_grouping"] = outputs[0]["grouping"]
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
    """How badly the finest features tell which pixels belong together.

    Pixels of an object shall have features of like direction, others not. Every pixel is a click
    here whose answer needs no decoder, which teaches an encoder that starts from scratch to group
    pixels several times faster than masks alone.

    Args:
        features: (V, C, h, w), what the mask decoder makes masks of.
        truth: (V, S, S) uint8, a bit for each object, as in `ClipBatch`.
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
