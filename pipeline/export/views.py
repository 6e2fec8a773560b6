"""Pinhole views of a panorama: pictures, ids, intrinsics, poses.

A view has L × L pixels. Here (u, v) counts from the corner of the first pixel, as COLMAP and
nerfstudio count, so the principal point is (L / 2, L / 2) and f = L / (2 tan(fov / 2)).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Floats
from pipeline.sphere import direction_to_lonlat, lonlat_to_pixel, nearest_pixel, rotate


@dataclass(frozen=True)
class PinholeView:
    """Where a view looks, relative to its panorama.

    Attributes:
        name: Part of its file's name.
        yaw: Degrees to the right of the panorama's centre.
        pitch: Degrees up.
    """

    name: str
    yaw: float
    pitch: float

    def turn(self) -> Floats:
        """Rotation (3, 3) from the view's axes to the panorama's, both as OpenCV has them."""
        yaw, pitch = math.radians(self.yaw), math.radians(self.pitch)
        c, s, cp, sp = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)
        around_y = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
        around_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
        return np.round(around_y @ around_x, 12) + 0.0

    def pose(self, panorama: Floats) -> Floats:
        """Camera-to-world matrix (4, 4) of the view, from the panorama's; OpenCV's convention."""
        turn = np.eye(4)
        turn[:3, :3] = self.turn()
        return panorama @ turn


CUBE = (
    PinholeView("front", 0, 0),
    PinholeView("right", 90, 0),
    PinholeView("back", 180, 0),
    PinholeView("left", -90, 0),
    PinholeView("up", 0, 90),
    PinholeView("down", 0, -90),
)
"""The faces of a cube around the camera, for a field of view of 90°."""

SCAN = tuple(
    PinholeView(f"{row * 8 + column:02d}", column * 45.0 - 180, pitch)
    for row, pitch in enumerate((45.0, 0.0, -45.0))
    for column in range(8)
)
"""The paper's 24 views: three rows of eight."""


def focal_length(size: int, fov: float) -> float:
    """Focal length in pixels of a view of `size` pixels and `fov` degrees."""
    return size / (2 * math.tan(math.radians(fov) / 2))


@lru_cache(maxsize=len(SCAN))
def _map(view: PinholeView, size: int, fov: float, width: int) -> tuple[Floats, Floats]:
    """Panorama coordinates x, y (L, L) of a view's pixel centres."""
    offsets = (np.arange(size) + 0.5 - size / 2) / focal_length(size, fov)
    right, down = np.meshgrid(offsets, offsets)
    rays = rotate(np.stack([right, down, np.ones_like(right)], axis=-1), view.turn())
    sphere_axes = np.stack([rays[..., 0], rays[..., 2], -rays[..., 1]], axis=-1)
    return lonlat_to_pixel(*direction_to_lonlat(sphere_axes), width, width // 2)


def view_picture(
    image: NDArray[np.uint8], view: PinholeView, size: int, fov: float
) -> NDArray[np.uint8]:
    """A view (L, L, 3) of a picture (H, W, 3), interpolated across the seam and the poles."""
    width = image.shape[1]
    x, y = _map(view, size, fov, width)
    turned = np.roll(image, width // 2, axis=1)  # beyond a pole lies the opposite meridian
    padded = np.concatenate([turned[:1], image, turned[-1:]])
    padded = np.concatenate([padded[:, -1:], padded, padded[:, :1]], axis=1)
    coordinates = (x + 1).astype(np.float32), (y + 1).astype(np.float32)
    cut = cv2.remap(padded, *coordinates, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(cut, np.uint8)


def view_ids(ids: NDArray, view: PinholeView, size: int, fov: float) -> NDArray:
    """The value (L, L) of each pixel of a view in a map (H, W) of ids or depths."""
    height, width = ids.shape
    column, row = nearest_pixel(*_map(view, size, fov, width), width, height)
    return ids[row, column]
