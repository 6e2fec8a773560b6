"""SAM2's video predictor over views that are encoded once: `ScanTracker`.

SAM2 opens a folder of JPEGs, encodes a frame when it gets there, and follows one object at a time.
Here the features of all views lie ready, a frame is a visit to one of them (the second cycle visits
the same views again), and several objects are followed at once, each along a sequence of views of
its own. What happens on a frame is SAM2's code: `_run_single_frame_inference` on the features that
`_get_image_feature` finds. For one object the masks equal those of SAM2 on the same frames.

Objects can share a batch if their prompts come at the same frames, counted from their own starts,
and with equally many points.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sam2.sam2_video_predictor import SAM2VideoPredictor
from torch import Tensor

from sap_model.names import Precision

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the colours in [0, 1], as in SAM2's `load_video_frames`."""


MASK_RANGE = 32.0
"""Logits of a mask prompt beyond ± this are clipped, as SAM2 does it."""

AT_ONCE = 24
"""Queries that go through the mask decoder together."""


class Points(NamedTuple):
    """Clicks on one frame, equally many for each of B objects."""

    coords: NDArray[np.float32]
    """(B, P, 2): u, v in pixels of the model's input, integers are pixel centres."""
    labels: NDArray[np.int32]
    """(B, P): 1 on the object, 0 beside it."""


@dataclass(frozen=True)
class PromptBatch:
    """B objects that are followed together along T frames."""

    views: NDArray[np.int64]
    """(B, T): which view each object's frame t shows."""
    conditioning: Mapping[int, Points]
    """Frame: clicks from which the object is segmented there as in a single image, before all
    else (SAM2's initial conditioning frames)."""
    corrections: Mapping[int, Points] = field(default_factory=dict)
    """Frame: clicks that are added where the object is followed from memory."""
    masks: Mapping[int, NDArray[np.float32]] = field(default_factory=dict)
    """Frame with clicks: (B, S / 4, S / 4) logits that the clicks correct."""


@dataclass(frozen=True)
class Features:
    """Image features of N views; what `forward_image` gives, without the batch's repetitions."""

    levels: list[Tensor]
    """Each (N, C, h, w), finest first."""
    positions: list[Tensor]
    """Position encodings, each (1, C, h, w)."""

    @classmethod
    def joined(cls, parts: Sequence[Features]) -> Features:
        """The views of several as one."""
        levels = zip(*(part.levels for part in parts), strict=True)
        return cls([torch.cat(level) for level in levels], parts[0].positions)

    def __len__(self) -> int:
        return len(self.levels[0])


class Query(NamedTuple):
    """One object on one view that is segmented as a single image."""

    view: int
    """Index of the view among the encoded ones."""
    spots: tuple[tuple[float, float, int], ...]
    """Clicks: u, v in pixels of the model's input, and the label; at least one."""
    mask: NDArray[np.float32] | None = None
    """(S / 4, S / 4) logits of a mask prompt."""


class Answer(NamedTuple):
    """What the model says of a query."""

    logits: NDArray[np.float32]
    """(S / 4, S / 4)."""
    iou: float
    """The model's own estimate of the mask's IoU."""


class Visit(NamedTuple):
    """What the model says about B objects on one frame."""

    frame: int
    logits: Tensor
    """(B, S / 4, S / 4) float32; -1024 throughout where the object is judged absent."""
    ious: Tensor
    """(B,) the model's own estimate of its mask's IoU."""
    presence: Tensor
    """(B,) logit that the object is in the frame at all."""


class ScanTracker(SAM2VideoPredictor):
    """A SAM2VideoPredictor with the same weights and another source of frames."""

    pred_obj_scores: bool  # SAM2's own: whether masks are gated by the object score

    precision: Precision = "auto"
    """What it computes in."""

    def compile_encoder(self, backend: str = "inductor") -> None:
        """Have torch.compile make the image encoder faster: the first views then take minutes.

        Args:
            backend: One of `torch.compiler.list_backends`.
        """
        encoder = self.image_encoder
        encoder.forward = torch.compile(
            encoder.forward, backend=backend, fullgraph=True, dynamic=False
        )

    @torch.inference_mode()
    def encode(self, frames: NDArray[np.uint8] | Tensor, at_once: int = 4) -> Features:
        """Features of N views.

        Args:
            frames: (N, L, L, 3) uint8 RGB; where L is not the model's input size they are resized
                as SAM2 does it, with Pillow's bicubic filter. Or a tensor (N, 3, S, S) of grey
                levels from 0 to 255 on the model's device.
            at_once: Views that go through the encoder together.
        """
        parts, positions = [], []
        for start in range(0, len(frames), at_once):
            with self._precision():
                output = self.forward_image(self._to_input(frames[start : start + at_once]))
            parts.append(output["backbone_fpn"])
            positions = [position[:1] for position in output["vision_pos_enc"]]
        return Features([torch.cat(level) for level in zip(*parts, strict=True)], positions)

    @torch.inference_mode()
    def follow(
        self,
        features: Features,
        batch: PromptBatch,
        offload_state_to_cpu: bool = False,
        gated: bool = True,
    ) -> Iterator[Visit]:
        """Segment B objects on all their frames, in order, without waiting for the device.

        Nothing is kept between calls: clicks are never added to an old state, where they would
        change the masks of their own frames only (SAM2 holds other frames' conditioning fixed).

        Args:
            features: Of the views that `batch.views` points into.
            batch: At least one conditioning frame.
            offload_state_to_cpu: Keep memories and masks off the GPU, as in SAM2's `init_state`.
            gated: Empty the mask of an object that is judged absent, as SAM2 does in videos.

        Yields:
            One Visit per frame, on the model's device.
        """
        state = {
            "features": features,
            "views": batch.views,
            "views_on_device": torch.from_numpy(batch.views).to(self.device),
            "num_frames": batch.views.shape[1],
            "device": self.device,
            "storage_device": torch.device("cpu") if offload_state_to_cpu else self.device,
            "constants": {},
            "gated": gated and self.pred_obj_scores,
        }
        outputs: dict[str, dict[int, dict]] = {
            "cond_frame_outputs": {},
            "non_cond_frame_outputs": {},
        }
        conditioned, followed = outputs["cond_frame_outputs"], outputs["non_cond_frame_outputs"]
        # how far back a frame looks for masks; pointers, which are small, are looked up further
        reach = self.num_maskmem * self.memory_temporal_stride_for_eval
        for frame, points in sorted(batch.conditioning.items()):
            masks = batch.masks.get(frame)
            conditioned[frame] = self._segment(state, outputs, frame, points, masks, alone=True)
        for frame in range(batch.views.shape[1]):
            output = conditioned.get(frame)
            if output is None:
                clicks = batch.corrections.get(frame)
                masks = batch.masks.get(frame)
                output = followed[frame] = self._segment(
                    state, outputs, frame, clicks, masks, alone=False
                )
            if offload_state_to_cpu and self.device.type == "cuda":
                torch.cuda.synchronize(self.device)  # SAM2 does not wait for its copies
            yield Visit(
                frame,
                output["pred_masks"][:, 0],
                output["ious"],
                output["object_score_logits"][:, 0],
            )
            if frame - reach in followed:
                followed[frame - reach]["maskmem_features"] = None
                followed[frame - reach]["pred_masks"] = None

    @torch.inference_mode()
    def decode(self, features: Features, queries: Sequence[Query]) -> list[Answer]:
        """Segment views as single images, without memory and without the object score's gate.

        Args:
            features: Of the views that the queries point into.
            queries: Each has the same answer whichever others it is asked with, but for rounding.

        Returns:
            An answer for each query, in their order. A single click without a mask prompt is
            answered with the best of SAM2's three candidates, where the model was trained so.
        """
        answers: dict[int, Answer] = {}
        groups: dict[tuple[int, bool], list[int]] = {}
        for index, query in enumerate(queries):
            groups.setdefault((len(query.spots), query.mask is not None), []).append(index)
        for chosen in groups.values():
            for start in range(0, len(chosen), AT_ONCE):
                indices = chosen[start : start + AT_ONCE]
                found = self._decode(features, [queries[index] for index in indices])
                answers.update(zip(indices, found, strict=True))
        return [answers[index] for index in range(len(queries))]

    def _decode(self, features: Features, queries: list[Query]) -> list[Answer]:
        """Queries with equally many clicks, and with masks or without."""
        views = torch.tensor([query.view for query in queries], device=self.device)
        *fine, coarse = (level[views] for level in features.levels)
        spots = np.array([query.spots for query in queries], np.float32)
        points = self._to_prompt(Points(spots[..., :2].copy(), spots[..., 2].astype(np.int32)))
        given = [query.mask for query in queries if query.mask is not None]
        masks = torch.from_numpy(np.stack(given))[:, None].to(self.device) if given else None
        with self._precision(), self._gating(False):
            outputs = self._forward_sam_heads(
                backbone_features=coarse + self.no_mem_embed.view(1, -1, 1, 1),
                point_inputs=points,
                mask_inputs=masks,
                high_res_features=fine,
                multimask_output=masks is None and self._use_multimask(True, points),
            )
        logits = outputs[3][:, 0].float().cpu().numpy()
        return [
            Answer(mask, float(iou)) for mask, iou in zip(logits, self._ious.cpu(), strict=True)
        ]

    @torch.inference_mode()
    def propose(
        self, features: Features, view: int, points: NDArray[np.float32]
    ) -> tuple[Tensor, Tensor]:
        """What may lie at points of a view: all candidates of the mask decoder for each.

        Args:
            features: Of encoded views.
            view: Index of the view among them.
            points: (P, 2) u, v in pixels of the model's input.

        Returns:
            Logits (P, M, S / 4, S / 4) and estimated IoUs (P, M), float32 on the model's device. M
            is 3, or 1 for models that were trained to give one mask.
        """
        *fine, coarse = (level[view][None] for level in features.levels)
        clicks = Points(points[:, None], np.ones((len(points), 1), np.int32))
        given = self._to_prompt(clicks)
        with self._precision():
            sparse, dense = self.sam_prompt_encoder(
                points=(given["point_coords"], given["point_labels"]), boxes=None, masks=None
            )
            logits, ious, _, _ = self.sam_mask_decoder(
                image_embeddings=coarse + self.no_mem_embed.view(1, -1, 1, 1),
                image_pe=self.sam_prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=self.multimask_output_in_sam,
                repeat_image=True,
                high_res_features=fine,
            )
        return logits.float(), ious.float()

    def _segment(
        self,
        state: dict,
        outputs: dict,
        frame: int,
        points: Points | None,
        masks: NDArray[np.float32] | None,
        alone: bool,
    ) -> dict[str, Any]:
        """What SAM2 stores of one frame, with the estimated IoUs added.

        Args:
            state, outputs: Of `follow`.
            frame: Its number.
            points: Clicks on it, if any.
            masks: (B, S / 4, S / 4) logits that the clicks correct, if any.
            alone: Segment it from its clicks as a single image, without memory of other frames.
        """
        with self._precision(), self._gating(state["gated"]):
            output, _ = self._run_single_frame_inference(
                inference_state=state,
                output_dict=outputs,
                frame_idx=frame,
                batch_size=len(state["views"]),
                is_init_cond_frame=alone,
                point_inputs=points and self._to_prompt(points),
                mask_inputs=None,
                reverse=False,
                run_mem_encoder=True,
                prev_sam_mask_logits=None if masks is None else self._to_mask_prompt(masks),
            )
        output["ious"] = self._ious
        return output

    def _get_image_feature(
        self, inference_state: dict, frame_idx: int, batch_size: int
    ) -> tuple[Any, ...]:
        """SAM2's hook for the features of a frame: here each object's view among those encoded."""
        features: Features = inference_state["features"]
        if batch_size == 1:  # by a number of the CPU: one of the device would be waited for
            view = int(inference_state["views"][0, frame_idx])
            levels = [level[view : view + 1] for level in features.levels]
        else:
            views = inference_state["views_on_device"][:, frame_idx]
            levels = [level[views] for level in features.levels]
        positions = [position.expand(batch_size, -1, -1, -1) for position in features.positions]
        # nobody asks for the image itself, which SAM2 puts first
        prepared = self._prepare_backbone_features(
            {"backbone_fpn": levels, "vision_pos_enc": positions}
        )
        return None, *prepared

    def _forward_sam_heads(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """SAM2's heads; the estimated IoU of the chosen mask, which SAM2 drops, is kept."""
        outputs = super()._forward_sam_heads(*args, **kwargs)
        # of several candidates SAM2 takes the one with the highest estimate
        self._ious = outputs[2].amax(dim=-1).float()
        return outputs

    def _to_input(self, frames: NDArray[np.uint8] | Tensor) -> Tensor:
        """Frames of `encode` as the encoder wants them: (n, 3, S, S) float32, normalised."""
        if isinstance(frames, np.ndarray):
            side = (self.image_size, self.image_size)
            if frames.shape[1:3] != side:
                frames = np.stack([np.asarray(Image.fromarray(f).resize(side)) for f in frames])
            frames = torch.from_numpy(frames).to(self.device).permute(0, 3, 1, 2)
        images = frames / 255.0
        mean, deviation = images.new_tensor(MEAN), images.new_tensor(DEVIATION)
        return (images - mean[:, None, None]) / deviation[:, None, None]

    def _to_prompt(self, points: Points) -> dict[str, Tensor]:
        coords = torch.from_numpy(points.coords).to(self.device)
        labels = torch.from_numpy(points.labels).to(self.device)
        return {"point_coords": coords, "point_labels": labels}

    def _to_mask_prompt(self, masks: NDArray[np.float32]) -> Tensor:
        """Logits (B, s, s) as a prompt, within the range that SAM2's own predictor keeps."""
        return torch.from_numpy(masks)[:, None].to(self.device).clamp(-MASK_RANGE, MASK_RANGE)

    @contextmanager
    def _gating(self, gated: bool) -> Iterator[None]:
        """Have SAM2 look at the object score, or not, for a while."""
        before, self.pred_obj_scores = self.pred_obj_scores, gated
        try:
            yield
        finally:
            self.pred_obj_scores = before

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.computes_in == "bf16")

    @property
    def computes_in(self) -> Precision:
        """What auto means here: bf16 on GPUs, as in SAM2's examples, and float32 on CPUs."""
        if self.precision == "auto":
            return "bf16" if self.device.type == "cuda" else "float32"
        return self.precision
