"""A closer look at small objects: the method `zoom`.

Objects that are small are looked at again: a camera centred on the first click, or on
the box, narrows for as long as its view shows the object whole, and that view's mask replaces the
scan's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline import sphere
from pipeline.sphere import Floats
from sap_model.clicks import POSITIVE
from sap_model.model.tracker import Query
from sap_model.predict.objects import Prediction, Prompt, box_outline
from sap_model.predict.warp import CHUNK, Spot, WarpPredictor, box_spots
from sap_model.scan.camera import Camera, Pyramid
from sap_model.scan.views import soft_masks

FIELDS = (90.0, 65.0, 45.0, 30.0, 20.0)
"""Fields of view of the zoom in degrees."""

LARGE = 0.2
"""Share of its view beyond which a mask is no small object's: the zoom stops before."""

CUT = 0.05
"""Share of the view's border that a mask may cover: beyond that the object is cut off."""


class ZoomPredictor(WarpPredictor):
    """`WarpPredictor`, and a closer look at small objects; see the module's text."""

    _pyramid: Pyramid

    def _render(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        frames = super()._render(image)
        self._pyramid = Pyramid(image)
        return frames

    def predict_many(self, prompts: Sequence[Prompt], scores: bool = False) -> list[Prediction]:
        """As `WarpPredictor.predict_many`."""
        predictions = self._look_closer(prompts, super().predict_many(prompts, scores=True))
        return predictions if scores else [Prediction(one.mask, one.iou) for one in predictions]

    def _look_closer(
        self, prompts: Sequence[Prompt], predictions: list[Prediction]
    ) -> list[Prediction]:
        looks = [_Look(prompt, _centre(prompt, self._pyramid.width)) for prompt in prompts]
        for look in looks:
            look.open = look.prompt.mask is None  # a mask says more than a closer look
        for fov in FIELDS:
            now = [look for look in looks if look.open and look.sees_all(fov, self._pyramid.width)]
            for start in range(0, len(now), CHUNK):
                self._narrow(now[start : start + CHUNK], fov)
            for look in looks:
                look.open = look.open and look in now
        for index, look in enumerate(looks):
            if look.mask is not None:
                side = (self.model.image_size,) * 2
                large = cv2.resize(look.mask, side, interpolation=cv2.INTER_LINEAR)
                camera = Camera(*look.centre, look.fov)
                soft = camera.to_panorama(np.asarray(large), self._pyramid.width)
                predictions[index] = Prediction(soft >= 0.5, look.iou, soft)
        return predictions

    def _narrow(self, looks: Sequence[_Look], fov: float) -> None:
        """Look at objects through a field of view, and note what is seen."""
        size, width = self.model.image_size, self._pyramid.width
        cameras = [Camera(*look.centre, fov) for look in looks]
        frames = np.stack([camera.render(self._pyramid, size) for camera in cameras])
        features = self.model.encode(frames, self.encode_batch)
        queries = [
            Query(number, _spots(look.prompt, camera, size, width))
            for number, (look, camera) in enumerate(zip(looks, cameras, strict=True))
        ]
        for look, answer in zip(looks, self.model.decode(features, queries), strict=True):
            mask = soft_masks(answer.logits)
            inside = mask >= 0.5
            border = np.concatenate([inside[0], inside[-1], inside[:, 0], inside[:, -1]])
            if not 0 < inside.mean() <= LARGE or border.mean() > CUT:
                look.open = False  # what a wider view saw stays
            else:
                look.mask, look.iou, look.fov = mask, answer.iou, fov


@dataclass
class _Look:
    """An object that is looked at more and more closely."""

    prompt: Prompt
    centre: tuple[float, float]
    """Longitude and latitude of its first positive click, or of its box, in radians."""
    open: bool = False
    """Whether a narrower view is wanted."""
    mask: NDArray[np.float32] | None = None
    """(s, s), of the narrowest view that shows the object whole."""
    iou: float = 0.0
    fov: float = 0.0

    def sees_all(self, fov: float, width: int) -> bool:
        """Whether a view of a field of view has the positive clicks and the box well inside."""
        on_it = [click[:2] for click in self.prompt.clicks if click[2] == POSITIVE]
        x, y = np.array(on_it, np.float64).reshape(-1, 2).T
        if self.prompt.box is not None:
            x, y = np.concatenate([[x, y], box_outline(self.prompt.box)], axis=1)
        camera = Camera(*self.centre, 0.9 * fov)
        return bool(camera.project(_directions(x, y, width), 256)[2].all())


def _centre(prompt: Prompt, width: int) -> tuple[float, float]:
    on_it = [(x, y) for x, y, label in prompt.clicks if label == POSITIVE]
    if on_it:
        x, y = map(float, on_it[0])
    elif prompt.box is not None:
        left, top, w, h = prompt.box
        x, y = left + w / 2, top + h / 2
    else:
        x, y = 0.0, 0.0  # a mask alone; nobody looks closer
    lon, lat = sphere.pixel_to_lonlat(x, y, width, width // 2)
    return float(lon), float(lat)


def _directions(x: ArrayLike, y: ArrayLike, width: int) -> Floats:
    return sphere.lonlat_to_direction(*sphere.pixel_to_lonlat(x, y, width, width // 2))


def _spots(prompt: Prompt, camera: Camera, size: int, width: int) -> tuple[Spot, ...]:
    """The box and the clicks that a camera sees."""
    spots: list[Spot] = []
    if prompt.box is not None:
        u, v, seen = camera.project(_directions(*box_outline(prompt.box), width), size)
        spots += box_spots(u[seen], v[seen])
    for x, y, label in prompt.clicks:
        u, v, seen = camera.project(_directions(x, y, width), size)
        if seen:
            spots.append((float(u), float(v), label))
    return tuple(spots)
