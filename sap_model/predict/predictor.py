"""Segment objects of a panorama: the class that other programs use.

    predictor = SapPredictor.from_pretrained("sap-nano")      # or "user/name", or a folder
    predictor.set_panorama(image)                             # (H, W, 3) uint8 RGB, W = 2 H
    prediction = predictor.predict(points=[[1200, 900]], labels=[1])
    prediction = predictor.predict(box=[4000, 900, 300, 200])  # across the seam of 4096 columns
    session = predictor.session()                             # click, correct, undo

Every call segments from all it is given; only sessions remember earlier clicks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from pipeline.errors import UserError
from sap_model.model.checkpoints import load
from sap_model.model.pretrained import find_pretrained, push_to_hub, save_pretrained
from sap_model.model.tracker import ScanTracker
from sap_model.predict.methods import METHODS, ClickMethod, make, scan_of
from sap_model.predict.objects import Prediction, Prompt, panorama_size, prompt_of
from sap_model.predict.session import Session
from sap_model.predict.warp import Step, WarpPredictor
from sap_model.scan.single_view import WholeView
from sap_model.segment.everything import (
    EverythingOptions,
    EverythingStep,
    Segment,
    everything_steps,
    fibonacci_points,
)
from sap_model.segment.proposing import FlatProposals, ScanProposals, grid_points

DEFAULT_METHOD = "zoom"
"""Key of `METHODS` that is taken unless another is named."""


class SapPredictor:
    """A model with a method, for one panorama at a time.

    Args:
        model: Of `load` or `build`; the work is done on its device.
        method: Key of `METHODS`: how views are joined. The paper's is "sap". "zoom" and "warp" take
            boxes and masks as well as points; the others take points.
        options: Further arguments of `make`: scan, view_size, fusion, … Unless given, fusion is
            "mean", which scores higher than the paper's "max" (docs/results.md).

    Attributes:
        scan: The views, in their order.

    Raises:
        UserError: There is no such method, or it needs the truth.
    """

    def __init__(self, model: ScanTracker, method: str = DEFAULT_METHOD, **options: Any) -> None:
        if method in METHODS and METHODS[method].weights == "none":
            raise UserError(f"method {method} needs the truth; choose another, for example sap")
        self.model = model
        self.method = method
        self._method = make(method, model, **{"fusion": "mean", **options})
        self.scan = scan_of(method, options.get("scan"))
        self._image: NDArray[np.uint8] | None = None

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        method: str | None = None,
        size: str | None = None,
        image_size: int | None = None,
        device: str | torch.device | None = None,
        revision: str | None = None,
        **options: Any,
    ) -> SapPredictor:
        """A predictor with weights by name.

        Args:
            source: A folder of `save_pretrained`, a file of weights, "sap-nano" or "sam2-nano"
                (which come with the package), or a Hub id "user/name[:file]", for example
                "facebook/sam2.1-hiera-large".
            method: Key of `METHODS`; the one that the weights were saved with, or else "zoom".
            size: Of the model, where it cannot be found from the weights: a YAML file.
            image_size: Side of the model's input in pixels; the weights' own unless given.
            device: "cpu", "cuda" or "mps"; the fastest one there is unless given.
            revision: Branch, tag or commit on the Hub.
            options: See the class.

        Raises:
            UserError: There are no such weights, or they do not fit.
        """
        found = find_pretrained(source, revision)
        model = load(
            size or found.size, found.weights, image_size or found.image_size, device=device
        )
        return cls(model, method or found.method or DEFAULT_METHOD, **options)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write config.json and model.safetensors, for `from_pretrained`.

        Raises:
            UserError: The folder cannot be written, or the model has no named size.
        """
        return save_pretrained(self.model, folder, self.method)

    def push_to_hub(self, repo: str, *, private: bool = True, token: str | None = None) -> str:
        """Send the model to "user/name" on the Hub, for `from_pretrained`; the commit's address.

        Raises:
            UserError: The Hub refuses it or is out of reach.
        """
        return push_to_hub(self.model, repo, self.method, private, token)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    @property
    def image(self) -> NDArray[np.uint8]:
        """The panorama that was set.

        Raises:
            RuntimeError: There is none.
        """
        if self._image is None:
            raise RuntimeError("no panorama is set; call set_panorama first")
        return self._image

    def set_panorama(self, image: NDArray[np.uint8]) -> None:
        """Encode the views of a panorama (H, W, 3), uint8 RGB with W = 2 H.

        Raises:
            UserError: It has another shape or type.
        """
        for _ in self.encode_steps(image):
            pass

    def encode_steps(self, image: NDArray[np.uint8]) -> Iterator[int]:
        """`set_panorama` in steps; yields how many views are encoded."""
        self._image = None
        if isinstance(self._method, WarpPredictor):
            yield from self._method.encode_steps(image)
        else:
            self._method.set_panorama(image)
        self._image = image

    def predict(
        self,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        scores: bool = False,
    ) -> Prediction:
        """Segment one object.

        Args:
            points: (P, 2) panorama pixels x, y.
            labels: (P,) 1 on the object, 0 beside it; all 1 where they are left out.
            box: (4,) x, y, width, height around the object; x + width may be beyond the right
                border, where the box continues at the left one. SAM2's boxes are x, y, x, y.
            mask: (H, W), not 0 where the object roughly is: an earlier answer, for example.
            scores: Also give the soft mask.

        Raises:
            UserError: Nothing names the object, something lies outside of the panorama, or the
                method takes points alone.
        """
        prompt = prompt_of(panorama_size(self.image), points, labels, box, mask)
        return self._method.predict_many([prompt], scores)[0]

    def predict_many(
        self, prompts: Sequence[Prompt | Mapping[str, Any]], scores: bool = False
    ) -> list[Prediction]:
        """Segment several objects, each on its own; in their order.

        Args:
            prompts: For each object the arguments of `predict` by name, or a `Prompt`.
            scores: Also give soft masks.

        Raises:
            UserError: As for `predict`.
        """
        return self._method.predict_many([self.prompt(each) for each in prompts], scores)

    def predict_steps(self, prompt: Prompt | Mapping[str, Any]) -> Iterator[Step]:
        """Segment one object in steps, for a person who watches; the last has the prediction."""
        made = self.prompt(prompt)
        if isinstance(self._method, WarpPredictor):
            yield from self._method.predict_steps(made)
        else:
            (found,) = self._method.predict_many([made])
            yield Step(found.mask, {}, [], found)

    def prompt(self, given: Prompt | Mapping[str, Any]) -> Prompt:
        """A prompt of the arguments of `predict` by name.

        Raises:
            UserError: See `predict`; or there is an unknown name.
        """
        if isinstance(given, Prompt):
            return given
        unknown = given.keys() - {"points", "labels", "box", "mask"}
        if unknown:
            raise UserError(
                f"a prompt has no {sorted(unknown)[0]}; give points, labels, box or mask"
            )
        return prompt_of(panorama_size(self.image), **given)

    def segment_everything(self, **options: Any) -> list[Segment]:
        """Masks of everything in the panorama that is set, largest first.

        Args:
            options: Fields of `EverythingOptions`: points, iou, stability, overlap, follow,
                overlapping.

        Raises:
            UserError: The method joins views by memory; "zoom", "warp" and "sam2" do not.
        """
        *_, last = self.everything_steps(EverythingOptions(**options))
        return last.segments or []

    def everything_steps(self, options: EverythingOptions) -> Iterator[EverythingStep]:
        """`segment_everything` in steps, for a person who waits; the last has the segments."""
        method, width = self._method, self.image.shape[1]
        if isinstance(method, WarpPredictor):
            features, views = method.encoded
            proposals = ScanProposals(features, views, self.model.image_size)
            points = fibonacci_points(options.points, width)
            yield from everything_steps(self.model, proposals, points, width, options, method)
            return
        features, view = method.predictor.encoded if isinstance(method, ClickMethod) else (None, 0)
        if features is None or not isinstance(view, WholeView):
            raise UserError(f"method {self.method} finds single objects; choose METHOD=zoom")
        flat = FlatProposals(features, view)
        points = grid_points(options.points, width)
        yield from everything_steps(self.model, flat, points, width, options)

    def session(self, image: NDArray[np.uint8] | None = None) -> Session:
        """A session on the panorama that is set, or on another one: it remembers clicks."""
        if image is not None:
            self.set_panorama(image)
        return Session(self)
