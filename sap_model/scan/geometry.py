"""View pixels ↔ longitude and latitude, for views with perspective and for patches without.

A view has L × L pixels; integer coordinates (u, v) are pixel centres, u to the right, v down. Here
longitude is relative to the view's yaw, and angles are radians. Both geometries look from a pitch
of at most 90° - fov / 2, so that a pole is at most on a view's border, never inside. So nothing
that a view sees is more than 90° of longitude from its yaw.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline import sphere
from pipeline.sphere import Floats

BORDER = 1e-6
"""Pixels by which a point may lie outside a view's border by rounding, and still be on it."""


class Bounds(NamedTuple):
    """A box of longitude (relative to the yaw) and latitude in radians."""

    west: float
    east: float
    south: float
    north: float


class Geometry(Protocol):
    """How the pixels of views of one size lie on the sphere."""

    @property
    def fov(self) -> float:
        """Field of view in degrees."""

    @property
    def size(self) -> int:
        """L."""

    @property
    def focal(self) -> float:
        """Pixels per radian at the centre."""

    def to_sphere(self, pitch: float, u: ArrayLike, v: ArrayLike) -> tuple[Floats, Floats]:
        """Relative longitude in [-pi / 2, pi / 2] and latitude of view pixels (...)."""

    def to_view(
        self, pitch: float, lon: ArrayLike, lat: ArrayLike
    ) -> tuple[Floats, Floats, NDArray[np.bool_]]:
        """View pixels u, v of directions (...), and whether the view sees them.

        u and v lie in [0, L - 1] where it does and mean nothing where it does not.
        """

    def bounds(self, pitch: float) -> Bounds:
        """The smallest box round all that a view sees."""


@dataclass(frozen=True)
class Perspective:
    """Pinhole views (paper, section 3.3): f = (L - 1) / (2 tan(fov / 2)), centre (L - 1) / 2.

    The centres of the border pixels lie exactly on the edge of the field of view.
    """

    fov: float
    """Degrees."""
    size: int
    """L."""

    @property
    def focal(self) -> float:
        """f in pixels, which is also how many there are per radian at the centre."""
        return (self.size - 1) / (2 * np.tan(np.radians(self.fov) / 2))

    def to_sphere(self, pitch: float, u: ArrayLike, v: ArrayLike) -> tuple[Floats, Floats]:
        centre = (self.size - 1) / 2
        right, down = np.broadcast_arrays(
            (np.asarray(u, np.float64) - centre) / self.focal,
            (np.asarray(v, np.float64) - centre) / self.focal,
        )
        rays = np.stack([right, np.ones_like(right), -down], axis=-1)
        directions = sphere.rotate(rays, sphere.rotation_to_centre(0.0, pitch).T)
        # a pole on the border must not come out as slightly behind by rounding
        directions[..., 1] = np.maximum(directions[..., 1], 0.0)
        return sphere.direction_to_lonlat(directions)

    def to_view(
        self, pitch: float, lon: ArrayLike, lat: ArrayLike
    ) -> tuple[Floats, Floats, NDArray[np.bool_]]:
        directions = sphere.lonlat_to_direction(lon, lat)
        camera = sphere.rotate(directions, sphere.rotation_to_centre(0.0, pitch))
        right, ahead, up = np.moveaxis(camera, -1, 0)
        in_front = ahead > 0
        scale = self.focal / np.where(in_front, ahead, 1.0)
        centre = (self.size - 1) / 2
        return _inside(centre + scale * right, centre - scale * up, in_front, self.size)

    def bounds(self, pitch: float) -> Bounds:
        # Longitude is monotonic along both axes of a view, so its extremes are at corners.
        # Latitude is monotonic along columns; along a row its one extreme is in the middle.
        last = self.size - 1
        lon, lat = self.to_sphere(pitch, [0, last / 2, last], [[0], [last]])
        return Bounds(float(lon.min()), float(lon.max()), float(lat.min()), float(lat.max()))


@dataclass(frozen=True)
class ErpWindow:
    """Windows of the panorama itself, fov × fov degrees of longitude and latitude, made square.

    What OmniSAM slides over a panorama (paper, section 2.2, for table 6's comparison): the same
    centres and the same angles as a scan of perspective views, but with the distortion left in.
    The pixels fill the window edge to edge: where L is fov / 360 of the panorama's width, a view is
    a plain crop.
    """

    fov: float
    """Degrees."""
    size: int
    """L."""

    @property
    def focal(self) -> float:
        return 1 / self._pixel

    @property
    def _pixel(self) -> float:
        """Radians per pixel."""
        return float(np.radians(self.fov)) / self.size

    def to_sphere(self, pitch: float, u: ArrayLike, v: ArrayLike) -> tuple[Floats, Floats]:
        centre = (self.size - 1) / 2
        lon = (np.asarray(u, np.float64) - centre) * self._pixel
        lat = pitch - (np.asarray(v, np.float64) - centre) * self._pixel
        lon, lat = np.broadcast_arrays(lon, lat)
        return lon, lat

    def to_view(
        self, pitch: float, lon: ArrayLike, lat: ArrayLike
    ) -> tuple[Floats, Floats, NDArray[np.bool_]]:
        centre = (self.size - 1) / 2
        u, v = np.broadcast_arrays(
            centre + np.asarray(lon, np.float64) / self._pixel,
            centre - (np.asarray(lat, np.float64) - pitch) / self._pixel,
        )
        # the outer halves of the border pixels belong to the window; they take the border's value
        inside = np.maximum(abs(u - centre), abs(v - centre)) <= self.size / 2 + BORDER
        last = self.size - 1
        return np.clip(u, 0, last), np.clip(v, 0, last), inside

    def bounds(self, pitch: float) -> Bounds:
        half = float(np.radians(self.fov)) / 2
        return Bounds(-half, half, pitch - half, pitch + half)


def _inside(
    u: Floats, v: Floats, in_front: NDArray[np.bool_], size: int
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """u and v clipped to the view, and where nothing had to be clipped but rounding."""
    x, y = np.clip(u, 0, size - 1), np.clip(v, 0, size - 1)
    return x, y, in_front & (abs(x - u) <= BORDER) & (abs(y - v) <= BORDER)
