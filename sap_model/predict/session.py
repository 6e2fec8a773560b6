"""A session on one panorama: it remembers what each object was prompted with.

session = predictor.session(image)
session.add_click(1200, 900)               # a Prediction
session.add_click(1300, 700, label=0)      # corrects it
session.undo()
session.add_click(300, 400, object_id=2)   # another object
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sap_model.clicks import POSITIVE
from sap_model.predict.objects import (
    Prediction,
    Prompt,
    Segmented,
    clicks_of,
    panorama_size,
    prompt_of,
)
from sap_model.predict.warp import Step


class StepPredictor(Protocol):
    """What a session needs of a predictor; `SapPredictor` is one."""

    @property
    def image(self) -> NDArray[np.uint8]: ...

    def predict_steps(self, prompt: Prompt) -> Iterator[Step]: ...


@dataclass(frozen=True)
class SegmentedObject:
    """An object that somebody segments."""

    name: str
    prompt: Prompt
    prediction: Segmented | None = None
    """None as long as there is no click on it."""

    @property
    def mask(self) -> NDArray[np.bool_] | None:
        """(H, W)."""
        return self.prediction.mask if self.prediction else None


class Session:
    """Objects of one panorama, and the way back.

    Args:
        predictor: With a panorama that is set. Setting another one ends the session.
        keep_mask: Give the last mask along with a correction, as SAM2 does; the paper's protocol
            segments from all clicks alone.
    """

    def __init__(self, predictor: StepPredictor, keep_mask: bool = False) -> None:
        self.predictor = predictor
        self.keep_mask = keep_mask
        self.image = predictor.image
        self.objects: dict[int, SegmentedObject] = {}
        self._before: list[tuple[int, SegmentedObject | None]] = []

    def add_click(
        self, x: float, y: float, label: int = POSITIVE, object_id: int = 1
    ) -> Prediction | None:
        """Click on an object (label 1) or beside it (0), and segment it again.

        Returns:
            None while the object has neither a positive click nor a box.

        Raises:
            UserError: The click lies outside of the panorama.
        """
        before = self._prompt(object_id)
        new = clicks_of(self._size, [[x, y]], [label])
        return self._segment(object_id, replace(before, clicks=[*before.clicks, *new]))

    def set_box(self, box: ArrayLike, object_id: int = 1) -> Prediction | None:
        """Draw a box (x, y, width, height) around an object, and segment it again.

        Raises:
            UserError: The box lies outside of the panorama or has no area.
        """
        made = prompt_of(self._size, box=box)
        return self._segment(object_id, replace(self._prompt(object_id), box=made.box))

    def segment_steps(self, object_id: int, prompt: Prompt, name: str = "") -> Iterator[Step]:
        """Segment an object from a complete prompt, in steps; the session keeps the last one."""
        if self.predictor.image is not self.image:
            raise RuntimeError("another panorama was set; start a new session")
        old = self.objects.get(object_id)
        name = name or self._name(object_id)
        asked = prompt
        if self.keep_mask and old is not None and old.mask is not None and old.mask.any():
            asked = replace(prompt, mask=old.mask)
        for step in self.predictor.predict_steps(asked):
            if step.prediction is not None:
                self._keep(object_id, SegmentedObject(name, prompt, step.prediction))
            yield step

    def undo(self) -> SegmentedObject | None:
        """Take the last change back; the object as it was before, None if it did not exist.

        Without a change to take back nothing happens.
        """
        if not self._before:
            return None
        object_id, old = self._before.pop()
        if old is None:
            self.objects.pop(object_id, None)
        else:
            self.objects[object_id] = old
        return old

    def remove(self, object_id: int) -> None:
        """Forget an object; `undo` brings it back."""
        if object_id in self.objects:
            self._before.append((object_id, self.objects.pop(object_id)))

    def reset(self) -> None:
        """Forget all objects and changes."""
        self.objects.clear()
        self._before.clear()

    def rename(self, object_id: int, name: str) -> None:
        """Give an object another name; one that does not exist is left alone."""
        if object_id in self.objects and name:
            self.objects[object_id] = replace(self.objects[object_id], name=name)

    def predictions(self) -> dict[int, Segmented]:
        """What was segmented, by the objects' numbers."""
        return {
            number: one.prediction
            for number, one in sorted(self.objects.items())
            if one.prediction is not None
        }

    @property
    def _size(self) -> tuple[int, int]:
        return panorama_size(self.image)

    def _prompt(self, object_id: int) -> Prompt:
        one = self.objects.get(object_id)
        return one.prompt if one else Prompt()

    def _name(self, object_id: int) -> str:
        one = self.objects.get(object_id)
        return one.name if one else f"object {object_id}"

    def _segment(self, object_id: int, prompt: Prompt) -> Prediction | None:
        positive = any(click.label == POSITIVE for click in prompt.clicks)
        if not positive and prompt.box is None:
            self._keep(object_id, SegmentedObject(self._name(object_id), prompt))
            return None
        *_, last = self.segment_steps(object_id, prompt)
        return last.prediction

    def _keep(self, object_id: int, one: SegmentedObject) -> None:
        self._before.append((object_id, self.objects.get(object_id)))
        self.objects[object_id] = one
