"""Pictures, masks and names of other people's benchmarks."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
MASKS = (".png", ".bmp", ".tif", ".tiff")
"""Formats without loss: JPEG would give every mask a border of other values."""

MOST_PIXELS_WIDE = 16383
"""WebP, in which shards hold pictures, knows no larger ones."""
MOST_INSTANCES = 255
"""A label image with more values was smoothed or is something else."""

_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


def safe_name(name: str) -> str:
    """A name for `scene_id`: one part of a path, whatever the name was.

    A name that is not used as it is gets a hash of itself, so that two never become one.

    >>> safe_name("_-6QUCaLvQ_3I"), safe_name("../a b")
    ('_-6QUCaLvQ_3I', 'a_b-2c2c791a')
    """
    if _SAFE.fullmatch(name):
        return name
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._-")[:60] or "name"
    return f"{plain}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def inside(folder: Path, name: str) -> Path:
    """The file of a folder that an annotation names.

    Raises:
        UserError: The name leads out of the folder.
    """
    parts = PurePosixPath(name.replace("\\", "/"))
    if not name or parts.is_absolute() or ".." in parts.parts or "\0" in name:
        raise UserError(f"the file name {name!r} leads out of {folder}; correct the annotations")
    return folder / parts


def files_of(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Files with these suffixes, by name; none where there is no such folder. Hidden ones are not
    counted."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file()
    )


def folders_of(folder: Path) -> list[Path]:
    """Folders in a folder, by name, without hidden ones.

    Raises:
        UserError: There is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give the one that holds the benchmark")
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def read_picture(path: Path) -> NDArray[np.uint8]:
    """A panorama (H, W, 3) uint8 RGB.

    Turning by EXIF is ignored, because masks belong to the pixels as they are stored.

    Raises:
        UserError: It is missing, damaged, or no whole panorama: not twice as wide as high.
    """
    picture = _read(path, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    height, width = picture.shape[:2]
    if width != 2 * height:
        raise UserError(
            f"{path} has {width} × {height} pixels, but an equirectangular panorama is exactly "
            "twice as wide as high; stretch it and its masks (those without smoothing), or leave "
            "it out"
        )
    if width > MOST_PIXELS_WIDE:
        raise UserError(
            f"{path} is {width} pixels wide, more than the {MOST_PIXELS_WIDE} that WebP can hold; "
            "reduce it and its masks"
        )
    return np.ascontiguousarray(picture[..., ::-1])


def read_mask(path: Path, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask of one object: what is brighter than half of the brightest value.

    So files of 0 and 1, of 0 and 255 and with smoothed borders are all read as they are meant. A
    picture that is partly transparent is a mask by its opacity instead.

    Args:
        path: An image of one, three or four channels.
        shape: (H, W) of the panorama.

    Raises:
        UserError: It is missing, damaged or of another size.
    """
    image = _of_shape(path, shape)
    if image.ndim == 3 and image.shape[2] == 4 and image[..., 3].min() < image[..., 3].max():
        image = image[..., 3]
    elif image.ndim == 3:
        image = image[..., :3].max(axis=2)
    return image > image.max() / 2


def read_labels(path: Path, shape: tuple[int, int]) -> NDArray[np.uint32]:
    """Values of an image in which each instance has a value or colour of its own; 0 is none.

    Args:
        path: Grey, of 8 or 16 bits, or colours, by a palette or not; opacity is ignored.
        shape: (H, W) of the panorama.

    Returns:
        (H, W) uint32: the grey value, or 2^16 red + 2^8 green + blue.

    Raises:
        UserError: It is missing, damaged or of another size.
    """
    image = _of_shape(path, shape)
    if image.ndim == 2:
        return image.astype(np.uint32)
    blue, green, red = (image[..., channel].astype(np.uint32) for channel in range(3))
    return (red << 16 | green << 8 | blue).astype(np.uint32, copy=False)


def values_of(labels: NDArray[np.uint32], path: Path) -> list[int]:
    """The values that instances have in `read_labels`' image, in order.

    Raises:
        UserError: They are too many for instances.
    """
    values = [int(value) for value in np.unique(labels) if value]
    if len(values) > MOST_INSTANCES:
        raise UserError(
            f"{path} has {len(values)} values or colours, more than {MOST_INSTANCES} instances; "
            "give masks that were never smoothed or saved as JPEG"
        )
    return values


def _of_shape(path: Path, shape: tuple[int, int]) -> NDArray:
    image = _read(path, cv2.IMREAD_UNCHANGED)
    if image.shape[:2] != shape:
        height, width = image.shape[:2]
        raise UserError(
            f"{path} has {width} × {height} pixels, its panorama {shape[1]} × {shape[0]}; bring "
            "them to one size (the mask without smoothing)"
        )
    return image


def _read(path: Path, flags: int) -> NDArray:
    if not path.is_file():
        raise UserError(f"{path} is missing; get the benchmark again, or correct its annotations")
    try:
        image = cv2.imread(str(path), flags)
    except cv2.error:  # larger than OpenCV allows
        image = None
    if image is None:
        raise UserError(f"{path} is damaged or no picture; get it again")
    return image
