"""A file's contents to an array of the values that it holds, turned as viewers show them."""

from __future__ import annotations

import io
import os
import stat
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from pipeline.errors import UserError
from pipeline.pictures.contents import Contents, DamagedError, Tags, UnsupportedError
from pipeline.pictures.formats import split
from pipeline.pictures.jpeg import without_padding

CONVERT = "convert it to JPEG, PNG or 16-bit TIFF"

MOST_PIXELS = 2**27
"""16384 × 8192."""

MOST_BYTES = 2 * 2**30
"""Of a file: what `MOST_PIXELS` take as four channels of 32-bit floats."""

_PILLOW = {"JPEG": "JPEG", "PNG": "PNG", "WebP": "WEBP", "TIFF": "TIFF", "BMP": "BMP"}


@dataclass(frozen=True)
class Raster:
    """The values of a picture.

    Attributes:
        values: (H, W) or (H, W, 2 to 4): grey, grey and opacity, RGB, or RGB and opacity; uint8,
            uint16 or float32. Colours are as stored but for CMYK, which becomes RGB.
        indices: (H, W) uint8, the values of a palette's entries; None without a palette.
        contents: The file.
    """

    values: NDArray
    indices: NDArray[np.uint8] | None
    contents: Contents


def read_raster(path: Path) -> Raster:
    """Read and decode a file, or refuse it with one line that names it.

    Raises:
        UserError: It is missing, no regular file, too large, damaged, or of a kind that is not
            read.
    """
    data = _bytes_of(path)
    try:
        with _quiet():
            contents = split(data)
            _check_size(contents.width, contents.height, path)
            # the C libraries of these print what is wrong, and take no other wish
            speaks = contents.format in ("TIFF", "EXR", "HDR") or contents.bits > 8
            with _silence() if speaks else nullcontext():
                return _with_key(_decode(contents, path))
    except UnsupportedError as error:
        raise UserError(f"{path} is {error}; {error.remedy or CONVERT}") from None
    except DamagedError as error:
        raise UserError(f"{path} is damaged: {error}; get it again, or save it again") from None
    except MemoryError:
        raise UserError(f"{path} does not fit into memory; reduce it") from None


def _bytes_of(path: Path) -> bytes:
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            kind = "a folder" if stat.S_ISDIR(about.st_mode) else "no regular file"
            raise UserError(f"{path} is {kind}; name a picture")
        if about.st_size > MOST_BYTES:
            raise UserError(
                f"{path} has {about.st_size} bytes, more than {MOST_BYTES}; reduce the picture"
            )
        return path.read_bytes()
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        reason = "is missing" if missing else f"cannot be read: {error.strerror}"
        raise UserError(f"{path} {reason}; correct its path") from None
    except ValueError:  # a NUL in its name
        raise UserError(f"{str(path)!r} is no file name; correct its path") from None


def _check_size(width: int, height: int, path: Path) -> None:
    if width * height > MOST_PIXELS:
        raise UserError(
            f"{path} is declared with {width} × {height} pixels, more than {MOST_PIXELS}; reduce "
            "it to 8192 × 4096"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Decoders say what they think on stderr; what matters becomes our line."""
    # OpenCV 4.14 has them there
    logging: Any = cv2 if hasattr(cv2, "getLogLevel") else vars(cv2.utils)["logging"]
    level = logging.getLogLevel()
    logging.setLogLevel(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.setLogLevel(level)


@contextmanager
def _silence() -> Iterator[None]:
    """Nothing that this process writes to stdout and stderr meanwhile is shown."""
    with ExitStack() as stack:
        for number in (1, 2):
            stack.enter_context(_muted(number))
        stack.enter_context(redirect_stdout(io.StringIO()))
        yield


@contextmanager
def _muted(number: int) -> Iterator[None]:
    """The same for the file descriptor of one of them, which may be closed."""

    def flush() -> None:
        stream = sys.stdout if number == 1 else sys.stderr
        with suppress(OSError, ValueError):
            if stream is not None:  # as it is where it was closed before Python started
                stream.flush()

    flush()
    try:
        kept = os.dup(number)
    except OSError:
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    try:
        yield
    finally:
        flush()
        os.dup2(kept, number)
        os.close(kept)
        os.close(nowhere)


def _decode(contents: Contents, path: Path) -> Raster:
    if contents.format == "EXR":
        return Raster(_exr(path), None, contents)
    if contents.format == "HDR":
        return Raster(_hdr(path), None, contents)
    if contents.format == "JPEG":
        _check_jpeg(contents)
    if contents.tags:
        _check_tiff(contents.tags, contents.bits)
    if contents.format in ("PNG", "TIFF") and contents.bits > 8:
        values = _opencv(contents.pixels)
        if contents.tags and contents.bits < 16:
            values = values >> (16 - contents.bits)  # OpenCV fills packed values up with zeros
        if contents.tags and contents.tags.photometric == 0 and values.dtype == np.uint16:
            values = np.uint16(2**contents.bits - 1) - values  # 0 is white
        # OpenCV turns a TIFF as its tag says
        turn = contents.orientation if contents.format == "PNG" else 1
        return Raster(_turned(values, turn), None, contents)
    return _pillow(contents, path)


def _with_key(raster: Raster) -> Raster:
    """A raster whose transparent colour, if it has one, became an opacity."""
    key, values = raster.contents.key, raster.values
    if not key:
        return raster
    full = np.iinfo(values.dtype).max
    if values.dtype == np.uint8:  # grey of 1, 2 or 4 bits was scaled to 8
        key = tuple(value * 255 // (2**raster.contents.bits - 1) for value in key)
    differs = values.reshape(*values.shape[:2], -1) != np.array(key, values.dtype)
    opacity = differs.any(axis=2).astype(values.dtype) * full
    return Raster(np.dstack([values, opacity]), raster.indices, raster.contents)


# ---- Pillow: everything of 8 bits ---------------------------------------------------------------


def _pillow(contents: Contents, path: Path) -> Raster:
    try:
        with Image.open(io.BytesIO(contents.pixels), formats=[_PILLOW[contents.format]]) as file:
            _check_size(*file.size, path)
            file.load()
            image: Image.Image = file
            if contents.format != "TIFF":  # Pillow turns a TIFF when it loads it
                image = _exif_turned(file, contents.orientation)
            values, indices = _values(image, contents)
    except Image.DecompressionBombError:
        raise UserError(f"{path} has too many pixels; reduce it to 8192 × 4096") from None
    except Image.UnidentifiedImageError:
        raise DamagedError("its header is broken") from None
    except (UserError, UnsupportedError, DamagedError, MemoryError):
        raise
    except Exception as error:  # of whatever a damaged file makes Pillow do
        reason = (str(error).splitlines() or ["no message"])[0]
        raise DamagedError(reason) from None
    return Raster(values, indices, contents)


def _exif_turned(image: Image.Image, orientation: int) -> Image.Image:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.info["exif"] = exif.tobytes()
    return ImageOps.exif_transpose(image)


def _values(image: Image.Image, contents: Contents) -> tuple[NDArray, NDArray[np.uint8] | None]:
    indices = np.array(image) if image.mode == "P" else None
    if indices is not None and contents.format == "PNG" and indices.max() >= contents.entries:
        raise DamagedError(f"it uses colour {indices.max()} of a palette of {contents.entries}")
    if image.mode == "CMYK":
        image = _cmyk_to_rgb(image, contents.icc)
    elif image.mode in ("P", "PA"):
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode in ("YCbCr", "RGBX"):
        image = image.convert("RGB")
    if image.mode not in ("L", "LA", "RGB", "RGBA"):
        raise UnsupportedError(f"{contents.format} in colours {image.mode}")
    return np.array(image), indices


def _cmyk_to_rgb(image: Image.Image, icc: bytes) -> Image.Image:
    """By the file's profile; by the plain formula where it has none that works."""
    if icc:
        try:
            converted = ImageCms.profileToProfile(
                image,
                ImageCms.ImageCmsProfile(io.BytesIO(icc)),
                ImageCms.createProfile("sRGB"),
                outputMode="RGB",
                renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
                flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
            )
            if converted is not None:
                return converted
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            pass
    return image.convert("RGB")


def _check_jpeg(contents: Contents) -> None:
    """Decode strictly, at an eighth of the size: Pillow and OpenCV fill what is missing with grey.

    Raises:
        DamagedError: The decoder warned.
        UnsupportedError: 12 bits.
    """
    if contents.bits != 8:
        raise UnsupportedError(f"JPEG of {contents.bits} bits")
    try:
        _decode_strictly(contents.pixels)
    except ValueError as error:
        if "before marker 0xd9" in str(error):
            for jpeg in without_padding(contents.pixels):
                with suppress(ValueError):
                    return _decode_strictly(jpeg)
        raise DamagedError(str(error)) from None


def _decode_strictly(jpeg: bytes) -> None:
    colours = simplejpeg.decode_jpeg_header(jpeg)[2]
    simplejpeg.decode_jpeg(
        jpeg,
        "CMYK" if colours in ("CMYK", "YCCK") else "GRAY",
        fastdct=True,
        fastupsample=True,
        min_height=1,
        min_width=1,
        min_factor=1,
        strict=True,
    )


# ---- OpenCV and OpenEXR: more than 8 bits -------------------------------------------------------


def _check_tiff(tags: Tags, bits: int) -> None:
    """Refuse what Pillow and OpenCV do not decode, or decode wrongly."""
    if bits <= 8 and tags.kind == "uint":
        return
    depth = {"uint": (10, 12, 14, 16), "float": (32, 64)}.get(tags.kind, ())
    if bits not in depth:
        raise UnsupportedError(f"TIFF of {bits}-bit {tags.kind} values")
    if tags.photometric not in (0, 1, 2) or tags.samples not in (1, 3, 4):
        colours = {3: "a palette", 5: "CMYK", 6: "YCbCr", 8: "LAB"}.get(tags.photometric, "colours")
        raise UnsupportedError(f"TIFF of {bits} bits in {tags.samples} channels of {colours}")
    if tags.separate and tags.samples > 1:
        raise UnsupportedError(f"TIFF of {bits} bits with its channels in separate planes")


def _opencv(data: bytes) -> NDArray:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        image = None
    if image is None:
        raise DamagedError("its pixels cannot be decoded")
    if image.ndim == 3:
        image = image[..., [2, 1, 0, 3][: image.shape[2]]]
    return image.astype(np.float32) if image.dtype == np.float64 else image


def _hdr(path: Path) -> NDArray[np.float32]:
    """By its path: from memory, OpenCV would go by way of a file that it may leave behind."""
    try:
        image = cv2.imread(_name(path), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        image = None
    if image is None:
        raise DamagedError("its pixels cannot be decoded")
    return image[..., ::-1].astype(np.float32, copy=False)


def _exr(path: Path) -> NDArray[np.float32]:
    # late: few pictures need it
    import OpenEXR

    name = _name(path)
    try:
        with OpenEXR.File(name, header_only=True) as file:
            parts, header = len(file.parts), dict(file.header())
        _check_exr(header, parts, path)
        with OpenEXR.File(name, separate_channels=True) as file:
            channels = {
                key: np.array(channel.pixels, np.float32)
                for key, channel in file.channels().items()
            }
    except (UserError, UnsupportedError, DamagedError, MemoryError):
        raise
    except Exception as error:  # of whatever a damaged file makes OpenEXR do
        reason = (str(error).splitlines() or ["no message"])[0]
        raise DamagedError(reason.replace(name, "the file")) from None
    for names in ("RGBA", "RGB", "YA", "Y"):
        if all(name in channels for name in names):
            planes = [channels[name] for name in names]
            if len({plane.shape for plane in planes}) > 1:
                raise UnsupportedError("EXR with channels of several resolutions")
            return planes[0] if len(planes) == 1 else np.dstack(planes)
    raise UnsupportedError(f"EXR without channels R, G, B or Y (it has {', '.join(channels)})")


def _check_exr(header: dict, parts: int, path: Path) -> None:
    if parts > 1:
        raise UnsupportedError(f"EXR in {parts} parts")
    if "deep" in str(header.get("type", "")).lower():
        raise UnsupportedError("EXR of deep samples")
    names = {channel.name for channel in header.get("channels", ())}
    if names & {"RY", "BY"} and not names >= set("RGB"):
        raise UnsupportedError("EXR in luminance and chroma (channels Y, RY and BY)")
    windows = [header.get(name) for name in ("dataWindow", "displayWindow")]
    if windows[0] is None or windows[1] is None:
        raise DamagedError("its header has no size")
    (left, top), (right, bottom) = (tuple(map(int, corner)) for corner in windows[0])
    _check_size(right - left + 1, bottom - top + 1, path)
    if not all(np.array_equal(a, b) for a, b in zip(*windows, strict=True)):
        raise UnsupportedError("EXR that holds only a part (data window) of its picture")


def _name(path: Path) -> str:
    """A path for libraries that take only UTF-8."""
    name = str(path)
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UserError(f"{name!r} is no UTF-8 name; rename the file") from None
    return name


# ---- turning ------------------------------------------------------------------------------------


def _turned(values: NDArray, orientation: int) -> NDArray:
    """Values (H, W, ...) as EXIF's orientation from 1 to 8 says that they are shown."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    flip_rows = orientation in (3, 4, 7, 8)
    flip_columns = orientation in (2, 3, 6, 7)
    if flip_rows:
        values = values[::-1]
    if flip_columns:
        values = values[:, ::-1]
    return np.ascontiguousarray(values)
