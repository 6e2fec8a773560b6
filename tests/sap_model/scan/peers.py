"""The views' definition again, from rotation matrices, slowly and without tables.

Cameras look along +Z with X to the right and Y down, as in most books on computer vision, so that
hardly a line can agree with the code under test by copying it.
"""

from __future__ import annotations

import numpy as np

from sap_model.scan.trajectory import View


def erp_directions(x, y, width: int) -> np.ndarray:
    """World directions (..., 3) of panorama pixels: X right of the centre, Y down, Z ahead."""
    lon = 2 * np.pi * (np.asarray(x, float) + 0.5) / width - np.pi
    colatitude = np.pi * (np.asarray(y, float) + 0.5) / (width // 2)
    ring = np.sin(colatitude)
    return np.stack([ring * np.sin(lon), -np.cos(colatitude), ring * np.cos(lon)], axis=-1)


def rotation(view: View) -> np.ndarray:
    """World from camera: first the pitch about X, upwards, then the yaw about Y, to the right."""
    yaw, pitch = np.radians([view.yaw, view.pitch])
    about_x = np.array(
        [
            [1, 0, 0],
            [0, np.cos(pitch), -np.sin(pitch)],
            [0, np.sin(pitch), np.cos(pitch)],
        ]
    )
    about_y = np.array(
        [
            [np.cos(yaw), 0, np.sin(yaw)],
            [0, 1, 0],
            [-np.sin(yaw), 0, np.cos(yaw)],
        ]
    )
    return about_y @ about_x


def intrinsics(fov: float, size: int) -> np.ndarray:
    f = (size - 1) / (2 * np.tan(np.radians(fov / 2)))
    return np.array([[f, 0, (size - 1) / 2], [0, f, (size - 1) / 2], [0, 0, 1]])


def project(x, y, width: int, view: View, fov: float, size: int):
    """u, v, depth of panorama pixels (...) in one perspective view (paper, equation 4)."""
    camera = erp_directions(x, y, width) @ rotation(view)  # the inverse of a row's rotation
    u, v, w = np.moveaxis(camera @ intrinsics(fov, size).T, -1, 0)
    depth = camera[..., 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        return u / w, v / w, depth


def view_directions(view: View, fov: float, size: int, samples: int = 1) -> np.ndarray:
    """World directions (n L, n L, 3) of n × n samples of a perspective view's pixels (paper,
    equation 3)."""
    positions = (np.arange(samples * size) + 0.5) / samples - 0.5
    positions = positions.clip(0, size - 1)
    u, v = np.meshgrid(positions, positions)
    rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(intrinsics(fov, size)).T
    rays = rays @ rotation(view).T
    return rays / np.linalg.norm(rays, axis=-1, keepdims=True)


def smooth(directions: np.ndarray) -> np.ndarray:
    """Three channels of grey levels, each a smooth function of the direction on all the sphere."""
    x, y, z = np.moveaxis(directions, -1, 0)
    channels = [x + 0.5 * y * z, y - 0.4 * x * z, z + 0.6 * x * y]
    return 127.5 + 70 * np.stack(channels, axis=-1)


def smooth_panorama(width: int) -> np.ndarray:
    """(H, W, 3) float64 of `smooth`."""
    return smooth(erp_directions(*np.meshgrid(np.arange(width), np.arange(width // 2)), width))


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return np.count_nonzero(a & b) / max(np.count_nonzero(a | b), 1)
