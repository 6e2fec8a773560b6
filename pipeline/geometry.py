"""Camera poses, rays and points in the world, upright 3D boxes. NumPy only.

World axes are right-handed with Z up, in metres. A pose is a 4 × 4 matrix that takes points of the
camera to points of the world, in one of two conventions:

    Blender   x to the right, y up, the camera looks along -z
    OpenCV    x to the right, y down, the camera looks along +z

The centre of a panorama is where its camera looks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.sphere import lonlat_to_direction, lonlat_to_pixel, pixel_to_lonlat, rotate

Floats = NDArray[np.float64]

POSE_DIGITS = 12
"""Decimals of a pose, so that all processors write the same."""

SIZE_DIGITS = 4
"""Decimals of a box in metres: a tenth of a millimetre."""

ALIGNED = 1.01
"""A box parallel to the world's axes is taken if its base is at most this much larger than the
smallest one, so that round and square things do not turn by chance."""

BLENDER_TO_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])

CAMERA_TO_SPHERE = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
"""Rotation from OpenCV's camera axes to those of `pipeline.sphere`."""


@dataclass(frozen=True)
class UprightBox:
    """The box around an object whose vertical edges are parallel to the world's Z.

    Attributes:
        centre: (3,) metres, world axes.
        size: (3,) metres along the box's axes; the last one is the height.
        rotation: (3, 3); its columns are the box's axes in world axes.
    """

    centre: Floats
    size: Floats
    rotation: Floats

    @classmethod
    def from_json(cls, box: dict[str, Any]) -> UprightBox:
        """The box of `to_json`, or of `objects.box3d` in a row."""
        return cls(*(np.array(box[name], np.float64) for name in ("centre", "size", "rotation")))

    def to_json(self) -> dict[str, Any]:
        """Plain lists, with the names of the schema."""
        return {
            "centre": self.centre.tolist(),
            "size": self.size.tolist(),
            "rotation": self.rotation.tolist(),
        }

    def to_local(self, points: ArrayLike) -> Floats:
        """World points (..., 3) in the box's axes, from its centre."""
        return rotate(np.asarray(points, np.float64) - self.centre, self.rotation.T)

    def corners(self) -> Floats:
        """The eight corners (8, 3) in world axes."""
        signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
        return rotate(signs * self.size / 2, self.rotation) + self.centre

    def holds(self, points: ArrayLike, slack: float = 0.0) -> NDArray[np.bool_]:
        """Whether each point (..., 3) lies in the box, or at most `slack` metres beside it."""
        return np.all(np.abs(self.to_local(points)) <= self.size / 2 + slack, axis=-1)

    def meets(self, origin: ArrayLike, rays: ArrayLike, slack: float = 0.0) -> NDArray[np.bool_]:
        """Whether each ray (..., 3) from a point meets the box, made larger by `slack` metres."""
        start = self.to_local(origin)
        step = rotate(rays, self.rotation.T)
        step = np.where(np.abs(step) < 1e-12, 1e-12, step)
        half = self.size / 2 + slack
        near = np.minimum((-half - start) / step, (half - start) / step).max(axis=-1)
        far = np.maximum((-half - start) / step, (half - start) / step).min(axis=-1)
        return (near <= far) & (far >= 0)


def blender_pose(position: Sequence[float], rotation_euler: Sequence[float]) -> Floats:
    """The camera-to-world matrix (4, 4) in Blender's convention.

    Args:
        position: x, y, z in metres.
        rotation_euler: XYZ Euler angles in radians: first around X, last around Z.
    """
    (sx, sy, sz), (cx, cy, cz) = map(np.sin, rotation_euler), map(np.cos, rotation_euler)
    pose = np.eye(4)
    pose[:3, :3] = [
        [cy * cz, sx * sy * cz - cx * sz, cx * sy * cz + sx * sz],
        [cy * sz, sx * sy * sz + cx * cz, cx * sy * sz - sx * cz],
        [-sy, sx * cy, cx * cy],
    ]
    pose[:3, :3] = np.round(pose[:3, :3], POSE_DIGITS) + 0.0  # no negative zero
    pose[:3, 3] = position
    return pose


def opencv_pose(position: Sequence[float], rotation_euler: Sequence[float]) -> Floats:
    """The same matrix in OpenCV's convention."""
    return blender_pose(position, rotation_euler) @ BLENDER_TO_OPENCV + 0.0


def world_rays(x: ArrayLike, y: ArrayLike, width: int, pose: ArrayLike) -> Floats:
    """Unit directions (..., 3) in world axes of the pixels (x, y) of a panorama.

    Args:
        x, y: Pixel coordinates; integers are pixel centres.
        width: Of the panorama.
        pose: Camera-to-world matrix (4, 4) in OpenCV's convention.
    """
    directions = lonlat_to_direction(*pixel_to_lonlat(x, y, width, width // 2))
    turn = np.asarray(pose, np.float64)[:3, :3] @ CAMERA_TO_SPHERE.T
    return rotate(directions, turn)


def world_points(
    x: ArrayLike, y: ArrayLike, depth: ArrayLike, width: int, pose: ArrayLike
) -> Floats:
    """Points (..., 3) in the world that pixels with a depth in metres along the ray see."""
    rays = world_rays(x, y, width, pose)
    return np.asarray(depth, np.float64)[..., None] * rays + np.asarray(pose)[:3, 3]


def project(points: ArrayLike, width: int, pose: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """x, y and depth of world points (..., 3) in a panorama: the inverse of `world_points`."""
    matrix = np.asarray(pose, np.float64)
    seen = np.asarray(points, np.float64) - matrix[:3, 3]
    depth = np.linalg.norm(seen, axis=-1)
    direction = rotate(seen, CAMERA_TO_SPHERE @ matrix[:3, :3].T)
    lon = np.arctan2(direction[..., 0], direction[..., 1])
    lat = np.arctan2(direction[..., 2], np.hypot(direction[..., 0], direction[..., 1]))
    return *lonlat_to_pixel(lon, lat, width, width // 2), depth


def upright_box(points: ArrayLike) -> UprightBox:
    """The upright box with the smallest base around points (N, 3), N ≥ 1.

    Its first axis is turned from the world's X by 0 to 90°, counter-clockwise seen from above.
    """
    cloud = np.asarray(points, np.float64)
    low, high = cloud.min(axis=0), cloud.max(axis=0)
    middle = (low + high) / 2
    flat = (cloud[:, :2] - middle[:2]).astype(np.float32)
    hull = cv2.convexHull(flat).reshape(-1, 2).astype(np.float64)
    edges = np.roll(hull, -1, axis=0) - hull
    angles = np.arctan2(edges[:, 1], edges[:, 0])[np.hypot(*edges.T) > 1e-6] % (np.pi / 2)
    angles = np.unique(np.round(np.concatenate([[0.0], angles]), 9))
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    u = cos * hull[:, 0] + sin * hull[:, 1]  # (angles, hull points)
    v = cos * hull[:, 1] - sin * hull[:, 0]
    spans = np.stack([np.ptp(u, axis=1), np.ptp(v, axis=1)], axis=1)
    areas = spans.prod(axis=1)
    best = 0 if areas[0] <= areas.min() * ALIGNED else int(np.argmin(areas))
    a, b = (u.max(axis=1) + u.min(axis=1)) / 2, (v.max(axis=1) + v.min(axis=1)) / 2
    c, s = math.cos(angles[best]), math.sin(angles[best])
    centre = [middle[0] + c * a[best] - s * b[best], middle[1] + s * a[best] + c * b[best]]
    rotation = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    return UprightBox(
        np.round([*centre, middle[2]], SIZE_DIGITS) + 0.0,
        np.round([*spans[best], high[2] - low[2]], SIZE_DIGITS) + 0.0,
        np.round(rotation, POSE_DIGITS) + 0.0,
    )


def distance_to(point: Sequence[float], position: Sequence[float]) -> float:
    """Metres between two points."""
    return round(math.dist(point, position), SIZE_DIGITS)


def polygon_area(polygon: ArrayLike) -> float:
    """Signed area of a polygon (N, 2): positive if its corners go counter-clockwise."""
    x, y = np.asarray(polygon, np.float64).T
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2)


def in_polygon(points: ArrayLike, polygon: ArrayLike, slack: float = 0.0) -> NDArray[np.bool_]:
    """Whether points (N, 2) lie in a polygon (M, 2), or at most `slack` metres beside it."""
    outline = np.asarray(polygon, np.float32).reshape(-1, 1, 2)
    return np.array(
        [
            cv2.pointPolygonTest(outline, (float(x), float(y)), True) >= -slack
            for x, y in np.asarray(points, np.float64).reshape(-1, 2)
        ],
        np.bool_,
    )
