"""SAM2's own training network on clips whose images are encoded once: `SapTrain`.

SAM2Train encodes the frames of one video and follows objects that all see the same frames and are
all prompted on the same frames. Here a batch's distinct images are encoded once, each object visits
them in its own order, and each object has its own prompts: objects whose prompts fall on the same
frames are followed together, the others one after the other over the same features. What happens
on a frame, and how clicks, boxes and corrections are drawn, is SAM2's code.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from sam2.modeling.sam2_base import NO_OBJ_SCORE
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from training.model.sam2 import SAM2Train

from sap_model.train.clip import ClipBatch, Prompts, Tracked
from sap_model.train.loss import pixel_grouping_loss

TRAIN = f"{__name__}.SapTrain"
"""The class that `sap_model.model.build.build` instantiates for training."""

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


_FULL_SIZE = (
    "multistep_pred_multimasks_high_res",
    "multistep_pred_masks_high_res",
    "pred_masks_high_res",
)
"""Masks at the input's resolution among the outputs of SAM2Train. Its loss takes the first of them;
a mask prompt, which becomes the output as it is, has no smaller twin."""


@dataclass(frozen=True)
class _Video:
    """What SAM2Train asks of its input once the images are encoded."""

    masks: Tensor
    flat_obj_to_img_idx: Tensor
    num_frames: int


@dataclass(frozen=True)
class _Prompts:
    """Prompts of one object.

    Attributes:
        points: Frame: {"point_coords": (1, P, 2), "point_labels": (1, P)}.
        masks: Frame: (1, 1, S, S).
        corrected: Frames on which correction clicks are added.
    """

    points: Mapping[int, Mapping[str, Tensor]]
    masks: Mapping[int, Tensor]
    corrected: tuple[int, ...]

    @property
    def key(self) -> tuple:
        """Objects with equal keys can be followed together."""
        counts = sorted((t, points["point_labels"].shape[1]) for t, points in self.points.items())
        return tuple(counts), tuple(sorted(self.masks)), tuple(sorted(self.corrected))


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

    def forward(self, batch: ClipBatch) -> list[Tracked]:
        """Follow the objects of a batch.

        Returns:
            Groups of objects that were prompted on the same frames; each object is in one group.
        """
        features = self.encode(batch.images)
        masks = batch.masks
        # draws nothing that SAM2 would not draw, unless memories are teacher-forced
        teacher_forced = self.training and self.teacher_forced_memory > 0
        self._remember_truth = teacher_forced and self.rng.random() < self.teacher_forced_memory
        tracked = []
        for objects, prompts in self._prompt_groups(batch.prompts, masks):
            chosen = masks[:, objects]
            video = _Video(chosen, batch.views[:, objects], len(chosen))
            truth = {t: mask[:, None] for t, mask in enumerate(chosen)}
            outputs = self.forward_tracking(
                features | prompts | {"gt_masks_per_frame": truth, "num_frames": len(chosen)}, video
            )
            tracked.append(Tracked(objects, outputs))
        if self.training and self.pixel_grouping:
            with torch.autocast(batch.images.device.type, enabled=False):
                finest = features["backbone_fpn"][0].float()
                tracked[0].outputs[0]["grouping"] = pixel_grouping_loss(finest, batch.truth)
        return tracked

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

    def _prompt_groups(
        self, given: Sequence[Prompts] | None, masks: Tensor
    ) -> Iterator[tuple[Tensor, dict[str, Any]]]:
        """Objects with prompts on the same frames, and what `forward_tracking` asks about these.

        Args:
            given: Each object's clicks by frame; None draws prompts as SAM2 does.
            masks: (T, B, S, S) bool.
        """
        if given is None:
            shown = masks.flatten(2).any(2).T.tolist()
            drawn = [self._draw_prompts(masks[:, k], each) for k, each in enumerate(shown)]
        else:
            drawn = [self._given(clicks, masks.device) for clicks in given]
        groups: dict[tuple, list[int]] = defaultdict(list)
        for k, each in enumerate(drawn):
            groups[each.key].append(k)
        for members in groups.values():
            yield (
                torch.tensor(members, device=masks.device),
                _joined([drawn[k] for k in members], len(masks)),
            )

    def _draw_prompts(self, masks: Tensor, visible: Sequence[bool]) -> _Prompts:
        """SAM2's prompts of one object, among the frames that show it.

        SAM2 draws from all frames of a video. Most frames of a scan do not show the object; there
        an empty mask would give an inverted box, or a click that says where the object is not.

        Args:
            masks: (T, S, S) bool.
            visible: Whether each of the T frames shows it; the first one does.
        """
        shown = [t for t, seen in enumerate(visible) if seen or not t]
        if len(shown) == 1 and len(masks) > 1:
            shown *= 2  # SAM2 takes one frame for a still image, which it prompts with clicks alone
        video = _Video(masks[shown][:, None], torch.empty(0), len(shown))
        found = self.prepare_prompt_inputs({}, video)
        return _Prompts(
            {shown[t]: points for t, points in found["point_inputs_per_frame"].items()},
            {shown[t]: mask for t, mask in found["mask_inputs_per_frame"].items()},
            tuple(dict.fromkeys(shown[t] for t in found["frames_to_add_correction_pt"]))
            if self.num_correction_pt_per_frame  # SAM2's loop needs at least one
            else (),
        )

    def _given(self, clicks: Prompts, device: torch.device) -> _Prompts:
        """Clicks that are given: every frame that sees them is a conditioning frame, and the first
        of them may be corrected as in SAM2's training."""
        points = {}
        for frame, spots in clicks.items():
            table = torch.tensor(spots, dtype=torch.float32).to(device, non_blocking=True)
            points[frame] = {
                "point_coords": table[None, :, :2],
                "point_labels": table[None, :, 2].int(),
            }
        correct = self.training and self.rng.random() < self.prob_to_correct_given
        correct = correct and self.num_correction_pt_per_frame > 0
        return _Prompts(points, {}, (min(clicks),) if correct else ())

    prob_to_correct_given = 0.5
    """How often given clicks are followed by corrections on their first frame."""

    def track_step(
        self, *args: Any, mask_inputs: Tensor | None, gt_masks: Tensor | None = None, **kwargs: Any
    ) -> Any:
        """SAM2's step on one frame. In training its masks at the input's resolution, sixteen times
        the memory of those that they were interpolated from, are not kept for the loss."""
        self._truth = gt_masks if self.training else None
        output = super().track_step(*args, mask_inputs=mask_inputs, gt_masks=gt_masks, **kwargs)
        if self.training:
            for name in _FULL_SIZE[1:] if mask_inputs is not None else _FULL_SIZE:
                del output[name]
        return output

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


def _joined(prompts: Sequence[_Prompts], frames: int) -> dict[str, Any]:
    """Prompts with one key, as `forward_tracking` takes them."""
    first = prompts[0]
    points = {
        t: {name: torch.cat([each.points[t][name] for each in prompts]) for name in first.points[t]}
        for t in first.points
    }
    conditioning = [*first.points, *first.masks]
    return {
        "use_pt_input": bool(points),
        "init_cond_frames": conditioning,
        "frames_not_in_init_cond": [t for t in range(frames) if t not in conditioning],
        "mask_inputs_per_frame": {
            t: torch.cat([each.masks[t] for each in prompts]) for t in first.masks
        },
        "point_inputs_per_frame": points,
        "frames_to_add_correction_pt": list(first.corrected),
    }
