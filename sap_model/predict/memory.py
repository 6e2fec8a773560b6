"""The scan joined by SAM2's memory, as in the paper: clicks on a panorama → masks of it.

    predictor = MemoryPredictor(load("large", "official"))
    predictor.set_panorama(image)                       # encodes 24 views, once
    prediction = predictor.predict([Click(x, y, 1)])    # prediction.mask: (H, W) bool
    several = predictor.predict_many([[Click(…)], [Click(…), Click(…)], …])

Each call segments from all clicks it is given, over the features of `set_panorama`. To correct a
mask, call again with the clicks so far and the new one: nothing is remembered between calls. SAM2
also gives a correction the mask that it corrects: ask for `logits`, and pass them as `previous`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from pipeline.errors import UserError
from sap_model.clicks import Click
from sap_model.model.tracker import Features, PromptBatch, ScanTracker
from sap_model.names import Prompted, Visits
from sap_model.predict.objects import Prediction
from sap_model.predict.prompts import Views, batches, plan_prompts
from sap_model.scan.torch_views import TorchViews
from sap_model.scan.trajectory import Scan
from sap_model.scan.views import SOFT_RANGE, Fusion, MappedViews, PerspectiveViews

ViewsOf = Callable[[Scan, int, int], Views]
"""Views of a scan, L pixels a side, of panoramas W pixels wide."""

ABSENT = -1024.0
"""SAM2's logit, on every pixel, of an object that is not in the frame."""


def default_batch(device: str) -> int:
    """Objects that are followed at the same time on a device of a type."""
    return 1 if device == "cpu" else 8


class MemoryPredictor:
    """Segments objects of one panorama at a time.

    Decisions that the paper leaves open:

    - With two cycles every view is visited twice. Its *last* visit counts: by then the memory has
      come round once. `visits="all"` takes the maximum of both, equation 5 to the letter.
    - A view in which SAM2 judges the object absent (object score <= 0) adds nothing to a maximum
      and votes against in a mean, as SAM2's logit of -1024 says.
    - Views are fused from SAM2's logits, brought to L × L and made soft masks by
      `views.soft_masks`; a pixel belongs to the object where the fused value is at least 0.5.
    - `prompts` says where the scan starts and which frames are given which clicks.

    Memory: the features of all views (16.8 MB per view in float32 at 1024 × 1024, half of it on a
    GPU), and per object that is followed at the same time about 0.8 MB for each frame that is still
    looked back at. More objects than `max_batch` take longer, not more memory, except their masks.

    Args:
        model: Of `build` or `load`; the work is done on its device.
        scan: The trajectory, the paper's unless told otherwise.
        views: `PerspectiveViews`, or `ErpWindowViews` for the ablation.
        view_size: L, the side of a rendered view; the model's input size unless told otherwise.
        cycles: How often the scan is run through. The paper's 2 score the same as 1 and take
            twice the time (docs/results.md).
        fusion: "max" (the paper's) or "mean".
        visits: Which visits to a view count, "last" or "all".
        prompted: Which visits to a view that sees clicks are prompted: "every" or "first", which
            takes about a fifth less time.
        max_batch: Objects that are followed at the same time, if their prompts allow it; 1 on CPUs
            and 8 on GPUs unless told otherwise. With 1 an object's answer does not depend on
            which others are asked for. With more it does by rounding: sums are taken in another
            order, and SAM2 keeps memories in bfloat16, which makes a last bit into 1/256.
        encode_batch: Views that go through the image encoder at the same time.
        offload_state_to_cpu: Keep memories off the GPU, as in SAM2's `init_state`.
        gated: Whether an object that is judged absent has no mask in a view.
        in_torch: Render and fuse views with `TorchViews` on the model's device instead of OpenCV on
            the CPU; on GPUs unless told otherwise. Views of another size than the model's input,
            and other kinds of views than the scan's, are always rendered on the CPU.
    """

    def __init__(
        self,
        model: ScanTracker,
        scan: Scan | None = None,
        views: ViewsOf = PerspectiveViews,
        view_size: int | None = None,
        cycles: int = 1,
        fusion: Fusion = "max",
        visits: Visits = "last",
        prompted: Prompted = "every",
        max_batch: int | None = None,
        encode_batch: int = 4,
        offload_state_to_cpu: bool = False,
        gated: bool = True,
        in_torch: bool | None = None,
    ) -> None:
        if max_batch is None:
            max_batch = default_batch(model.device.type)
        if cycles < 1 or max_batch < 1 or encode_batch < 1:
            raise UserError("cycles, max_batch and encode_batch: choose 1 or more")
        if visits not in ("last", "all"):
            raise UserError(f"visits {visits!r}: choose 'last' or 'all'")
        if prompted not in ("every", "first"):
            raise UserError(f"prompted {prompted!r}: choose 'every' or 'first'")
        if fusion not in ("max", "mean"):
            raise UserError(f"fusion {fusion!r}: choose 'max' or 'mean'")
        self.model = model
        self.scan = scan or Scan()
        self.views_of = views
        self.view_size = view_size or model.image_size
        self.cycles = cycles
        self.fusion: Fusion = fusion
        self.visits = visits
        self.prompted: Prompted = prompted
        self.max_batch = max_batch
        self.encode_batch = encode_batch
        self.offload_state_to_cpu = offload_state_to_cpu
        self.gated = gated
        self.in_torch = model.device.type == "cuda" if in_torch is None else in_torch
        self._twin: TorchViews | None = None
        self._views: Views | None = None
        self._width = 0
        self._features: Features | None = None

    def set_panorama(self, image: NDArray[np.uint8]) -> None:
        """Render and encode the views of a panorama (H, W, 3), uint8 RGB with W = 2 H."""
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise UserError(f"panorama {image.dtype} {image.shape}: (H, W, 3) uint8 RGB due")
        if image.shape[1] != 2 * image.shape[0]:
            raise UserError(f"panorama of {image.shape[1]} × {image.shape[0]}: twice as wide due")
        if self._views is None or self._width != image.shape[1]:
            self._width = image.shape[1]
            self._views = self.views_of(self.scan, self.view_size, self._width)
            self._twin = None
            if self.in_torch and isinstance(self._views, MappedViews):
                self._twin = TorchViews(self._views, self.model.device)
        self._features = None  # the old ones first, for the sake of memory
        if self._twin is not None and self.view_size == self.model.image_size:
            panorama = torch.from_numpy(image).to(self.model.device).permute(2, 0, 1)
            frames = self._twin.render(panorama).add_(0.5).floor_()  # grey levels, as on the CPU
            self._features = self.model.encode(frames, self.encode_batch)
        else:
            self._features = self.model.encode(self._views.render(image), self.encode_batch)

    @property
    def encoded(self) -> tuple[Features, Views]:
        """The features of the views, and the views.

        Raises:
            RuntimeError: No panorama is set.
        """
        if self._features is None or self._views is None:
            raise RuntimeError("no panorama is set; call set_panorama first")
        return self._features, self._views

    def predict(
        self, clicks: Sequence[Click], scores: bool = False, logits: bool = False
    ) -> Prediction:
        """One object; see `predict_many`."""
        return self.predict_many([clicks], scores, logits)[0]

    def predict_many(
        self,
        objects: Sequence[Sequence[Click]],
        scores: bool = False,
        logits: bool = False,
        previous: Sequence[NDArray[np.float32] | None] = (),
    ) -> list[Prediction]:
        """Segment several objects, each from its own clicks and from its own start of the scan.

        Objects know nothing of each other; masks may overlap.

        Args:
            objects: For each, all its clicks so far: (x, y, label) in panorama pixels.
            scores: Also give soft masks (33 MB each at 4K).
            logits: Also give each view's logits.
            previous: For each object the logits (N, S / 4, S / 4) of the prediction that its clicks
                correct, or None. They are given to the views that see a click, as SAM2 does it.

        Returns:
            Predictions in the order of the objects. One whose positive clicks no view sees, which
            happens between views that do not overlap, has an empty mask and an IoU of 0.

        Raises:
            UserError: An object has no positive click, or one lies above or below the panorama.
        """
        views, features = self._views, self._features
        if views is None or features is None:
            raise RuntimeError("predict before set_panorama")
        for x, y, _ in (click for each in objects for click in each):
            if not (math.isfinite(x) and -0.5 <= y <= self._width // 2 - 0.5):
                raise UserError(f"click ({x}, {y}) lies outside of the panorama")
        side = self.model.image_size
        plans = [plan_prompts(each, views, self.cycles, side, self.prompted) for each in objects]
        nothing = np.zeros((self._width // 2, self._width), bool)
        predictions = [
            Prediction(nothing, 0.0, nothing.astype(np.float32) if scores else None)
            for _ in objects
        ]
        for indices, batch in batches(plans, self.max_batch, previous):
            seen, *numbers = self._follow(features, batch)
            fused = self._fuse(views, seen, scores)
            ious, presence = (_fetch(each) for each in numbers)
            given = _fetch(seen) if logits else None
            clicked = batch.views[:, list(batch.conditioning)]
            for row, (index, (soft, mask)) in enumerate(zip(indices, fused, strict=True)):
                predictions[index] = Prediction(
                    mask,
                    float(ious[row, np.unique(clicked[row])].mean()),
                    soft,
                    None if given is None else given[row],
                    ious[row] if logits else None,
                    presence[row] if logits else None,
                )
        return predictions

    @torch.inference_mode()
    def _follow(self, features: Features, batch: PromptBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (B, N, S / 4, S / 4), IoUs and object scores (B, N) of B objects in N views, as
        `visits` says, on the model's device: it is not waited for."""
        device, side = self.model.device, self.model.image_size // 4
        objects, count = len(batch.views), len(features)
        rows = torch.arange(objects, device=device)
        order = torch.from_numpy(batch.views).to(device)
        seen = torch.full((objects, count, side, side), ABSENT, device=device)
        ious = torch.zeros((objects, count), device=device)
        presence = torch.full((objects, count), ABSENT, device=device)
        for visit in self.model.follow(features, batch, self.offload_state_to_cpu, self.gated):
            views = order[:, visit.frame]
            new = visit.logits.to(device).float()
            if self.visits == "all":
                new = torch.maximum(new, seen[rows, views])
            seen[rows, views] = new
            present = (visit.presence > 0) | (not self.gated)
            ious[rows, views] = visit.ious * present
            presence[rows, views] = visit.presence.float()
        return seen, ious, presence

    @torch.inference_mode()
    def _fuse(
        self, views: Views, seen: Tensor, scores: bool
    ) -> list[tuple[NDArray[np.float32] | None, NDArray[np.bool_]]]:
        """Soft mask, if asked for, and mask (H, W) of each of B objects' logits (B, N, s, s)."""
        there = (seen.amax(dim=(2, 3)) > -SOFT_RANGE).tolist()
        fused = []
        for logits, shown in zip(seen, there, strict=True):
            chosen = [view for view, visible in enumerate(shown) if visible]
            size = (self.view_size, self.view_size)
            large = logits.new_zeros((len(chosen), *size))
            if chosen:
                small = torch.stack([logits[view] for view in chosen])
                large = interpolate(small[:, None], size, mode="bilinear")[:, 0]
                large = (large * (0.5 / SOFT_RANGE) + 0.5).clamp_(0, 1)  # as `views.soft_masks`
            if self._twin is not None:
                masks = logits.new_zeros((1, len(logits), *size))
                for view, mask in zip(chosen, large, strict=True):
                    masks[0, view] = mask
                soft = self._twin.soft_panorama(masks, self.fusion)[0]
                fused.append((_fetch(soft) if scores else None, _fetch(soft >= 0.5)))
                continue
            on_cpu = np.zeros((len(logits), *size), np.float32)
            on_cpu[chosen] = _fetch(large)
            if scores:
                whole = views.soft_panorama(on_cpu, self.fusion)
                fused.append((whole, whole >= 0.5))
            else:
                fused.append((None, views.to_panorama(on_cpu, self.fusion)))
        return fused


def _fetch(result: Tensor) -> NDArray:
    """A result as an array: the only place where the device is waited for, but for which views of
    an object are empty."""
    return result.cpu().numpy()
