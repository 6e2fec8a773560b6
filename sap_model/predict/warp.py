"""The scan joined by geometry instead of memory: the method `warp`.

    predictor = WarpPredictor(load("nano", "official"))
    predictor.set_panorama(image)
    prediction = predictor.predict_many([Prompt([Click(x, y, 1)])])[0]

SAM2's memory has to learn where an object went between two views. In a panorama that is known: the
views differ by a rotation. So here

1. every view that sees a positive click, all of the box or enough of the mask that is given is
   segmented as a single image;
2. the mean of their masks is warped into the other views. Where enough of it arrives, its innermost
   point and the warped mask are the prompts of that view. This repeats until no view is added;
3. on request, every segmented view is segmented again with the mean of all masks as its prompt.

Nothing here is trained, so it works with the weights of any size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.annotations.click_point import click_mask
from pipeline.errors import UserError
from pipeline.sphere import Floats
from sap_model.clicks import NEGATIVE, POSITIVE, Click
from sap_model.model.tracker import Answer, Features, Query
from sap_model.predict.objects import Box, Prediction, Prompt, box_outline, box_points
from sap_model.scan.camera import Camera, Pyramid, Warp, warp
from sap_model.scan.trajectory import Scan
from sap_model.scan.views import SOFT_RANGE, Fusion, PerspectiveViews, soft_masks

Spot = tuple[float, float, int]
"""A click on a view: u, v in pixels of the model's input, and the label."""

BOX_CORNERS = (2, 3)
"""SAM2's labels of a box's upper left and lower right corner."""

MIN_SHARE, SURE_SHARE = 12 / 64**2, 40 / 64**2
"""Share of a view that a warped mask covers at least, for the view to be segmented, and from which
it may be as thin as it is."""

MIN_DEPTH = 1.9
"""Distance of its innermost point from its boundary at least, in its own pixels. In a thinner
sliver, as at the corner of a view, the point may miss the object."""

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

    seen: dict[int, tuple[Spot, ...]]
    """View: the clicks and the corners of the box that it sees."""
    given: dict[int, NDArray[np.float32]]
    """View: the mask of the prompt (s, s) as it sees it, where it sees enough of it."""
    soft: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    """View: its soft mask (s, s)."""
    ious: dict[int, float] = field(default_factory=dict)

    def masks(self) -> dict[int, NDArray[np.bool_]]:
        """View: its mask (s, s)."""
        return {view: soft >= 0.5 for view, soft in self.soft.items()}

    @property
    def clicked(self) -> list[int]:
        """Views that see a positive click, the box or the mask of the prompt."""
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
        refine: Whether step 3 is done; it gained nothing where it was measured.
        mask_prompts: Whether warped masks are prompts, beside the point.
        encode_batch: Views that go through the image encoder together.
    """

    def __init__(
        self,
        model: SingleImageModel,
        scan: Scan | None = None,
        view_size: int | None = None,
        fusion: Fusion = "mean",
        refine: bool = False,
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

    @property
    def encoded(self) -> tuple[Any, PerspectiveViews]:
        """The features of the views, and the views.

        Raises:
            RuntimeError: No panorama is set.
        """
        if self._features is None:
            raise RuntimeError("no panorama is set; call set_panorama first")
        return self._features, self._views_of_panorama()

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

    def predict_many(self, prompts: Sequence[Prompt], scores: bool = False) -> list[Prediction]:
        """Segment several objects, each on its own.

        Args:
            prompts: For each, its clicks, its box or its mask in panorama pixels.
            scores: Also give soft masks.

        Returns:
            Predictions in the order of the objects.

        Raises:
            UserError: An object has neither a positive click nor a box nor a mask.
        """
        predictions = []
        for start in range(0, len(prompts), CHUNK):
            found = [self._object(prompt) for prompt in prompts[start : start + CHUNK]]
            for _ in self._segment(found):
                pass
            for each in found:
                soft = self._fuse(each)
                predictions.append(
                    Prediction(soft >= 0.5, self._iou(each), soft if scores else None)
                )
        return predictions

    def predict_steps(self, prompt: Prompt) -> Iterator[Step]:
        """Segment one object in steps, for a person who watches.

        Args:
            prompt: Its clicks so far, its box or its mask, in panorama pixels.

        Yields:
            A step whenever views were added; the last one has the prediction.

        Raises:
            UserError: There is neither a positive click nor a box nor a mask.
        """
        each = self._object(prompt)
        views = self._views_of_panorama()
        width = min(views.width, PREVIEW_WIDTH)
        if self._preview is None or self._preview.width != width:
            self._preview = PerspectiveViews(self.scan, PREVIEW_WIDTH // 8, width)
        for _ in self._segment([each]):
            yield Step(self._fuse(each, self._preview) >= 0.5, each.masks(), each.clicked, None)
        soft = self._fuse(each)
        wide = Prediction(soft >= 0.5, self._iou(each), soft)
        (prediction,) = self._look_closer([prompt], [wide])
        yield Step(prediction.mask, each.masks(), each.clicked, prediction)

    def _object(self, prompt: Prompt) -> _Object:
        """What each view sees of a prompt.

        Raises:
            UserError: Nothing of it says where the object is.
        """
        if not any(click.label == POSITIVE for click in prompt.clicks) and (
            prompt.box is None and prompt.mask is None
        ):
            raise UserError(
                f"the object has no positive click: {prompt.clicks}; add one with label 1"
            )
        given = {} if prompt.mask is None else self._given(prompt.mask)
        clicks = prompt.clicks
        if prompt.mask is not None and not given and prompt.box is None and not clicks:
            inside = click_mask(prompt.mask)  # too small for a mask in any view
            clicks = [Click(inside.x, inside.y, POSITIVE)] if inside else []
        seen = self._box_corners(prompt.box)
        for view, spots in self._sightings(clicks).items():
            seen[view] = (*seen.get(view, ()), *spots)
        for view, soft in given.items():
            spots = seen.get(view, ())
            if all(label == NEGATIVE for _, _, label in spots):
                u, v, _ = _innermost(soft, self.model.image_size)
                seen[view] = (*spots, (u, v, POSITIVE))
        return _Object(seen, given)

    def _given(self, mask: NDArray[np.bool_]) -> dict[int, NDArray[np.float32]]:
        """The mask of a prompt in the views that see enough of it."""
        size = self.model.image_size // 4
        pyramid = Pyramid(np.where(mask, np.uint8(255), np.uint8(0)))
        found = {}
        for view, camera in enumerate(self.cameras):
            soft = camera.render(pyramid, size).astype(np.float32) / 255
            if _is_enough(soft, _innermost(soft, self.model.image_size)[2]):
                found[view] = soft
        return found

    def _look_closer(
        self, prompts: Sequence[Prompt], predictions: list[Prediction]
    ) -> list[Prediction]:
        """Predictions with soft masks, improved; here as they are."""
        return predictions

    def _box_corners(self, box: Box | None) -> dict[int, tuple[Spot, ...]]:
        """The corners of a box in the views that see all of it.

        Where it is too large for that: the corners of what is seen of it, in the views that see its
        centre.
        """
        if box is None:
            return {}
        x, y = box_outline(box)
        u, v, visible = self._views_of_panorama().project(x, y)
        chosen = visible.all(axis=1)
        if not chosen.any():
            x, y = box_points(box)
            u, v, visible = self._views_of_panorama().project(x, y)
            chosen = visible[:, len(x) // 2]
        scale = self.model.image_size / self.view_size
        corners: dict[int, tuple[Spot, ...]] = {}
        for view in np.flatnonzero(chosen):
            across = (u[view, visible[view]] + 0.5) * scale - 0.5
            down = (v[view, visible[view]] + 0.5) * scale - 0.5
            corners[int(view)] = box_spots(across, down)
        return corners

    def _segment(self, found: Sequence[_Object]) -> Iterator[None]:
        """Steps 1 to 3, with a pause whenever views were added."""
        self._ask(
            [
                (each, Query(view, each.seen[view], self._as_prompt(each.given.get(view))))
                for each in found
                for view in each.clicked
            ]
        )
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

    def _sightings(self, clicks: Sequence[Click]) -> dict[int, tuple[Spot, ...]]:
        """The clicks that each view sees."""
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
            u, v, depth = _innermost(fused, self.model.image_size)
            if not _is_enough(fused, depth):
                return None
            spots = (*spots, (u, v, POSITIVE))
        return Query(view, spots, self._as_prompt(fused) if self.mask_prompts else None)

    def _as_prompt(self, soft: NDArray[np.float32] | None) -> NDArray[np.float32] | None:
        """A soft mask as the logits of a mask prompt."""
        return None if soft is None else (soft - 0.5) * (2 * SOFT_RANGE)

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


def _innermost(soft: NDArray[np.float32], image_size: int) -> tuple[float, float, float]:
    """The point of a mask (s, s) farthest from its boundary, in pixels of the model's input, and
    its distance in pixels of the mask."""
    mask = np.pad((soft >= 0.5).astype(np.uint8), 1)
    depth = cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    v, u = np.unravel_index(int(depth.argmax()), depth.shape)
    scale = image_size / len(soft)
    return float((u + 0.5) * scale - 0.5), float((v + 0.5) * scale - 0.5), float(depth[v, u])


def _is_enough(soft: NDArray[np.float32], depth: float) -> bool:
    """Whether a mask (s, s) with its innermost point at `depth` is a prompt for its view."""
    share = (soft >= 0.5).mean()
    return bool(share >= MIN_SHARE and (share >= SURE_SHARE or depth >= MIN_DEPTH))


def box_spots(u: Floats, v: Floats) -> tuple[Spot, Spot]:
    """The two corners of the smallest box around pixels of a view, as SAM2 takes a box."""
    return (
        (float(u.min()), float(v.min()), BOX_CORNERS[0]),
        (float(u.max()), float(v.max()), BOX_CORNERS[1]),
    )
