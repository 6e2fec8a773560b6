"""Augmentation of training data: turned panoramas, warped frames, other colours.

Truth moves along with the picture. For SAM2's own data the ranges are those of its published
training configuration; a panorama is turned on the sphere instead of warped as a picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline import sphere
from sap_model.scan.maps import resample
from sap_model.scan.views import pad
from sap_model.train.shard_rows import DecodedPanorama

MAX_TILT = 10.0
"""Degrees by which the vertical axis of a panorama is tilted at most, as by a hand-held camera."""

TILTED = 0.5
"""Share of panoramas that are tilted; resampling one of 4K takes about a second."""

DEGREES, SHEAR = 25.0, 20.0
"""Largest rotation and shear of the frames of SAM2's own data."""

GREY = 0.05
"""Share of clips without colour."""

FILL = (124, 116, 104)
"""Colour beyond the border of a warped frame: SAM2's mean, which normalises to about 0."""

CHUNK = 256
"""Rows of a panorama that are resampled at a time, for the sake of memory."""


class ColourRange(NamedTuple):
    """Largest relative changes of brightness, contrast and saturation."""

    brightness: float
    contrast: float
    saturation: float


OF_CLIP, OF_FRAME = ColourRange(0.1, 0.03, 0.03), ColourRange(0.1, 0.05, 0.05)
"""Changes that all frames of a clip share, and those that each frame of a video has in addition."""


@dataclass(frozen=True)
class Turn:
    """How a panorama is turned: it is tilted first, then mirrored, then rolled.

    Attributes:
        tilt: Angle in radians by which the vertical axis is tilted.
        towards: Longitude in radians towards which it is tilted: that side goes down.
        mirrored: Whether left and right are exchanged.
        columns: Columns by which the panorama is rolled to the right.
    """

    tilt: float = 0.0
    towards: float = 0.0
    mirrored: bool = False
    columns: int = 0

    @property
    def rotation(self) -> NDArray[np.float64]:
        """(3, 3): takes directions of the original to those of the tilted panorama."""
        around = sphere.rotation_to_centre(self.towards, 0.0)
        return around.T @ sphere.rotation_to_centre(0.0, self.tilt) @ around


def draw_turn(width: int, rng: np.random.Generator) -> Turn:
    """A random turn of a panorama of some width in pixels."""
    tilt = rng.uniform(0, np.radians(MAX_TILT)) if rng.random() < TILTED else 0.0
    return Turn(tilt, rng.uniform(-np.pi, np.pi), rng.random() < 0.5, int(rng.integers(width)))


def turn_panorama(panorama: DecodedPanorama, turn: Turn) -> DecodedPanorama:
    """A panorama with its ids and clicks, turned.

    Objects of a few pixels may vanish between pixels; they are left out. A click that is rounded to
    a pixel beside its object moves to the object's nearest pixel.
    """
    image, ids = panorama.image, panorama.ids
    width = ids.shape[1]
    if turn.tilt:
        image, ids = _tilted(image, ids, turn.rotation)
    if turn.mirrored:
        image, ids = image[:, ::-1], ids[:, ::-1]
    image, ids = np.roll(image, turn.columns, axis=1), np.roll(ids, turn.columns, axis=1)
    kept = np.isin(panorama.objects, ids)
    objects = panorama.objects[kept]
    clicks = turn_points(panorama.clicks[kept], turn, width)
    for k, (label, (x, y)) in enumerate(zip(objects, clicks, strict=True)):
        if ids[y, x] != label:
            rows, columns = np.nonzero(ids == label)
            across = abs(columns - x)
            nearest = np.argmin(np.minimum(across, width - across) ** 2 + (rows - y) ** 2)
            clicks[k] = columns[nearest], rows[nearest]
    return DecodedPanorama(panorama.name, image, ids, objects, clicks)


def turn_points(points: NDArray, turn: Turn, width: int) -> NDArray[np.int64]:
    """Pixels (N, 2) of a panorama as (x, y), and where a turn takes them, rounded.

    >>> turn_points(np.array([[0, 5]]), Turn(mirrored=True, columns=3), 64).tolist()
    [[2, 5]]
    """
    x, y = np.asarray(points, np.float64).reshape(-1, 2).T
    height = width // 2
    if turn.tilt:
        directions = sphere.lonlat_to_direction(*sphere.pixel_to_lonlat(x, y, width, height))
        lon, lat = sphere.direction_to_lonlat(sphere.rotate(directions, turn.rotation))
        x, y = sphere.lonlat_to_pixel(lon, lat, width, height)
    if turn.mirrored:
        x = width - 1 - x
    columns, rows = sphere.nearest_pixel(x + turn.columns, y, width, height)
    return np.stack([columns, rows], axis=-1)


def _tilted(
    image: NDArray[np.uint8], ids: NDArray[np.uint16], rotation: NDArray[np.float64]
) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """A panorama (H, W, 3), bilinear, and its ids (H, W), nearest pixel, rotated on the sphere."""
    height, width = ids.shape
    padded = pad(image, 1)
    tilted, labels = np.empty_like(image), np.empty_like(ids)
    back = rotation.T.astype(np.float32)
    lon, _ = sphere.pixel_to_lonlat(np.arange(width), 0, width, height)
    ring = np.stack([np.sin(lon), np.cos(lon)]).astype(np.float32)
    for top in range(0, height, CHUNK):
        _, lat = sphere.pixel_to_lonlat(0, np.arange(top, min(top + CHUNK, height)), width, height)
        flat, up = np.cos(lat).astype(np.float32)[:, None], np.sin(lat).astype(np.float32)[:, None]
        east, ahead = flat * ring[0], flat * ring[1]
        x, y, z = (row[0] * east + row[1] * ahead + row[2] * up for row in back)
        column = (np.arctan2(x, y) / np.float32(2 * np.pi) + np.float32(0.5)) * width - 0.5
        row = (0.5 - np.arcsin(np.clip(z, -1, 1)) / np.float32(np.pi)) * height - 0.5
        positions = np.stack([column % width, row + 1], axis=-1).astype(np.float32)
        rows = slice(top, top + len(positions))
        tilted[rows] = resample(padded, positions)
        nearest = np.clip(np.rint(row).astype(np.int64), 0, height - 1)
        labels[rows] = ids[nearest, np.rint(column).astype(np.int64) % width]
    return tilted, labels


def draw_affine(size: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """A random rotation and shear about the centre of a frame of some size: (2, 3), for OpenCV.

    It takes pixels of the result to pixels of the frame.
    """
    angle, shear = np.radians(rng.uniform(-1, 1, 2) * (DEGREES, SHEAR))
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = np.array([[cos, -sin], [sin, cos]]) @ [[1, np.tan(shear)], [0, 1]]
    centre = np.full(2, (size - 1) / 2)
    return np.hstack([matrix, (centre - matrix @ centre)[:, None]])


def warp_frames(
    images: NDArray[np.uint8], truth: NDArray[np.uint8], affine: NDArray[np.float64]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Frames (T, S, S, 3), bilinear, and their masks' bits (T, S, S), nearest pixel, warped."""
    size = (images.shape[2], images.shape[1])
    frames = [
        cv2.warpAffine(
            image, affine, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderValue=FILL
        )
        for image in images
    ]
    masks = [
        cv2.warpAffine(bits, affine, size, flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP)
        for bits in truth
    ]
    return np.stack(frames), np.stack(masks)


def recolour(
    images: NDArray[np.uint8], rng: np.random.Generator, by_frame: bool
) -> NDArray[np.uint8]:
    """Images (T, H, W, 3) with other colours.

    Args:
        images: Frames of a video, or a panorama as the only one.
        rng: Decides about all changes.
        by_frame: Whether each frame changes a little in addition.
    """
    luma = float(images.mean())
    shared = draw_colours(OF_CLIP, luma, rng)
    if rng.random() < GREY:
        shared = saturation(0.0) @ shared
    matrices = [draw_colours(OF_FRAME, luma, rng) @ shared if by_frame else shared for _ in images]
    return np.stack(
        [cv2.transform(image, matrix[:3]) for image, matrix in zip(images, matrices, strict=True)]
    )


def draw_colours(most: ColourRange, luma: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """A random change of colours as a matrix (4, 4) on (red, green, blue, 1), in grey levels.

    Args:
        most: The largest changes.
        luma: Grey level that a change of contrast leaves as it is.
    """
    brightness, contrast, colours = 1 + rng.uniform(-1, 1, 3) * most
    scale = np.diag([brightness, brightness, brightness, 1.0])
    spread = np.diag([contrast, contrast, contrast, 1.0])
    spread[:3, 3] = (1 - contrast) * luma * brightness
    return saturation(colours) @ spread @ scale


def saturation(factor: float) -> NDArray[np.float64]:
    """The matrix (4, 4) that moves colours away from grey (above 1) or towards it: 0 is grey.

    >>> (saturation(0.0) @ [10, 10, 10, 1]).round(6).tolist()
    [10.0, 10.0, 10.0, 1.0]
    """
    grey = np.zeros((4, 4))
    grey[:3, :3] = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in torchvision
    grey[3, 3] = 1
    return factor * np.eye(4) + (1 - factor) * grey
