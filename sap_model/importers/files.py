"""Pictures, masks and names of other people's benchmarks."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.pictures.decode import Raster, read_raster
from sap_model.importers.tally import Tally

PICTURES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".exr", ".hdr",
)  # fmt: skip
"""Suffixes by which pictures are found in a folder; what they are follows from their content."""

MASKS = (".png", ".bmp", ".tif", ".tiff")
"""Formats without loss: JPEG would give every mask a border of other values."""

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
    absolute = parts.is_absolute() or PureWindowsPath(name).drive
    if not parts.name or absolute or ".." in parts.parts or "\0" in name:
        raise UserError(
            f"the file name {name[:200]!r} leads out of {folder}; name files in that folder"
        )
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


def count_others(folder: Path, tally: Tally, *, folders: bool = False) -> None:
    """Count what is in a folder of masks and cannot be one.

    Args:
        folder: Where masks are.
        tally: Where they are counted.
        folders: Whether folders are masks too.
    """
    if not folder.is_dir():
        return
    masks = set(files_of(folder, MASKS)) | set(folders_of(folder) if folders else ())
    others = [p for p in folder.iterdir() if p not in masks and not p.name.startswith(".")]
    lossy = sum(path.suffix.lower() in PICTURES and path.is_file() for path in others)
    tally.leave_out("masks with loss (JPEG, WebP)", lossy)
    tally.leave_out("files of masks that are no PNG, BMP or TIFF", len(others) - lossy)


def name_of(path: Path) -> str:
    """A file's name without suffix, as text, also where it is not UTF-8 on the disk."""
    return path.stem.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


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
    image = _of_shape(path, shape).values
    if image.ndim == 3:
        has_opacity = image.shape[2] in (2, 4)
        opacity = image[..., -1]
        if has_opacity and opacity.min() < opacity.max():
            image = opacity
        else:
            image = image[..., : image.shape[2] - has_opacity].max(axis=2)
    return image > image.max() / 2


def read_labels(path: Path, shape: tuple[int, int] | None = None) -> NDArray[np.uint32]:
    """Values of an image in which each instance has a separate value or colour; 0 is none.

    Args:
        path: Grey, of 8 or 16 bits, or colours, by a palette or not; opacity is ignored.
        shape: (H, W) of the panorama; None takes any.

    Returns:
        (H, W) uint32: the grey value, or 2^16 red + 2^8 green + blue. Of a palette, colours too,
        unless two of its entries that occur have the same one: then the entries' numbers.

    Raises:
        UserError: It is missing, damaged, of another size, or of a format with loss; or its values
            are no integers, or colours of 16 bits.
    """
    raster = _of_shape(path, shape)
    if raster.contents.lossy:
        raise UserError(
            f"{path} is {raster.contents.format} with loss, which changes values at every border; "
            "save the masks as PNG"
        )
    values = raster.values
    if values.dtype not in (np.uint8, np.uint16):
        raise UserError(f"{path} holds {values.dtype} values; save the masks as 8 or 16-bit PNG")
    if values.ndim == 3 and values.shape[2] <= 2:
        values = values[..., 0]
    if values.ndim == 2:
        return values.astype(np.uint32)
    if values.dtype != np.uint8:
        raise UserError(f"{path} holds colours of 16 bits; save the masks as grey values")
    red, green, blue = (values[..., channel].astype(np.uint32) for channel in range(3))
    colours = (red << 16 | green << 8 | blue).astype(np.uint32, copy=False)
    if raster.indices is not None:
        entries = np.unique(raster.indices)
        if len(np.unique(colours)) < len(entries):
            return raster.indices.astype(np.uint32)
    return colours


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


def _of_shape(path: Path, shape: tuple[int, int] | None) -> Raster:
    raster = read_raster(path)
    if shape is not None and raster.values.shape[:2] != shape:
        height, width = raster.values.shape[:2]
        raise UserError(
            f"{path} has {width} × {height} pixels, its panorama {shape[1]} × {shape[0]}; bring "
            "them to one size (the mask without smoothing)"
        )
    return raster
