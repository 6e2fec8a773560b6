"""The methods that the paper compares, by name, behind one interface.

    method = make("scan", load("tiny", "official"))
    method.set_panorama(image)
    predictions = method.predict_many([Prompt(clicks), …])

What tells `scan` from `sap`, and `sam2` from `sap-no-scan`, are the weights alone: `METHODS`
says which a method is meant for, and whoever loads the model sees to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError
from sap_model.model.checkpoints import sap_weights
from sap_model.model.tracker import ScanTracker
from sap_model.names import Corrections
from sap_model.predict.memory import MemoryPredictor, ViewsOf
from sap_model.predict.objects import Prediction, Prompt
from sap_model.predict.prompts import Views
from sap_model.predict.warp import WarpPredictor
from sap_model.predict.zoom import ZoomPredictor
from sap_model.scan.single_view import WholeView
from sap_model.scan.trajectory import Scan
from sap_model.scan.views import ErpWindowViews, Fusion, PerspectiveViews

Weights = Literal["official", "fine-tuned", "none"]


class Method(Protocol):
    """What the evaluator needs."""

    def set_panorama(self, image: NDArray[np.uint8]) -> None:
        """Take a panorama (H, W, 3), uint8 RGB, and do what is common to all its objects."""

    def predict_many(self, prompts: Sequence[Prompt], scores: bool = False) -> list[Prediction]:
        """Segment objects of it, each on its own; in their order."""


@dataclass(frozen=True)
class MethodSpec:
    """One line of the table of methods."""

    description: str
    weights: Weights
    """Whose weights the method is meant for: Meta's, fine-tuned ones, or none at all."""
    views: ViewsOf = PerspectiveViews
    one_view: bool = False
    """Whether the panorama is one image: nothing is fused, and, as in SAM2's image predictor, the
    object score does not empty masks."""
    overlap: float | None = None
    """Overlap of the scan in place of the one that is asked for."""
    geometry: type[WarpPredictor] | None = None
    """The predictor of a method that joins views by geometry instead of memory."""


METHODS = {
    "sam2": MethodSpec(
        "the whole panorama, stretched to SAM2's square input", "official", WholeView, one_view=True
    ),
    "sam2-pad": MethodSpec(
        "the whole panorama, padded to SAM2's square input",
        "official",
        partial(WholeView, fit="pad"),
        one_view=True,
    ),
    "scan": MethodSpec("SAM2 along the scan, without training (SAM2+scan)", "official"),
    "warp": MethodSpec(
        "the scan without memory: masks are warped into the neighbouring views (not the paper's)",
        "official",
        geometry=WarpPredictor,
    ),
    "zoom": MethodSpec(
        "warp, and a narrower view for small objects (not the paper's)",
        "official",
        geometry=ZoomPredictor,
    ),
    "sap": MethodSpec("SAP: the scan, with weights fine-tuned on it", "fine-tuned"),
    "erp": MethodSpec(
        "the scan over patches of the panorama itself (table 6)", "fine-tuned", ErpWindowViews
    ),
    "sap-no-overlap": MethodSpec(
        "the scan with views that do not overlap (table 5, row 2)", "fine-tuned", overlap=0.0
    ),
    "sap-no-scan": MethodSpec(
        "no scan, neither in training nor here (table 5, row 1)",
        "fine-tuned",
        WholeView,
        one_view=True,
    ),
    "oracle": MethodSpec("the truth through the scan's views and back: the ceiling", "none"),
}
"""Name: what it is. Weights of `erp`, `sap-no-overlap` and `sap-no-scan` were trained that way."""

GEOMETRY_OPTIONS = ("refine", "mask_prompts", "encode_batch")
"""Arguments of `WarpPredictor` among the options of `make`; memory has no meaning there."""


def make(
    name: str,
    model: ScanTracker | None = None,
    scan: Scan | None = None,
    view_size: int | None = None,
    fusion: Fusion = "max",
    corrections: Corrections = "clicks",
    **options: Any,
) -> Method:
    """A method that is ready for `set_panorama`.

    Args:
        name: One of `METHODS`.
        model: With the weights that the method is meant for; not needed for the oracle.
        scan: The trajectory, the paper's unless told otherwise.
        view_size: L of the views; the model's input size, or 1024 without a model.
        fusion: "max" (the paper's) or "mean". `warp` and `zoom` always take the mean: a wrong
            mask that was warped would otherwise never be outvoted.
        corrections: Whether corrections are given clicks alone, or the previous masks as well;
            predictions then have logits. `warp`, `zoom` and the oracle know clicks alone.
        options: Further arguments of `MemoryPredictor`; `warp` and `zoom` take
            `GEOMETRY_OPTIONS` of them.

    Raises:
        UserError: There is no such method, or it needs a model.
    """
    spec = _spec(name)
    if spec.weights == "none":
        return Oracle(spec.views, scan or Scan(), view_size or 1024, fusion)
    if model is None:
        raise UserError(f"method {name} needs a model with {spec.weights} weights; load one")
    if spec.geometry is not None:
        given = {name: value for name, value in options.items() if name in GEOMETRY_OPTIONS}
        return spec.geometry(model, _scan(spec, scan), view_size, **given)
    predictor = MemoryPredictor(
        model,
        _scan(spec, scan),
        spec.views,
        view_size,
        fusion=fusion,
        gated=not spec.one_view,
        **options,
    )
    return ClickMethod(predictor, corrections)


def checkpoint_of(
    name: str, size: str, official: str = "official", fine_tuned: str | None = None
) -> str | None:
    """The checkpoint that a method is run with.

    Args:
        name: One of `METHODS`.
        size: Of the model, or a YAML file.
        official: SAM2's own weights.
        fine_tuned: Fine-tuned ones. Without them `sap` takes the shipped ones of its size; its
            ablations do not, for those were not trained their way.

    Returns:
        None for the oracle, which needs none.

    Raises:
        UserError: The method needs fine-tuned weights, and there are none.
    """
    weights = _spec(name).weights
    if weights != "fine-tuned":
        return official if weights == "official" else None
    checkpoint = fine_tuned or (sap_weights(size) if name == "sap" else None)
    if not checkpoint:
        raise UserError(f"method {name} needs CHECKPOINT: a file or a Hub id of weights")
    return checkpoint


class ClickMethod:
    """`MemoryPredictor` as a method: it sees clicks, and on request the masks they correct."""

    def __init__(self, predictor: MemoryPredictor, corrections: Corrections = "clicks") -> None:
        self.predictor = predictor
        self.corrections = corrections

    def set_panorama(self, image: NDArray[np.uint8]) -> None:
        self.predictor.set_panorama(image)

    def predict_many(self, prompts: Sequence[Prompt], scores: bool = False) -> list[Prediction]:
        if any(prompt.box is not None or prompt.mask is not None for prompt in prompts):
            raise UserError("this method takes points alone; for boxes and masks take zoom or warp")
        clicks = [prompt.clicks for prompt in prompts]
        if self.corrections == "masks":
            previous = [prompt.previous for prompt in prompts]
            return self.predictor.predict_many(clicks, scores, logits=True, previous=previous)
        return self.predictor.predict_many(clicks, scores)


class Oracle:
    """The truth, seen through every view, carried back and fused: no model can be expected to do
    better through the same views. It stays below 1 because small things fall between the pixels of
    a view, and because maximum fusion dilates."""

    def __init__(self, views: ViewsOf, scan: Scan, view_size: int, fusion: Fusion) -> None:
        self.views_of, self.scan, self.view_size = views, scan, view_size
        self.fusion: Fusion = fusion
        self._views: Views | None = None
        self._width = 0

    def set_panorama(self, image: NDArray[np.uint8]) -> None:
        """Only its size counts."""
        if self._views is None or self._width != image.shape[1]:
            self._width = image.shape[1]
            self._views = self.views_of(self.scan, self.view_size, self._width)

    def predict_many(self, prompts: Sequence[Prompt], scores: bool = False) -> list[Prediction]:
        if self._views is None:
            raise RuntimeError("predict before set_panorama")
        predictions = []
        for prompt in prompts:
            if prompt.truth is None:
                raise UserError("the oracle needs the truth of every object: Prompt(clicks, truth)")
            masks = self._views.render_ids(prompt.truth)
            soft = self._views.soft_panorama(masks, self.fusion) if scores else None
            predictions.append(Prediction(self._views.to_panorama(masks, self.fusion), 1.0, soft))
        return predictions


def scan_of(name: str, scan: Scan | None = None) -> Scan:
    """The trajectory of a method, also for training its weights.

    Raises:
        UserError: There is no such method.
    """
    return _scan(_spec(name), scan)


def _spec(name: str) -> MethodSpec:
    if name not in METHODS:
        raise UserError(f"method {name!r}: choose one of {', '.join(METHODS)}")
    return METHODS[name]


def _scan(spec: MethodSpec, scan: Scan | None) -> Scan:
    scan = scan or Scan()
    return scan if spec.overlap is None else Scan(scan.fov, spec.overlap, scan.order)
