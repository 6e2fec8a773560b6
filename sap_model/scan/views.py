"""A panorama as the views of a scan, and back (paper, sections 3.3 and 3.4).

    views = PerspectiveViews(Scan(), size=1024, width=4096)
    frames = views.render(image)                 # (24, 1024, 1024, 3)
    for view, u, v in views.visible(x, y): …     # a click, in each view that sees it
    mask = views.to_panorama(masks)              # (24, 1024, 1024) -> (2048, 4096)

`Projector` says what may be relied on; `PerspectiveViews` is the paper's way, `ErpWindowViews` the
ablation without perspective. `torch_views.TorchViews` does the same work on any device.

Panorama pixels and directions are those of `pipeline.sphere`. View pixels (u, v) are counted from
the centre of the top left one, u to the right, v down. Views are in the order of `scan.views`.
"""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline import sphere
from pipeline.errors import UserError
from pipeline.sphere import Floats
from sap_model.names import Fusion
from sap_model.scan.fusion import Fused, MaskFuser, pieces
from sap_model.scan.geometry import ErpWindow, Geometry, Perspective
from sap_model.scan.maps import OUTSIDE, Maps, resample
from sap_model.scan.trajectory import Scan

ROWS_AT_ONCE = 64
"""Rows of a table that are used for all views that share it, before the next ones: 17 % faster."""

SOFT_RANGE = 8.0
"""Logits beyond ± this are certain: soft masks are 0 and 1 there."""


class Sighting(NamedTuple):
    """Where a view sees a point of the panorama."""

    view: int
    """Index into `scan.views`."""
    u: float
    """Column of the view's pixel, 0 <= u <= L - 1, real-valued."""
    v: float
    """Row, 0 <= v <= L - 1, real-valued."""


class Projector(Protocol):
    """What the predictor, the trainer and the evaluator need of a set of views.

    N = len(scan.views) views of L × L pixels of a panorama of H × W pixels, W = 2 H.
    """

    scan: Scan
    size: int
    """L."""
    width: int
    """W."""
    height: int
    """H."""

    def render(self, panorama: NDArray) -> NDArray:
        """Views (N, L, L, C) of a panorama (H, W, C), or (N, L, L) of (H, W): bilinear, antialiased
        where a view's pixels are larger than the panorama's (`maps`).

        Args:
            panorama: uint8, uint16, int16, float32 or float64, with up to 4 channels.
        """

    def render_ids(self, ids: NDArray) -> NDArray:
        """Views (N, L, L) of an id map or a mask (H, W) of any dtype: nearest pixel."""

    def visible(self, x: float, y: float) -> list[Sighting]:
        """The views that see a point of the panorama, in the order of the scan.

        Args:
            x, y: Panorama pixel; real-valued, integers are pixel centres, x modulo W.
        """

    def project(self, x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats, NDArray[np.bool_]]:
        """`visible` for many points (...): u, v and whether it is seen, each (N, ...).

        u and v mean nothing where a view does not see the point.
        """

    def to_panorama(self, masks: NDArray, fusion: Fusion = "max") -> NDArray[np.bool_]:
        """Mask (H, W) of one object: where `soft_panorama` is at least 0.5."""

    def soft_panorama(self, masks: NDArray, fusion: Fusion = "max") -> NDArray[np.float32]:
        """Soft mask (H, W) in [0, 1] of one object: bilinear in each view, then fused.

        Args:
            masks: (N, L, L) bool, or float in [0, 1]; `soft_masks` makes these of logits.
            fusion: "max" over the views that see a pixel (the paper's equation 5), or "mean".
        """


class MappedViews:
    """The `Projector` that both kinds of views share; they differ in their geometry.

    Tables are made when they are first needed (0.2 s per row of the scan at L = 1024) and kept;
    `maps` says how many bytes that is. "mean" keeps another byte per panorama pixel.
    """

    def __init__(self, scan: Scan, geometry: Geometry, width: int) -> None:
        self.scan = scan
        self.geometry = geometry
        self.maps = Maps(scan, geometry, width)
        self.size = geometry.size
        self.width = self.maps.width
        self.height = self.maps.height
        self._fuser = MaskFuser(self.maps)
        self._counts: NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return len(self.scan)

    def render(self, panorama: NDArray) -> NDArray:
        strips, views = self._strips(panorama)
        sharing: dict[tuple, list[int]] = defaultdict(list)
        for i, place in enumerate(self.maps.places):
            sharing[place.pitch, place.fraction].append(i)
        for key, indices in sharing.items():
            table = self.maps.reading(*key)
            # a few rows of a table serve all its views while they are in the processor's cache
            for top in range(0, self.size, ROWS_AT_ONCE):
                rows = slice(top, min(top + ROWS_AT_ONCE, self.size))
                read = slice(self.maps.samples * rows.start, self.maps.samples * rows.stop)
                part = table.whole[read], table.fraction[read]
                for i in indices:
                    if self.maps.samples == 1:
                        cv2.remap(strips[i], *part, cv2.INTER_LINEAR, dst=views[i, rows])
                        continue
                    fine = cv2.remap(strips[i], *part, cv2.INTER_LINEAR)
                    shape = self.size, rows.stop - rows.start
                    cv2.resize(fine, shape, dst=views[i, rows], interpolation=cv2.INTER_AREA)
        return views

    def render_ids(self, ids: NDArray) -> NDArray:
        # nearest pixels are copied, so OpenCV may take them for any type of the same length
        carrier = {1: np.uint8, 2: np.uint16, 4: np.int32, 8: np.float64}[ids.dtype.itemsize]
        strips, views = self._strips(np.ascontiguousarray(ids).view(carrier))
        for strip, view, place in zip(strips, views, self.maps.places, strict=True):
            nearest = self.maps.nearest(place.pitch, place.fraction)
            view[...] = resample(strip, nearest, cv2.INTER_NEAREST)
        return views.view(ids.dtype)

    def _strips(self, panorama: NDArray) -> tuple[list[NDArray], NDArray]:
        """What each view reads of a panorama (see `Maps`), and room for the views."""
        if panorama.shape[:2] != (self.height, self.width):
            found = " × ".join(map(str, panorama.shape[:2]))
            raise UserError(f"panorama of {found} pixels (H × W): {self.height} × {self.width} due")
        count = self.maps.strip
        padded = pad(panorama, count)
        starts = [(place.column - self.maps.reach) % self.width for place in self.maps.places]
        strips = [padded[:, start : start + count] for start in starts]
        shape = (len(self), self.size, self.size, *panorama.shape[2:])
        return strips, np.empty(shape, panorama.dtype)

    def visible(self, x: float, y: float) -> list[Sighting]:
        u, v, seen = self.project(x, y)
        return [Sighting(int(i), float(u[i]), float(v[i])) for i in np.flatnonzero(seen)]

    def project(self, x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats, NDArray[np.bool_]]:
        x, y = np.broadcast_arrays(np.asarray(x, np.float64), np.asarray(y, np.float64))
        found = []
        for place in self.maps.places:
            # whole columns first: without rounding, so that rolling a panorama changes nothing
            half = self.width / 2
            relative = (x - place.column + half) % self.width - half - float(place.fraction)
            position = relative + (self.width - 1) / 2
            lon, lat = sphere.pixel_to_lonlat(position, y, self.width, self.height)
            found.append(self.geometry.to_view(place.pitch, lon, lat))
        u, v, seen = (np.stack(arrays) for arrays in zip(*found, strict=True))
        return u, v, seen

    def to_panorama(self, masks: NDArray, fusion: Fusion = "max") -> NDArray[np.bool_]:
        return self._fuse(masks, fusion).threshold()

    def soft_panorama(self, masks: NDArray, fusion: Fusion = "max") -> NDArray[np.float32]:
        return self._fuse(masks, fusion).soft()

    def counts(self) -> NDArray[np.uint8]:
        """How many views see each pixel (H, W) of the panorama. Kept: do not write to it."""
        if self._counts is None:
            counts = np.zeros((self.height, self.width), np.uint8)
            for place in self.maps.places:
                box, table = self.maps.writing(place.pitch, place.fraction)
                seen = table.whole[..., 0] != OUTSIDE
                left = (place.column + box.west) % self.width
                for here, there in pieces(left, box.east - box.west, self.width):
                    counts[box.top : box.bottom, here] += seen[:, there]
            self._counts = counts
        return self._counts

    def _fuse(self, masks: NDArray, fusion: Fusion) -> Fused:
        if fusion not in ("max", "mean"):
            raise UserError(f"fusion {fusion!r}: choose 'max' or 'mean'")
        if masks.shape != (len(self), self.size, self.size):
            due = (len(self), self.size, self.size)
            raise UserError(f"masks of shape {masks.shape}: {due} due")
        if masks.dtype != bool:
            if not np.issubdtype(masks.dtype, np.floating):
                raise UserError(f"masks of type {masks.dtype}: bool or float in [0, 1] due")
            masks = masks.astype(np.float32, copy=False)
        return self._fuser.fuse(masks, self.counts() if fusion == "mean" else None)


class PerspectiveViews(MappedViews):
    """Views through pinhole cameras: the paper's.

    >>> views = PerspectiveViews(Scan(), size=64, width=256)
    >>> views.render(np.zeros((128, 256, 3), np.uint8)).shape
    (24, 64, 64, 3)
    >>> [sighting.view for sighting in views.visible(127.5, 60)]  # just above the centre
    [1, 2, 4, 22]
    """

    def __init__(self, scan: Scan, size: int = 1024, width: int = 4096) -> None:
        super().__init__(scan, Perspective(scan.fov, size), width)


class ErpWindowViews(MappedViews):
    """Windows of the panorama itself, without perspective: the ablation (paper, table 6)."""

    def __init__(self, scan: Scan, size: int = 1024, width: int = 4096) -> None:
        super().__init__(scan, ErpWindow(scan.fov, size), width)


def soft_masks(logits: NDArray) -> NDArray[np.float32]:
    """Soft masks of SAM2's logits, linear between ± SOFT_RANGE: logit 0 becomes 0.5.

    Linear, so that between two pixels the border lies where it does between their logits; limited,
    so that SAM2's -1024 for an absent object does not outvote every other view in a mean.

    >>> soft_masks(np.array([-1024.0, -8.0, 0.0, 2.0, 30.0])).tolist()
    [0.0, 0.0, 0.5, 0.625, 1.0]
    """
    soft = np.asarray(logits, np.float32) * np.float32(0.5 / SOFT_RANGE) + np.float32(0.5)
    return np.clip(soft, 0, 1, out=soft)


def pad(panorama: NDArray, columns: int) -> NDArray:
    """A panorama (H, W, ...) continued: (H + 2, W + columns, ...).

    To the right by its own columns. Above and below by what lies beyond the poles: the first and
    last row, turned by half a circle.
    """
    height, width = panorama.shape[:2]
    padded = np.empty((height + 2, width + columns, *panorama.shape[2:]), panorama.dtype)
    padded[1:-1, :width] = panorama
    for row in (0, -1):
        padded[row, : width // 2] = panorama[row, width // 2 :]
        padded[row, width // 2 : width] = panorama[row, : width // 2]
    for here, there in pieces(0, columns, width):
        padded[:, width + there.start : width + there.stop] = padded[:, here]
    return padded
