"""Perspective images and videos out of panoramas: what stands in for SAM2's training data.

A camera looks into a panorama from its centre: one image, or a few frames while it turns in small
steps. Whoever cannot have SAM2's pretrained weights teaches a small model on these what a click is,
and what memory is for, before it is fine-tuned on the scan.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline import sphere
from sap_model.scan.geometry import Perspective
from sap_model.scan.maps import resample
from sap_model.scan.views import pad
from sap_model.train.clip import Clip, NoObjectError, bits_of
from sap_model.train.scan_clips import draw, pixels_of
from sap_model.train.shard_rows import ShardRows


class CropClips:
    """Clips of a camera that turns within a panorama.

    Args:
        rows: The panoramas.
        image_size: S, the side of an image.
        objects: K, objects of a clip; where fewer can be had, some are taken twice.
        frames: T.
        step: Degrees by which the camera turns between frames, at most, in yaw and in pitch.
        fov: Range of fields of view in degrees; drawn evenly in the tangent.
        min_pixels: Pixels that an object has at least on the first frame.
    """

    def __init__(
        self,
        rows: ShardRows,
        image_size: int,
        objects: int,
        frames: int = 1,
        step: float = 0.0,
        fov: tuple[float, float] = (40.0, 100.0),
        min_pixels: int = 16,
    ) -> None:
        self.rows, self.image_size, self.objects, self.frames = rows, image_size, objects, frames
        self.step, self.fov, self.min_pixels = step, fov, min_pixels

    def __len__(self) -> int:
        return len(self.rows)

    def clip(self, index: int, rng: np.random.Generator) -> Clip:
        """A clip of a row, the same for the same state of rng.

        Raises:
            NoObjectError: Nothing in the row is visible enough.
        """
        panorama = self.rows[index]
        width = panorama.ids.shape[1]
        image, ids = pad(panorama.image, 1), pad(panorama.ids, 1)
        for _ in range(8):
            yaw, pitch = rng.uniform(-np.pi, np.pi), np.arcsin(rng.uniform(-0.9, 0.9))
            roll = np.radians(rng.normal(0, 5))
            low, high = np.tan(np.radians(self.fov) / 2)
            fov = np.degrees(2 * np.arctan(rng.uniform(low, high)))
            maps = []
            for _ in range(self.frames):
                maps.append(reading(yaw, pitch, roll, fov, self.image_size, width))
                turn = np.radians(rng.uniform(-self.step, self.step, 2))
                yaw, pitch = yaw + turn[0], np.clip(pitch + turn[1], -1.3, 1.3)
            seen = np.stack([resample(ids, m, cv2.INTER_NEAREST) for m in maps])
            pixels = pixels_of(seen[:1], panorama.objects)[0]
            able = np.flatnonzero(pixels >= self.min_pixels)
            if able.size >= min(3, self.objects):
                break
        if not able.size:
            raise NoObjectError(panorama.name)
        chosen = panorama.objects[draw(able, self.objects, rng)]
        images = np.stack([resample(image, m) for m in maps])
        truth = bits_of(seen == chosen[:, None, None, None])
        if rng.random() < 0.5:
            images, truth = images[:, :, ::-1], truth[:, :, ::-1]
        order = np.repeat(np.arange(self.frames)[:, None], self.objects, axis=1)
        return Clip(recoloured(images, rng), truth.copy(), order, None, panorama.name)


def reading(
    yaw: float, pitch: float, roll: float, fov: float, size: int, width: int
) -> NDArray[np.float32]:
    """Where each pixel of a perspective image lies in a padded panorama: (S, S, 2) for cv2.remap.

    Args:
        yaw, pitch, roll: Of the camera, radians.
        fov: Degrees.
        size: S.
        width: Of the panorama, which is padded by `scan.views.pad(…, 1)`.
    """
    centre, focal = (size - 1) / 2, Perspective(fov, size).focal
    v, u = np.mgrid[:size, :size]
    right, down = (u - centre) / focal, (v - centre) / focal
    cos, sin = np.cos(roll), np.sin(roll)
    rays = np.stack([cos * right - sin * down, np.ones_like(right), -sin * right - cos * down], -1)
    directions = sphere.rotate(rays, sphere.rotation_to_centre(yaw, pitch).T)
    x, y = sphere.lonlat_to_pixel(*sphere.direction_to_lonlat(directions), width, width // 2)
    return np.stack([x % width, y + 1], axis=-1).astype(np.float32)


def recoloured(images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Images (..., 3) with channels permuted, and brightness and contrast changed, by chance."""
    table = np.arange(256) / 255.0
    gains = rng.uniform(0.8, 1.2) * rng.uniform(0.9, 1.1, 3)
    gamma = np.exp(rng.normal(0, 0.2))
    curves = np.clip(np.outer(gains, table**gamma) * 255.0, 0, 255).astype(np.uint8)
    order = rng.permutation(3) if rng.random() < 0.5 else np.arange(3)
    return np.stack([curves[i][images[..., c]] for i, c in enumerate(order)], axis=-1)
