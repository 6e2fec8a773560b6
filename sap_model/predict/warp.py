"""The scan joined by geometry instead of memory: the methods `warp` and `zoom`.

    predictor = WarpPredictor(load("nano", "official"))
    predictor.set_panorama(image)
    prediction = predictor.predict_many([[Click(x, y, 1)]])[0]

SAM2's memory has to learn where an object went between two views. In a panorama that is known: the
views differ by a rotation. So here

1. every view that sees a positive click is segmented as a single image;
2. the mean of their masks is warped into the other views. Where enough of it arrives, its innermost
   point and the warped mask are the prompts of that view. This repeats until no view is added;
3. every segmented view is segmented again with the mean of all masks as its mask prompt.

`ZoomPredictor` then looks again at objects that are small: a camera centred on the click narrows
until the mask fills a few per cent of its view, and that view's mask replaces the scan's.

Nothing here is trained, so both work with the weights of any size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline import sphere
from pipeline.errors import UserError
from sap_model.clicks import NEGATIVE, POSITIVE, Click
from sap_model.model.tracker import Answer, Features, Query
from sap_model.predict.predictor import Prediction
from sap_model.scan.camera import Camera, Pyramid, Warp, warp
from sap_model.scan.trajectory import Scan
from sap_model.scan.views import SOFT_RANGE, Fusion, PerspectiveViews, soft_masks

Spot = tuple[float, float, int]
"""A click on a view: u, v in pixels of the model's input, and the label."""

Box = tuple[float, float, float, float]
"""x, y, width and height in panorama pixels; x + width may reach beyond the seam."""

BOX_CORNERS = (2, 3)
"""SAM2's labels of a box's upper left and lower right corner."""

MIN_SHARE, SURE_SHARE = 12 / 64**2, 40 / 64**2
"""Share of a view that a warped mask covers at least, for the view to be segmented, and from which
it may be as thin as it is."""

MIN_DEPTH = 1.9
"""Distance of its innermost point from its boundary at least, in its own pixels. In a thinner
sliver, as at the corner of a view, the point may miss the object."""

ENOUGH = 0.03
"""Share of its view that a mask fills when the zoom stops."""

FIELDS = (65.0, 45.0, 30.0, 20.0)
"""Fields of view of the zoom in degrees, after the scan's 90."""

CUT = 0.02
"""Share of the view's border that a mask may cover: beyond that the object is cut off."""

CHUNK = 16
"""Objects that are segmented together."""

PREVIEW_WIDTH = 1024
"""Columns of a mask that is shown while an object is segmented."""


class SingleImageModel(Protocol):
    """What the predictors need of a model; `ScanTracker` is one."""

    image_size: int
    """Side S of its input; views are rendered at this size by default."""

    def encode(self, frames: NDArray[np.uint8], at_once: int = 4) -> Any:
        """Features of views (N, S, S, 3) uint8."""

    def decode(self, features: Any, queries: Sequence[Query]) -> list[Answer]:
        """Segment queries, each as a single image."""


@dataclass
class _Object:
    """An object while it is segmented."""

    clicks: Sequence[Click]
    seen: dict[int, tuple[Spot, ...]]
    """View: the clicks that it sees."""
    soft: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    """View: its soft mask (s, s)."""
    ious: dict[int, float] = field(default_factory=dict)

    def masks(self) -> dict[int, NDArray[np.bool_]]:
        """View: its mask (s, s)."""
        return {view: soft >= 0.5 for view, soft in self.soft.items()}

    @property
    def clicked(self) -> list[int]:
        """Views that see a positive click or the box."""
        return [v for v, spots in self.seen.items() if any(s[2] != NEGATIVE for s in spots)]


class Step(NamedTuple):
    """An object while its views are segmented."""

    mask: NDArray[np.bool_]
    """(h, w) of the panorama; before the last step at most `PREVIEW_WIDTH` columns."""
    view_masks: dict[int, NDArray[np.bool_]]
    """View: its mask (s, s), for the views that were segmented so far."""
    clicked: list[int]
    """Views that see a positive click or the box."""
    prediction: Prediction | None
    """The answer, at the last step."""


class WarpPredictor:
    """Segments objects of one panorama at a time; see the module's text.

    Args:
        model: Its image encoder and mask decoder are used, its memory is not.
        scan: The views, the paper's unless told otherwise.
        view_size: Side of a rendered view; the model's input size unless told otherwise.
        fusion: How the views' masks become the panorama's: "mean", or the paper's "max".
        refine: Whether step 3 is done.
        mask_prompts: Whether warped masks are prompts, beside the point.
        encode_batch: Views that go through the image encoder together.
    """

    def __init__(
        self,
        model: SingleImageModel,
        scan: Scan | None = None,
        view_size: int | None = None,
        fusion: Fusion = "mean",
        refine: bool = True,
        mask_prompts: bool = True,
        encode_batch: int = 4,
    ) -> None:
        self.model = model
        self.scan = scan or Scan()
        self.view_size = view_size or model.image_size
        self.fusion: Fusion = fusion
        self.refine, self.mask_prompts = refine, mask_prompts
        self.encode_batch = encode_batch
        self.cameras = [
            Camera(np.radians(view.yaw), np.radians(view.pitch), self.scan.fov)
            for view in self.scan.views
        ]
        self._warp = lru_cache(maxsize=None)(self._make_warp)
        self._views: PerspectiveViews | None = None
        self._preview: PerspectiveViews | None = None
        self._features: Any = None

    def set_panorama(self, image: NDArray[np.uint8]) -> None:
        """Render and encode the views of a panorama (H, W, 3), uint8 RGB with W = 2 H."""
        frames = self._render(image)
        self._features = self.model.encode(frames, self.encode_batch)

    def encode_steps(self, image: NDArray[np.uint8]) -> Iterator[int]:
        """`set_panorama` in steps, for a `ScanTracker`; yields how many views are encoded."""
        frames = self._render(image)
        parts: list[Features] = []
        for start in range(0, len(frames), self.encode_batch):
            batch = frames[start : start + self.encode_batch]
            parts.append(self.model.encode(batch, self.encode_batch))
            yield start + len(batch)
        self._features = Features.joined(parts)

    def _render(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if image.ndim != 3 or image.shape[1] != 2 * image.shape[0] or image.dtype != np.uint8:
            raise UserError(
                f"the panorama is {image.dtype} {image.shape}; "
                "give an RGB image of 8 bits that is twice as wide as high"
            )
        if self._views is None or self._views.width != image.shape[1]:
            self._views = PerspectiveViews(self.scan, self.view_size, image.shape[1])
        self._features = None  # the old ones first, for the sake of memory
        return self._views.render(image)

    def predict_many(
        self, objects: Sequence[Sequence[Click]], scores: bool = False
    ) -> list[Prediction]:
        """Segment several objects, each from all its clicks so far.

        Args:
            objects: For each, its clicks (x, y, label) in panorama pixels.
            scores: Also give soft masks.

        Returns:
            Predictions in the order of the objects.

        Raises:
            UserError: An object has no positive click.
        """
        predictions = []
        for start in range(0, len(objects), CHUNK):
            chunk = objects[start : start + CHUNK]
            found = [_Object(clicks, self._sightings(clicks)) for clicks in chunk]
            for _ in self._segment(found):
                pass
            for each in found:
                soft = self._fuse(each)
                predictions.append(
                    Prediction(soft >= 0.5, self._iou(each), soft if scores else None)
                )
        return predictions

    def predict_steps(self, clicks: Sequence[Click], box: Box | None = None) -> Iterator[Step]:
        """Segment one object in steps, for a person who watches.

        Args:
            clicks: All its clicks so far, in panorama pixels.
            box: A box around it, which counts in the views that see all of it.

        Yields:
            A step whenever views were added; the last one has the prediction.

        Raises:
            UserError: There is neither a positive click nor a box that a view sees.
        """
        seen = self._box_corners(box)
        for view, spots in self._sightings(clicks, needed=not seen).items():
            seen[view] = (*seen.get(view, ()), *spots)
        each = _Object(clicks, seen)
        views = self._views_of_panorama()
        width = min(views.width, PREVIEW_WIDTH)
        if self._preview is None or self._preview.width != width:
            self._preview = PerspectiveViews(self.scan, PREVIEW_WIDTH // 8, width)
        for _ in self._segment([each]):
            yield Step(self._fuse(each, self._preview) >= 0.5, each.masks(), each.clicked, None)
        soft = self._fuse(each)
        prediction = Prediction(soft >= 0.5, self._iou(each), soft)
        if box is None:
            (prediction,) = self._look_closer([clicks], [prediction])
        yield Step(prediction.mask, each.masks(), each.clicked, prediction)

    def _look_closer(
        self, objects: Sequence[Sequence[Click]], predictions: list[Prediction]
    ) -> list[Prediction]:
        """Predictions with soft masks, improved; here as they are."""
        return predictions

    def _box_corners(self, box: Box | None) -> dict[int, tuple[Spot, ...]]:
        """The corners of a box in the views that see all of it.

        Raises:
            UserError: No view does.
        """
        if box is None:
            return {}
        left, top, width, height = box
        share = np.linspace(0, 1, 9)
        x = left + width * np.concatenate([share, share, 0 * share, 0 * share + 1])
        y = top + height * np.concatenate([0 * share, 0 * share + 1, share, share])
        u, v, visible = self._views_of_panorama().project(x, y)
        scale = self.model.image_size / self.view_size
        corners: dict[int, tuple[Spot, ...]] = {}
        for view in np.flatnonzero(visible.all(axis=1)):
            across, down = (u[view] + 0.5) * scale - 0.5, (v[view] + 0.5) * scale - 0.5
            corners[int(view)] = (
                (float(across.min()), float(down.min()), BOX_CORNERS[0]),
                (float(across.max()), float(down.max()), BOX_CORNERS[1]),
            )
        if not corners:
            raise UserError("the box is larger than a view of 90°; click on the object instead")
        return corners

    def _segment(self, found: Sequence[_Object]) -> Iterator[None]:
        """Steps 1 to 3, with a pause whenever views were added."""
        self._ask([(each, Query(v, each.seen[v])) for each in found for v in each.clicked])
        yield
        while True:
            asked = [
                (each, query)
                for each in found
                for view in range(len(self.cameras))
                if view not in each.soft and (query := self._query(each, view)) is not None
            ]
            if not asked:
                break
            self._ask(asked)
            yield
        if self.refine:
            self._ask(
                [
                    (each, query)
                    for each in found
                    for view in each.soft
                    if (query := self._query(each, view)) is not None
                ]
            )

    def _sightings(
        self, clicks: Sequence[Click], needed: bool = True
    ) -> dict[int, tuple[Spot, ...]]:
        """The clicks that each view sees; at least one of them is `needed` to be positive."""
        if needed and not any(label == POSITIVE for _, _, label in clicks):
            raise UserError(f"the object has no positive click: {clicks}; add one with label 1")
        seen: dict[int, list[Spot]] = {}
        scale = self.model.image_size / self.view_size
        for x, y, label in clicks:
            for view, u, v in self._views_of_panorama().visible(x, y):
                spot = ((u + 0.5) * scale - 0.5, (v + 0.5) * scale - 0.5, label)
                seen.setdefault(view, []).append(spot)
        return {view: tuple(spots) for view, spots in seen.items()}

    def _ask(self, asked: Sequence[tuple[_Object, Query]]) -> None:
        """Have the model answer queries, and keep the answers with their objects."""
        answers = self.model.decode(self._features, [query for _, query in asked])
        for (each, query), answer in zip(asked, answers, strict=True):
            each.soft[query.view] = soft_masks(answer.logits)
            each.ious[query.view] = answer.iou

    def _query(self, each: _Object, view: int) -> Query | None:
        """What is asked of a view, by what other views know; None if too little arrives there."""
        fused = self._warped(each, view)
        spots = each.seen.get(view, ())
        if view not in each.clicked:
            share = (fused >= 0.5).mean()
            u, v, depth = _innermost(fused, self.model.image_size)
            if share < MIN_SHARE or (share < SURE_SHARE and depth < MIN_DEPTH):
                return None
            spots = (*spots, (u, v, POSITIVE))
        prompt = (fused - 0.5) * (2 * SOFT_RANGE) if self.mask_prompts else None
        return Query(view, spots, prompt)

    def _warped(self, each: _Object, view: int) -> NDArray[np.float32]:
        """The mean of an object's masks (s, s) as a view sees them; 0 where none of them looks."""
        size = len(next(iter(each.soft.values())))
        total, count = np.zeros((size, size), np.float32), np.zeros((size, size), np.float32)
        for other, mask in each.soft.items():
            moved = self._warp(view, other, size)
            if moved is not None:
                total += moved.take(mask)
                count += moved.seen
        return total / np.maximum(count, 1)

    def _make_warp(self, target: int, source: int, size: int) -> Warp | None:
        moved = warp(self.cameras[target], self.cameras[source], size)
        return moved if moved.seen.any() else None

    def _fuse(self, each: _Object, views: PerspectiveViews | None = None) -> NDArray[np.float32]:
        """The panorama's soft mask (H, W). A view that was not asked says what the others say."""
        views = views or self._views_of_panorama()
        masks = np.zeros((len(self.cameras), views.size, views.size), np.float32)
        for view in range(len(self.cameras)) if each.soft else ():
            mask = each.soft[view] if view in each.soft else self._warped(each, view)
            if mask.any():
                size = (views.size, views.size)
                cv2.resize(mask, size, dst=masks[view], interpolation=cv2.INTER_LINEAR)
        return views.soft_panorama(masks, self.fusion)

    def _iou(self, each: _Object) -> float:
        found = [each.ious[view] for view in each.clicked if view in each.ious]
        return float(np.mean(found)) if found else 0.0

    def _views_of_panorama(self) -> PerspectiveViews:
        if self._views is None:
            raise RuntimeError("predict before set_panorama")
        return self._views


class ZoomPredictor(WarpPredictor):
    """`WarpPredictor`, and a closer look at small objects; see the module's text."""

    def _render(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        frames = super()._render(image)
        self._pyramid = Pyramid(image)
        return frames

    def predict_many(
        self, objects: Sequence[Sequence[Click]], scores: bool = False
    ) -> list[Prediction]:
        """As `WarpPredictor.predict_many`."""
        predictions = self._look_closer(objects, super().predict_many(objects, scores=True))
        return predictions if scores else [Prediction(one.mask, one.iou) for one in predictions]

    def _look_closer(
        self, objects: Sequence[Sequence[Click]], predictions: list[Prediction]
    ) -> list[Prediction]:
        looks = [_Look(clicks, _centre(clicks, self._pyramid.width)) for clicks in objects]
        for look, prediction in zip(looks, predictions, strict=True):
            soft = prediction.scores
            wide = _view_of(soft, Camera(*look.centre, self.scan.fov), self.model.image_size // 4)
            look.open = (wide >= 0.5).mean() < ENOUGH
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
            Query(number, _spots(look.clicks, camera, size, width))
            for number, (look, camera) in enumerate(zip(looks, cameras, strict=True))
        ]
        for look, answer in zip(looks, self.model.decode(features, queries), strict=True):
            mask = soft_masks(answer.logits)
            inside = mask >= 0.5
            border = np.concatenate([inside[0], inside[-1], inside[:, 0], inside[:, -1]])
            if not inside.any() or border.mean() > CUT:
                look.open = False  # what a wider view saw stays
                continue
            look.mask, look.iou, look.fov = mask, answer.iou, fov
            look.open = bool(inside.mean() < ENOUGH)


@dataclass
class _Look:
    """An object that is looked at more and more closely."""

    clicks: Sequence[Click]
    centre: tuple[float, float]
    """Longitude and latitude of its first positive click in radians."""
    open: bool = False
    """Whether a narrower view is wanted."""
    mask: NDArray[np.float32] | None = None
    """(s, s), of the narrowest view that shows the object whole."""
    iou: float = 0.0
    fov: float = 0.0

    def sees_all(self, fov: float, width: int) -> bool:
        """Whether a view of a field of view has all positive clicks well inside."""
        x, y = np.array([(x, y) for x, y, label in self.clicks if label == POSITIVE], float).T
        lon, lat = sphere.pixel_to_lonlat(x, y, width, width // 2)
        camera = Camera(*self.centre, 0.9 * fov)
        return bool(camera.project(sphere.lonlat_to_direction(lon, lat), 256)[2].all())


def _centre(clicks: Sequence[Click], width: int) -> tuple[float, float]:
    x, y = next((x, y) for x, y, label in clicks if label == POSITIVE)
    lon, lat = sphere.pixel_to_lonlat(x, y, width, width // 2)
    return float(lon), float(lat)


def _spots(clicks: Sequence[Click], camera: Camera, size: int, width: int) -> tuple[Spot, ...]:
    """The clicks that a camera sees."""
    spots = []
    for x, y, label in clicks:
        direction = sphere.lonlat_to_direction(*sphere.pixel_to_lonlat(x, y, width, width // 2))
        u, v, seen = camera.project(direction, size)
        if seen:
            spots.append((float(u), float(v), POSITIVE if label == POSITIVE else NEGATIVE))
    return tuple(spots)


def _view_of(soft: NDArray[np.float32] | None, camera: Camera, size: int) -> NDArray[np.float32]:
    """A soft mask (H, W) of the panorama as a camera sees it: nearest pixel."""
    if soft is None:
        raise ValueError("soft mask expected")
    lon, lat = sphere.direction_to_lonlat(camera.rays(size))
    height, width = soft.shape
    x, y = sphere.nearest_pixel(*sphere.lonlat_to_pixel(lon, lat, width, height), width, height)
    return soft[y, x]


def _innermost(soft: NDArray[np.float32], image_size: int) -> tuple[float, float, float]:
    """The point of a mask (s, s) farthest from its boundary, in pixels of the model's input, and
    its distance in pixels of the mask."""
    mask = np.pad((soft >= 0.5).astype(np.uint8), 1)
    depth = cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    v, u = np.unravel_index(int(depth.argmax()), depth.shape)
    scale = image_size / len(soft)
    return float((u + 0.5) * scale - 0.5), float((v + 0.5) * scale - 0.5), float(depth[v, u])
