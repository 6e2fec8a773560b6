"""The views in which candidates are looked for: those of the scan, or the whole panorama as one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline import sphere
from pipeline.sphere import Floats
from sap_model.model.tracker import Features
from sap_model.scan.single_view import WholeView
from sap_model.scan.views import PerspectiveViews
from sap_model.segment.everything import Sampling, resized, touches_border


class ScanProposals:
    """The views of a scan; each point is decoded in the view that looks at it most directly."""

    def __init__(self, features: Features, views: PerspectiveViews, image_size: int) -> None:
        self.features = features
        self.views = views
        self.scale = image_size / views.size
        places = [(np.radians(view.yaw), np.radians(view.pitch)) for view in views.scan.views]
        self.ahead = sphere.lonlat_to_direction(*np.array(places).T)
        self._projected: tuple[Floats, tuple[Floats, Floats, NDArray[np.bool_]]] | None = None

    def assign(self, points: Floats) -> NDArray[np.intp]:
        lon, lat = sphere.pixel_to_lonlat(
            points[:, 0], points[:, 1], self.views.width, self.views.height
        )
        nearest: NDArray[np.intp] = (sphere.lonlat_to_direction(lon, lat) @ self.ahead.T).argmax(1)
        return nearest

    def spots(self, view: int, points: Floats) -> Floats:
        u, v, _ = self.views.project(*points.T)
        return (np.stack([u[view], v[view]], axis=-1) + 0.5) * self.scale - 0.5

    def samples(self, view: int, x: Floats, y: Floats, size: int) -> Sampling:
        if self._projected is None or self._projected[0] is not x:
            self._projected = x, self.views.project(x, y)  # once for all views
        u, v, seen = self._projected[1]
        index = np.flatnonzero(seen[view])
        return Sampling(index, _pixels(u[view, index], v[view, index], self.views.size, size))

    def to_panorama(self, view: int, logits: NDArray[np.float32]) -> NDArray[np.bool_]:
        masks = np.zeros((len(self.views), self.views.size, self.views.size), np.float32)
        masks[view] = resized(logits, self.views.size)
        return self.views.to_panorama(masks)

    def is_cut(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return touches_border(mask)


class FlatProposals:
    """The whole panorama, stretched to SAM2's square input: SAM2's generator on a single picture.

    It knows no seam, so nothing is cut off.
    """

    def __init__(self, features: Features, view: WholeView) -> None:
        self.features = features
        self.view = view

    def assign(self, points: Floats) -> NDArray[np.intp]:
        return np.zeros(len(points), np.intp)

    def spots(self, view: int, points: Floats) -> Floats:
        scale = np.array([self.view.size / self.view.width, self.view.rows / self.view.height])
        return (points + 0.5) * scale - 0.5

    def samples(self, view: int, x: Floats, y: Floats, size: int) -> Sampling:
        u, v = self.spots(view, np.stack([x, y], axis=-1)).T
        return Sampling(np.arange(len(x)), _pixels(u, v, self.view.size, size))

    def to_panorama(self, view: int, logits: NDArray[np.float32]) -> NDArray[np.bool_]:
        return self.view.to_panorama(resized(logits, self.view.size)[None])

    def is_cut(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return np.zeros(len(mask), bool)


def grid_points(count: int, width: int) -> Floats:
    """About `count` points (n, 2) on a square grid of the stretched panorama, as SAM2 has them."""
    side = max(1, round(count**0.5))
    steps = (np.arange(side) + 0.5) / side
    x, y = np.meshgrid(steps * width - 0.5, steps * width / 2 - 0.5)
    return np.stack([x.ravel(), y.ravel()], axis=-1)


def _pixels(u: Floats, v: Floats, view_size: int, size: int) -> NDArray[np.intp]:
    """Pixels u, v of a view as numbers of the pixels of a mask (size * size)."""
    scale = size / view_size
    column, row = (
        np.clip(np.floor((part + 0.5) * scale), 0, size - 1).astype(np.intp) for part in (u, v)
    )
    return row * size + column
