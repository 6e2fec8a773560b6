"""SAM2's own training network on clips whose images are encoded once: `SapTrain`.

SAM2Train encodes the frames of one video and follows objects that all see the same frames. Here a
batch's distinct images are encoded once, and each object visits them in its own order: frame
t of the objects is a gather among the features. What happens on a frame, and how clicks, boxes and
corrections are drawn, is SAM2's code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from sam2.modeling.sam2_base import NO_OBJ_SCORE
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from training.model.sam2 import SAM2Train

from sap_model.train.clip import ClipBatch
from sap_model.train.loss import pixel_grouping_loss

TRAIN = f"{__name__}.SapTrain"
"""What `sap_model.model.build.build` makes for training."""

PROMPTS: dict[str, Any] = {
    "prob_to_use_pt_input_for_train": 0.5,
    "prob_to_use_box_input_for_train": 0.5,
    "prob_to_sample_from_gt_for_train": 0.1,
    "num_frames_to_correct_for_train": 2,
    "rand_frames_to_correct_for_train": True,
    "num_init_cond_frames_for_train": 2,
    "rand_init_cond_frames_for_train": True,
    "add_all_frames_to_correct_as_cond": True,
    "num_correction_pt_per_frame": 7,
}
"""How SAM2.1 draws prompts in training (its published training configuration): a mask, or a click
or box on one or two frames, then seven corrections on each of them."""


@dataclass(frozen=True)
class _Video:
    """What SAM2Train asks of its input once the images are encoded."""

    masks: Tensor
    flat_obj_to_img_idx: Tensor
    num_frames: int


class SapTrain(SAM2Train):
    """SAM2Train over a `ClipBatch`; its state dict fits SAM2 and `ScanTracker`.

    Args:
        freeze_encoder: Keep the image encoder as it is (paper, section 4.3).
        teacher_forced_presence: While training, the truth decides whether an object is in a frame,
            instead of the predicted object score. SAM2's gate replaces the mask of an object that
            it judges absent by a constant that passes no gradient, so a model trained from scratch
            never leaves that state. Do not use it to fine-tune SAM2.
        pixel_grouping: While training, also give `loss.pixel_grouping_loss` of the finest features,
            as "grouping" among the outputs of the first frame.
        teacher_forced_memory: Share of batches, while training, whose memories are made from true
            masks.
        checkpointing: Recompute instead of keeping what the memory attention, the memory encoder
            and the mask decoder need for the backward pass.
        encode_batch: Images that go through the image encoder together.
    """

    def __init__(
        self,
        *args: Any,
        freeze_encoder: bool = True,
        teacher_forced_presence: bool = False,
        teacher_forced_memory: float = 0.0,
        pixel_grouping: bool = False,
        checkpointing: bool = False,
        encode_batch: int = 8,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, freeze_image_encoder=freeze_encoder, **kwargs)
        self.freeze_encoder = freeze_encoder
        self.teacher_forced_presence = teacher_forced_presence
        self.teacher_forced_memory = teacher_forced_memory
        self.checkpointing, self.encode_batch = checkpointing, encode_batch
        self.pixel_grouping = pixel_grouping
        self._truth: Tensor | None = None  # of the current frame, for teacher forcing
        self._remember_truth = False
        if checkpointing:
            for module in (self.memory_attention, self.memory_encoder):
                module.forward = partial(_recomputed, module.forward)

    def train(self, mode: bool = True) -> SapTrain:
        """A frozen encoder stays in evaluation mode, or its drop path would be noise."""
        super().train(mode)
        if self.freeze_encoder:
            self.image_encoder.eval()
        return self

    def seed(self, seed: int) -> None:
        """Make the next forward pass draw the same prompts, whatever was drawn before."""
        self.rng = np.random.default_rng(seed)
        torch.manual_seed(seed)

    def forward(self, batch: ClipBatch) -> list[dict[str, Any]]:
        """Follow the objects of a batch.

        Returns:
            SAM2Train's outputs of every frame, in order: what its loss takes.
        """
        features = self.encode(batch.images)
        masks = batch.masks
        video = _Video(masks, batch.views, len(batch.views))
        if batch.prompts is None:
            features = _only_visible(self.prepare_prompt_inputs(features, video), masks)
        else:
            features = features | self._given(batch.prompts, masks)
        if not self.num_correction_pt_per_frame:  # SAM2's loop needs at least one
            features["frames_to_add_correction_pt"] = []
        # without true memory nothing is drawn that SAM2 would not draw
        teacher_forced = self.training and self.teacher_forced_memory > 0
        self._remember_truth = teacher_forced and self.rng.random() < self.teacher_forced_memory
        outputs = self.forward_tracking(features, video)
        if self.training and self.pixel_grouping:
            with torch.autocast(batch.images.device.type, enabled=False):
                finest = features["backbone_fpn"][0].float()
                outputs[0]["grouping"] = pixel_grouping_loss(finest, batch.truth)
        return outputs

    def encode(self, images: Tensor) -> dict[str, Any]:
        """Features of (V, 3, S, S) images as SAM2's `forward_image` gives them."""
        parts = [self.forward_image(part) for part in images.split(self.encode_batch)]
        levels = zip(*(part["backbone_fpn"] for part in parts), strict=True)
        return {
            "backbone_fpn": [torch.cat(level) for level in levels],
            # the same for every image
            "vision_pos_enc": [
                position[:1].expand(len(images), -1, -1, -1)
                for position in parts[0]["vision_pos_enc"]
            ],
        }

    def _given(self, prompts: dict[int, dict[str, Tensor]], masks: Tensor) -> dict[str, Any]:
        """What `prepare_prompt_inputs` says, for clicks that are given: every frame that sees them
        is a conditioning frame, and the first of them is corrected as in SAM2's training."""
        frames = sorted(prompts)
        correct = self.training and self.rng.random() < self.prob_to_correct_given
        return {
            "gt_masks_per_frame": {t: truth[:, None] for t, truth in enumerate(masks)},
            "num_frames": len(masks),
            "use_pt_input": True,
            "init_cond_frames": frames,
            "frames_not_in_init_cond": [t for t in range(len(masks)) if t not in prompts],
            "mask_inputs_per_frame": {},
            "point_inputs_per_frame": dict(prompts),
            "frames_to_add_correction_pt": frames[:1] if correct else [],
        }

    prob_to_correct_given = 0.5
    """How often given clicks are followed by corrections on their first frame."""

    def track_step(self, *args: Any, gt_masks: Tensor | None = None, **kwargs: Any) -> Any:
        self._truth = gt_masks if self.training else None
        return super().track_step(*args, gt_masks=gt_masks, **kwargs)

    def _forward_sam_heads(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        heads: Callable = super()._forward_sam_heads
        if self.teacher_forced_presence and self._truth is not None:
            heads = partial(
                self._heads_with_teacher_forced_presence, self._truth.flatten(1).any(1), heads
            )
        if self.checkpointing and self.training:
            return _recomputed(heads, *args, **kwargs)
        return heads(*args, **kwargs)

    def _heads_with_teacher_forced_presence(
        self, present: Tensor, heads: Callable, *args: Any, **kwargs: Any
    ) -> tuple[Any, ...]:
        """SAM2's heads with their gate driven by the truth, (B,) bool.

        The gate acts on what memory is made of, not on what the loss sees.
        """
        self.pred_obj_scores = False  # the gate alone; the decoder predicts scores all the same
        try:
            *masks, pointer, scores = heads(*args, **kwargs)
        finally:
            self.pred_obj_scores = True
        low, high, ious, best_low, best_high = masks
        gate = present[:, None, None, None]
        best_low, best_high = (torch.where(gate, x, NO_OBJ_SCORE) for x in (best_low, best_high))
        pointer = torch.where(present[:, None], pointer, self.no_obj_ptr)
        return low, high, ious, best_low, best_high, pointer, scores

    def _encode_memory_in_output(
        self,
        current_vision_feats: list[Tensor],
        feat_sizes: list,
        point_inputs: Any,
        run_mem_encoder: bool,
        high_res_masks: Tensor,
        object_score_logits: Tensor,
        current_out: dict,
    ) -> None:
        if self._truth is not None:
            if self._remember_truth:
                high_res_masks = self._truth.float() * 20.0 - 10.0  # as SAM2 takes mask prompts
            if self.teacher_forced_presence:
                object_score_logits = self._truth.flatten(1).any(1, keepdim=True).float() - 0.5
        super()._encode_memory_in_output(
            current_vision_feats,
            feat_sizes,
            point_inputs,
            run_mem_encoder,
            high_res_masks,
            object_score_logits,
            current_out,
        )


def _recomputed(function: Callable, *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return function(*args, **kwargs)
    return checkpoint(function, *args, use_reentrant=False, **kwargs)


def _only_visible(features: dict[str, Any], masks: Tensor) -> dict[str, Any]:
    """Leave frames that do not show all objects without prompts of their own.

    SAM2's training prompts any frames. In a scan most do not show the object, and an empty mask
    would give a box inside out, or a click that says where the object is not.

    Args:
        features: As `prepare_prompt_inputs` gives them.
        masks: (T, B, S, S) bool; frame 0 shows all objects.
    """
    shown = {0, *masks.flatten(2).any(2).all(1).nonzero()[:, 0].tolist()}
    prompted = [t for t in features["init_cond_frames"] if t in shown]
    followed = [t for t in features["init_cond_frames"] if t not in shown]
    return (
        features
        | {
            "init_cond_frames": prompted,
            "frames_not_in_init_cond": sorted(features["frames_not_in_init_cond"] + followed),
            "frames_to_add_correction_pt": [
                t for t in features["frames_to_add_correction_pt"] if t in shown
            ],
        }
        | {
            name: {t: prompt for t, prompt in features[name].items() if t in shown}
            for name in ("mask_inputs_per_frame", "point_inputs_per_frame")
        }
    )
