"""Image files of an export: the stored WebP as it is, or PNG and JPEG for readers without WebP.

A file is written once. When an export runs again, a WebP is compared with the bytes in the shard.
PNG and JPEG would have to be encoded again for that; they carry a comment that says what they were
made from and how. With it at the head and the format's last bytes at the end, a file is whole.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Literal, get_args

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipeline.shards.reader import decode_image
from pipeline.storage import write_atomic

ImageFormat = Literal["webp", "png", "jpg"]
FORMATS: tuple[ImageFormat, ...] = get_args(ImageFormat)

JPEG_QUALITY = 95
"""With colours at full resolution (4:4:4): masks end at edges of colour."""

_PNG_LEVEL = 1
"""zlib's quickest: 0.7 CPU-seconds at 4K, against 2.0 at level 6 for a seventh fewer bytes."""

_HOW = {"png": "PNG", "jpg": f"JPEG {JPEG_QUALITY} 4:4:4"}
_END = {"png": b"IEND\xaeB\x60\x82", "jpg": b"\xff\xd9"}
_HEAD = 512
"""Bytes at the head of a file within which our comment lies."""


def is_webp(data: bytes) -> bool:
    """Whether bytes look like a WebP file of the length that its header gives.

    >>> is_webp(b"RIFF" + (4).to_bytes(4, "little") + b"WEBP")
    True
    >>> is_webp(b"<html></html>")
    False
    """
    length = int.from_bytes(data[4:8], "little") + 8
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP" and len(data) == length


def write_image(path: Path, source: bytes, image_format: ImageFormat) -> bool:
    """Write a row's picture, unless the file is there already.

    Args:
        path: Where to.
        source: The bytes of the row's `image`, a WebP.
        image_format: "webp" (the bytes as they are), "png" (without loss) or "jpg".

    Returns:
        Whether it had to be written.

    Raises:
        UserError: The picture cannot be decoded.
        OSError: The disk is full or not writable; no partial file is left behind.
    """
    if image_format == "webp":
        if _holds(path, source):
            return False
        write_atomic(path, source)
        return True
    comment = f"{_HOW[image_format]} of {hashlib.sha256(source).hexdigest()}"
    if _is_whole(path, comment.encode(), _END[image_format]):
        return False
    picture = Image.fromarray(decode_image({"bytes": source, "path": path.stem})[..., :3])
    write_atomic(path, _encode(picture, image_format, comment))
    return True


def _encode(picture: Image.Image, image_format: Literal["png", "jpg"], comment: str) -> bytes:
    file = io.BytesIO()
    if image_format == "png":
        text = PngInfo()
        text.add_text("Comment", comment)
        picture.save(file, "png", compress_level=_PNG_LEVEL, pnginfo=text)
    else:
        picture.save(file, "jpeg", quality=JPEG_QUALITY, subsampling="4:4:4", comment=comment)
    return file.getvalue()


def _holds(path: Path, data: bytes) -> bool:
    try:
        return path.stat().st_size == len(data) and path.read_bytes() == data
    except FileNotFoundError:
        return False


def _is_whole(path: Path, comment: bytes, end: bytes) -> bool:
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
            file.seek(-min(len(end), len(head)), 2)
            return comment in head and file.read() == end
    except FileNotFoundError:
        return False
