"""Image files of an export: the stored WebP, or PNG and JPEG for tools without WebP.

A repeated export writes only missing or changed files. A WebP is compared with the bytes of the
shard. PNG and JPEG carry a comment with the hash of their source and the encoding; a file with this
comment at its start and the format's end marker at its end is complete and up to date.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipeline.pictures.gpano import Window, gpano_xmp
from pipeline.shards.reader import decode_image
from pipeline.storage import write_atomic

ImageFormat = Literal["webp", "png", "jpg"]
FORMATS: tuple[ImageFormat, ...] = get_args(ImageFormat)

JPEG_QUALITY = 95
"""With 4:4:4 chroma, because masks end at edges of colour."""

_PNG_LEVEL = 1
"""zlib level: 0.7 CPU-seconds at 4K; level 6 takes 2.0 and saves a seventh of the bytes."""

_ENCODING = {"png": "PNG", "jpg": f"JPEG {JPEG_QUALITY} 4:4:4"}
_END_MARKER = {"png": b"IEND\xaeB\x60\x82", "jpg": b"\xff\xd9"}
_HEAD_BYTES = 4096
"""The comment lies within the first bytes of a file."""


def is_webp(data: bytes) -> bool:
    """Whether the bytes have a WebP header with their own length.

    >>> is_webp(b"RIFF" + (4).to_bytes(4, "little") + b"WEBP")
    True
    >>> is_webp(b"<html></html>")
    False
    """
    length = int.from_bytes(data[4:8], "little") + 8
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP" and len(data) == length


def write_image(path: Path, webp: bytes, image_format: ImageFormat) -> bool:
    """Write the image of a row, unless the file exists and is up to date.

    Args:
        path: The output file.
        webp: The row's encoded image.
        image_format: "webp" (the same bytes), "png" (lossless) or "jpg".

    Returns:
        Whether the file was written.

    Raises:
        UserError: The image cannot be decoded.
        OSError: The disk is full or not writable; no partial file is left.
    """
    if image_format == "webp":
        if _has_bytes(path, webp):
            return False
        write_atomic(path, webp)
        return True
    comment = f"{_ENCODING[image_format]} of {hashlib.sha256(webp).hexdigest()}"
    if _is_complete(path, comment.encode(), _END_MARKER[image_format]):
        return False
    picture = Image.fromarray(decode_image({"bytes": webp, "path": path.stem})[..., :3])
    write_atomic(path, _encode(picture, image_format, comment))
    return True


def encode_jpeg(image: NDArray[np.uint8]) -> bytes:
    """JPEG of a picture (H, W, 3) that is no panorama."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(
        file, "jpeg", quality=JPEG_QUALITY, subsampling="4:4:4"
    )
    return file.getvalue()


def _encode(picture: Image.Image, image_format: Literal["png", "jpg"], comment: str) -> bytes:
    xmp = gpano_xmp(Window(0, 0, *picture.size), *picture.size)
    file = io.BytesIO()
    if image_format == "png":
        text = PngInfo()
        text.add_text("Comment", comment)
        text.add_itxt("XML:com.adobe.xmp", xmp.decode())
        picture.save(file, "png", compress_level=_PNG_LEVEL, pnginfo=text)
    else:
        quality = {"quality": JPEG_QUALITY, "subsampling": "4:4:4"}
        picture.save(file, "jpeg", **quality, comment=comment, xmp=xmp)
    return file.getvalue()


def _has_bytes(path: Path, data: bytes) -> bool:
    try:
        return path.stat().st_size == len(data) and path.read_bytes() == data
    except FileNotFoundError:
        return False


def _is_complete(path: Path, comment: bytes, end: bytes) -> bool:
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
            file.seek(-min(len(end), len(head)), 2)
            return comment in head and file.read() == end
    except FileNotFoundError:
        return False
