"""One function for every picture that a person hands in: `read_picture`.

What a file is follows from its content. It is turned as EXIF says, converted to sRGB of 8 bits (see
`pipeline.pictures.tone`), and placed on its sphere where GPano metadata says that it shows a part.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from pipeline.errors import UserError
from pipeline.pictures.decode import MOST_PIXELS, Raster, read_raster
from pipeline.pictures.gpano import Gpano, Window, read_gpano, window_of
from pipeline.pictures.tone import NoLightError, integers_to_8_bits, light_to_8_bits

LEAST_WIDTH = 16
"""Pixels; below it a panorama has no views."""


@dataclass(frozen=True)
class Picture:
    """A panorama as a person handed it in.

    Attributes:
        pixels: (H, W, 3) uint8 sRGB with W = 2 H: the whole sphere, black where nothing is known.
        known: (H, W) bool: where the picture shows something; None where it does everywhere.
        window: Where the file's own pixels lie on the sphere.
        size: Height and width of the file's own pixels, as they are shown.
        notes: What was done to them that a person should know: "kind: details".
    """

    pixels: NDArray[np.uint8]
    known: NDArray[np.bool_] | None
    window: Window
    size: tuple[int, int]
    notes: tuple[str, ...]

    @property
    def is_part(self) -> bool:
        """Whether the file shows only a part of the sphere."""
        return self.size != (self.window.height, self.window.width)

    def place(self, values: NDArray) -> NDArray:
        """Values (h, w, ...) of the file's pixels on the sphere (H, W, ...); 0 elsewhere."""
        if not self.is_part:
            return values
        sphere = np.zeros((self.window.height, self.window.width, *values.shape[2:]), values.dtype)
        sphere[self._rows, self._columns] = values
        return sphere

    def cut(self, values: NDArray) -> NDArray:
        """Values (H, W, ...) of the sphere where the file's pixels (h, w, ...) lie."""
        return values[self._rows, self._columns]

    @property
    def _rows(self) -> slice:
        return slice(self.window.top, self.window.top + self.size[0])

    @property
    def _columns(self) -> slice | NDArray[np.intp]:
        columns = slice(self.window.left, self.window.left + self.size[1])
        # where they cross the seam, indices count from the end
        return columns if columns.start >= 0 else np.arange(columns.start, columns.stop)


def read_picture(path: Path) -> Picture:
    """Read a panorama, or refuse it with one line that names it.

    Raises:
        UserError: It cannot be read (see `read_raster`), or it is no equirectangular panorama.
    """
    raster = read_raster(path)
    notes = list(raster.contents.notes)
    height, width = raster.values.shape[:2]
    window = _window(raster, path, notes)
    colours, opacity = _colours(raster.values)
    pixels = _to_8_bits(colours, raster, path, notes)
    known = None
    if opacity is not None and 0 < np.count_nonzero(opacity) < opacity.size:
        known = opacity > 0
        pixels[~known] = 0
        notes.append(f"transparent: {1 - known.mean():.1%} of the pixels show nothing")
    if raster.contents.frames > 1:
        notes.append(f"several pictures: the first of {raster.contents.frames} is read")
    picture = Picture(pixels, known, window, (height, width), tuple(notes))
    if picture.is_part:
        seen = np.ones((height, width), bool) if known is None else known
        picture = Picture(
            picture.place(pixels), picture.place(seen), window, picture.size, picture.notes
        )
    return picture


def _window(raster: Raster, path: Path, notes: list[str]) -> Window:
    """Where the picture lies on its sphere; `notes` gets what the metadata says besides."""
    height, width = raster.values.shape[:2]
    gpano = read_gpano(raster.contents.xmp)
    window = None
    if gpano is not None:
        if gpano.projection != "equirectangular":
            raise UserError(
                f"{path} is a panorama in {gpano.projection} projection, its GPano metadata says; "
                "convert it to an equirectangular panorama of 360°"
            )
        window = _crop(gpano, raster, path, notes)
        if any(round(angle, 1) for angle in gpano.pose[1:]):
            notes.append(
                f"tilted: GPano gives pitch {gpano.pose[1]:g}° and roll {gpano.pose[2]:g}°, which "
                "are not applied"
            )
        if round(gpano.pose[0], 1):
            notes.append(f"heading: GPano gives {gpano.pose[0]:g}°, which is not applied")
    window = window or Window(0, 0, width, height)
    if window.width != 2 * window.height or window.width < LEAST_WIDTH:
        raise UserError(_shape_refusal(path, width, height, raster.contents.orientation))
    if window.width * window.height > MOST_PIXELS:
        raise UserError(
            f"{path} is part of a sphere of {window.width} × {window.height} pixels, its GPano "
            f"metadata says, more than {MOST_PIXELS}; reduce it"
        )
    return window


def _crop(gpano: Gpano, raster: Raster, path: Path, notes: list[str]) -> Window | None:
    height, width = raster.values.shape[:2]
    window = window_of(gpano, width, height) if gpano.is_cropped else None
    if gpano.is_nonsense or (gpano.is_cropped and window is None):
        notes.append("nonsense: GPano's sizes do not fit the picture and are ignored")
    if window is None:
        return None
    if raster.contents.orientation != 1:
        raise UserError(
            f"{path} is part of a sphere by its GPano metadata and turned by its EXIF orientation "
            f"{raster.contents.orientation}; save it upright"
        )
    notes.append(
        f"GPano crop: {360 * width / window.width:.0f}° × {180 * height / window.height:.0f}° at "
        f"{window.left % window.width},{window.top} of a sphere of {window.width} × "
        f"{window.height} pixels; the rest is unknown"
    )
    return window


def _shape_refusal(path: Path, width: int, height: int, orientation: int) -> str:
    turned = ""
    if orientation > 4:
        turned = f" when turned as its EXIF orientation {orientation} says"
        if height == 2 * width:
            return (
                f"{path} has {width} × {height} pixels{turned}, not 2:1; remove the orientation if "
                "the pixels are upright as they are stored"
            )
    half = max(LEAST_WIDTH // 2, round((width / 2 + height) / 2))
    close = abs(width - 2 * height) <= max(2, width // 100)
    remedy = (
        f"resize it to {2 * half} × {half}"
        if close
        else f"an equirectangular panorama is exactly twice as wide as high and at least "
        f"{LEAST_WIDTH} pixels wide; give one"
    )
    return f"{path} has {width} × {height} pixels{turned}, not 2:1; {remedy}"


def _colours(values: NDArray) -> tuple[NDArray, NDArray | None]:
    """Grey (H, W) or RGB (H, W, 3), and opacity (H, W) if there is one."""
    if values.ndim == 2:
        return values, None
    opacity = values[..., -1] if values.shape[2] in (2, 4) else None
    return (values[..., 0] if values.shape[2] <= 2 else values[..., :3]), opacity


def _to_8_bits(colours: NDArray, raster: Raster, path: Path, notes: list[str]) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 sRGB."""
    if colours.dtype == np.uint16:
        colours, bits, hot = integers_to_8_bits(colours, raster.contents.bits)
        notes.append(f"bits: {bits} of 16 are in use, which are scaled to 8")
        if hot:
            notes.append(f"hot pixels: {hot} values are far beyond {bits} bits and become white")
    if colours.ndim == 2:
        colours = np.repeat(colours[..., None], 3, axis=2)
    if colours.dtype == np.float32:
        try:
            colours, stops = light_to_8_bits(colours)
        except NoLightError:
            raise UserError(f"{path} holds no light: no value is positive; give another") from None
        notes.append(f"bits: linear light of 32, exposed by {stops:+.1f} stops to 8")
    elif colours.dtype == np.uint8 and raster.values.ndim == 3 and raster.contents.icc:
        colours = _to_srgb(colours, raster.contents.icc)
    return np.ascontiguousarray(colours)


def _to_srgb(colours: NDArray[np.uint8], icc: bytes) -> NDArray[np.uint8]:
    """By the file's profile, unless it is sRGB's, not for RGB, or nonsense."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        about = profile.profile
        if (
            about.xcolor_space.strip() != "RGB"
            or "srgb" in (about.profile_description or "").lower()
        ):
            return colours
        converted = ImageCms.profileToProfile(
            Image.fromarray(np.ascontiguousarray(colours)),
            profile,
            ImageCms.createProfile("sRGB"),
        )
        return colours if converted is None else np.array(converted)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return colours
