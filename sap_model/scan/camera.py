"""One perspective camera that looks anywhere into a panorama, and maps between two of them.

Cameras have no roll. View pixels (u, v) are counted as in `sap_model.scan.views`; panorama pixels
and directions are those of `pipeline.sphere`. All positions follow from rotations that are known
exactly, so a mask moves from one view to another without any estimate.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline import sphere
from sap_model.scan.geometry import Perspective
from sap_model.scan.maps import resample
from sap_model.scan.views import pad

FINE_ENOUGH = 1.5
"""Panorama pixels per view pixel above which the panorama is made smaller first, or the view would
skip pixels."""


@dataclass(frozen=True)
class Camera:
    """A pinhole camera at the centre of the sphere."""

    yaw: float
    """Longitude of its centre in radians."""
    pitch: float
    """Latitude of its centre in radians."""
    fov: float
    """Degrees, horizontally and vertically."""

    @cached_property
    def rotation(self) -> NDArray[np.float64]:
        """(3, 3): takes world directions to (right, ahead, up) of the camera."""
        return sphere.rotation_to_centre(self.yaw, self.pitch)

    def rays(self, size: int) -> NDArray[np.float64]:
        """World directions (size, size, 3), not normalised, through the pixels of a square view."""
        centre, focal = (size - 1) / 2, Perspective(self.fov, size).focal
        steps = (np.arange(size) - centre) / focal
        right, down = np.meshgrid(steps, steps)
        rays = np.stack([right, np.ones_like(right), -down], axis=-1)
        return rays @ self.rotation

    def project(
        self, directions: NDArray, size: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
        """Pixels u, v of directions (..., 3) in a square view, and whether it sees them.

        u and v mean nothing where the view does not see the direction.
        """
        right, ahead, up = np.moveaxis(directions @ self.rotation.T, -1, 0)
        front = ahead > 1e-9
        scale = Perspective(self.fov, size).focal / np.where(front, ahead, 1.0)
        centre = (size - 1) / 2
        u, v = centre + scale * right, centre - scale * up
        seen = front & (np.maximum(abs(u - centre), abs(v - centre)) <= centre + 1e-6)
        return u, v, seen

    def render(self, pyramid: Pyramid, size: int) -> NDArray[np.uint8]:
        """The view (size, size, 3) of a panorama: bilinear, antialiased."""
        focal = Perspective(self.fov, size).focal
        padded, width = pyramid.level(pyramid.width / (2 * np.pi) / focal)
        lon, lat = sphere.direction_to_lonlat(self.rays(size))
        x, y = sphere.lonlat_to_pixel(lon, lat, width, width // 2)
        where = np.stack([x % width, y + 1], axis=-1).astype(np.float32)
        return resample(padded, where)

    def to_panorama(self, mask: NDArray[np.float32], width: int) -> NDArray[np.float32]:
        """A soft mask (size, size) as a soft mask (H, W) of the panorama: bilinear, 0 outside."""
        size, height = len(mask), width // 2
        corners = self.rays(size)[[0, 0, -1, -1, size // 2], [0, -1, 0, -1, size // 2]]
        corners /= np.linalg.norm(corners, axis=-1, keepdims=True)
        reach = np.arccos(np.clip(corners @ corners[-1], -1, 1).min()) + 4 * np.pi / width
        # rows that the circle round the view touches; columns all, so that poles need no care
        _, y = sphere.lonlat_to_pixel(0.0, self.pitch + np.array([reach, -reach]), width, height)
        top, bottom = max(int(y[0]), 0), min(int(y[1]) + 2, height)
        lon, lat = sphere.pixel_to_lonlat(
            np.arange(width), np.arange(top, bottom)[:, None], width, height
        )
        u, v, seen = self.project(sphere.lonlat_to_direction(lon, lat), size)
        values = _sample(mask, u, v)
        result = np.zeros((height, width), np.float32)
        result[top:bottom] = np.where(seen, values, 0)
        return result


class Pyramid:
    """A panorama (H, W, 3) and smaller copies of it, made when they are needed."""

    def __init__(self, panorama: NDArray[np.uint8]) -> None:
        self.width = panorama.shape[1]
        self._panorama = panorama
        self._level = lru_cache(maxsize=4)(self._make)

    def level(self, ratio: float) -> tuple[NDArray[np.uint8], int]:
        """The padded copy for a view that has one pixel for `ratio` pixels, and its width."""
        return self._level(max(1, round(ratio)) if ratio > FINE_ENOUGH else 1)

    def _make(self, factor: int) -> tuple[NDArray[np.uint8], int]:
        if factor == 1:
            return pad(self._panorama, 1), self.width
        height = max(2, round(self.width / 2 / factor))
        small = cv2.resize(self._panorama, (2 * height, height), interpolation=cv2.INTER_AREA)
        return pad(np.asarray(small), 1), 2 * height


class Warp(NamedTuple):
    """Where each pixel of a view lies in another one."""

    u: NDArray[np.float32]
    v: NDArray[np.float32]
    seen: NDArray[np.bool_]
    """Whether the other view sees it; u and v mean nothing elsewhere."""

    def take(self, mask: NDArray[np.float32]) -> NDArray[np.float32]:
        """The other view's mask (s, s), as this view sees it: bilinear, 0 where it is not seen."""
        return np.where(self.seen, _sample(mask, self.u, self.v), np.float32(0))


def warp(target: Camera, source: Camera, size: int) -> Warp:
    """Where the pixels of `target` lie in `source`, both of size × size pixels.

    >>> same = warp(Camera(0.3, 0.2, 90), Camera(0.3, 0.2, 90), 4)
    >>> same.u[0].round(3).tolist(), bool(same.seen.all())
    ([0.0, 1.0, 2.0, 3.0], True)
    """
    u, v, seen = source.project(target.rays(size), size)
    return Warp(u.astype(np.float32), v.astype(np.float32), seen)


def _sample(mask: NDArray[np.float32], u: NDArray, v: NDArray) -> NDArray[np.float32]:
    where = u.astype(np.float32), v.astype(np.float32)
    found = cv2.remap(mask, *where, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(found, np.float32)
