"""What is asked about an object of a panorama, and what is answered.

Points are panorama pixels (x, y), integers are pixel centres. A box is (x, y, width, height) in the
same pixels; x + width may reach beyond the right border, and the box then continues at the left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.errors import UserError
from pipeline.sphere import Floats, pixel_solid_angles
from sap_model.clicks import NEGATIVE, POSITIVE, Click

Box = tuple[float, float, float, float]
"""x, y, width and height in panorama pixels; x + width may reach beyond the seam."""


@dataclass(frozen=True)
class Prompt:
    """What is known of one object. `prompt_of` makes it from arrays and checks it."""

    clicks: Sequence[Click] = ()
    """All clicks so far, in panorama pixels."""
    truth: NDArray[np.bool_] | None = None
    """(H, W), the object itself. Only the oracle looks at it, and it needs it."""
    previous: NDArray[np.float32] | None = None
    """`Prediction.logits` that the clicks correct; only methods that correct masks look at it."""
    box: Box | None = None
    """A box around the object."""
    mask: NDArray[np.bool_] | None = None
    """(H, W), roughly the object: an earlier answer, or another program's."""


@dataclass(frozen=True)
class Prediction:
    """What the model says about one object."""

    mask: NDArray[np.bool_]
    """(H, W)."""
    iou: float
    """The model's own estimate of its mask's IoU in the views that are clicked on the object: their
    mean, with 0 where it judges the object absent."""
    scores: NDArray[np.float32] | None = None
    """(H, W) soft mask in [0, 1], at least 0.5 where `mask` is; on request."""
    logits: NDArray[np.float32] | None = None
    """(N, S / 4, S / 4) SAM2's logits per view, -1024 where the object is absent; on request."""
    view_ious: NDArray[np.float32] | None = None
    """(N,) estimated IoU per view, 0 where the object is absent; on request, with `logits`."""
    presence: NDArray[np.float32] | None = None
    """(N,) SAM2's object score per view, a logit; on request, with `logits`."""

    @property
    def solid_angle(self) -> float:
        """Steradian that the mask covers; the whole sphere has 4 pi."""
        return solid_angle(self.mask)


class Segmented(Protocol):
    """A mask of an object: a `Prediction`, or a `Segment` of `segment_everything`."""

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(H, W)."""

    @property
    def iou(self) -> float:
        """The model's own estimate."""

    @property
    def solid_angle(self) -> float:
        """Steradian."""


def panorama_size(pixels: NDArray[Any]) -> tuple[int, int]:
    """H and W of a panorama or a mask (H, W, ...)."""
    return pixels.shape[0], pixels.shape[1]


def solid_angle(mask: NDArray[np.bool_]) -> float:
    """Steradian that a mask (H, W) covers."""
    height, width = mask.shape
    return float(mask.sum(axis=1) @ pixel_solid_angles(width, height))


def box_outline(box: Box) -> tuple[Floats, Floats]:
    """Points x, y (36,) along the border of a box; x may lie beyond the panorama's."""
    left, top, width, height = box
    share = np.linspace(0, 1, 9)
    x = left + width * np.concatenate([share, share, 0 * share, 0 * share + 1])
    y = top + height * np.concatenate([0 * share, 0 * share + 1, share, share])
    return x, y


def box_points(box: Box) -> tuple[Floats, Floats]:
    """Points x, y (289,) all over a box; the middle one is its centre."""
    left, top, width, height = box
    share = np.linspace(0, 1, 17)
    x, y = np.meshgrid(left + width * share, top + height * share)
    return x.ravel(), y.ravel()


def prompt_of(
    size: tuple[int, int],
    points: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    box: ArrayLike | None = None,
    mask: ArrayLike | None = None,
) -> Prompt:
    """A prompt from arrays, as `SapPredictor.predict` takes them.

    Args:
        size: H and W of the panorama.
        points: (P, 2) pixels x, y.
        labels: (P,) 1 on the object, 0 beside it; all 1 where they are left out.
        box: (4,) x, y, width, height.
        mask: (H, W), not 0 where the object roughly is.

    Raises:
        UserError: Nothing is given that names an object, shapes do not fit, or something lies
            outside of the panorama.

    >>> prompt_of((64, 128), [[3, 4]], [1]).clicks
    [Click(x=3.0, y=4.0, label=1)]
    """
    clicks = clicks_of(size, points, labels)
    prompt = Prompt(clicks, box=_box(size, box), mask=_mask(size, mask))
    positive = any(click.label == POSITIVE for click in clicks)
    if not positive and prompt.box is None and prompt.mask is None:
        raise UserError("nothing names the object; give a point with label 1, a box or a mask")
    return prompt


def clicks_of(
    size: tuple[int, int], points: ArrayLike | None, labels: ArrayLike | None = None
) -> list[Click]:
    """Clicks of `prompt_of`'s points and labels; none of them needs to be positive.

    Raises:
        UserError: Shapes do not fit, a label is neither 0 nor 1, or a point lies outside.
    """
    height, width = size
    if points is None:
        if labels is not None and np.size(labels):
            raise UserError("labels are given without points; give each point a label")
        return []
    where = _numbers(points, "points")
    if where.size == 0:
        where = where.reshape(0, 2)
    if where.ndim != 2 or where.shape[1] != 2:
        raise UserError(f"points have the shape {where.shape}; give (P, 2): x, y of each")
    kinds = np.ones(len(where)) if labels is None else _numbers(labels, "labels").ravel()
    if len(kinds) != len(where):
        raise UserError(f"{len(where)} points have {len(kinds)} labels; give each point one")
    if not np.isin(kinds, (POSITIVE, NEGATIVE)).all():
        raise UserError(f"labels {kinds.tolist()} hold others than 0 and 1; give each point 0 or 1")
    for x, y in where:
        if not (-0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5):
            raise UserError(
                f"point ({x:g}, {y:g}) lies outside of the panorama; give 0 to {width - 1}, "
                f"0 to {height - 1}"
            )
    return [Click(x, y, int(kind)) for (x, y), kind in zip(where.tolist(), kinds, strict=True)]


def _box(size: tuple[int, int], box: ArrayLike | None) -> Box | None:
    if box is None:
        return None
    height, width = size
    given = _numbers(box, "box").ravel()
    if given.shape != (4,):
        raise UserError(f"the box has {given.size} numbers; give x, y, width, height")
    x, y, w, h = given.tolist()
    if not all(map(math.isfinite, (x, y, w, h))) or w <= 0 or h <= 0:
        raise UserError(f"the box {x:g},{y:g},{w:g},{h:g} has no area; give x, y, width, height")
    if w > width or y < -1 or y + h > height + 1 or not -1 <= x <= width:
        raise UserError(
            f"the box {x:g},{y:g},{w:g},{h:g} lies outside of the panorama of {width} × {height}; "
            "a box across the seam starts inside and reaches beyond the right border"
        )
    return x, y, w, h


def _mask(size: tuple[int, int], mask: ArrayLike | None) -> NDArray[np.bool_] | None:
    if mask is None:
        return None
    found: NDArray[Any] = np.asarray(mask)
    if found.shape != size:
        raise UserError(f"the mask has the shape {found.shape}; give the panorama's, {size}")
    if not found.any():
        raise UserError("the mask is empty; give one that shows roughly where the object is")
    return found.astype(bool)


def _numbers(values: ArrayLike, name: str) -> NDArray[np.float64]:
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{name} are not numbers; give a list of them") from None
