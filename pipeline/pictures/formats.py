"""What a file is, by its content: its pixels apart from its metadata.

Metadata is cut out before a decoder sees the file, and read here on its own. A decoder therefore
never stops at nonsense in EXIF, XMP or colour profiles, and a damaged picture is never blamed on
them.
"""

from __future__ import annotations

import re
from dataclasses import replace

from pipeline.pictures.contents import (
    Contents,
    DamagedError,
    UnsupportedError,
    read_orientation,
)
from pipeline.pictures.jpeg import split_jpeg
from pipeline.pictures.png import split_png
from pipeline.pictures.tiff import split_tiff

_REFUSED = (
    (re.compile(rb"GIF8[79]a"), "a GIF picture"),
    (re.compile(rb".{4}ftyp(avif|avis)", re.S), "an AVIF picture"),
    (re.compile(rb".{4}ftyp(heic|heix|hevc|heim|heis|mif1|msf1)", re.S), "a HEIC picture"),
    (re.compile(rb".{4}ftyp", re.S), "an MP4 video"),
    (re.compile(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", re.S), "a JPEG 2000 picture"),
    (re.compile(rb"\0\0\0\x0cJXL |\xff\x0a", re.S), "a JPEG XL picture"),
    (re.compile(rb"8BPS"), "a Photoshop file"),
    (re.compile(rb"%PDF"), "a PDF file"),
    (re.compile(rb"P[1-7Ff]\s"), "a PNM picture"),
    (re.compile(rb"PK\x03\x04"), "a ZIP archive"),
    (re.compile(rb"\x1f\x8b"), "a gzip archive"),
    (re.compile(rb"version https://git-lfs"), "a Git LFS pointer"),
    (re.compile(rb"\s*<(!DOCTYPE|html)", re.I), "an HTML page"),
    (re.compile(rb"\s*(<\?xml|<svg)", re.I), "an XML or SVG file"),
)
"""Formats that people try and that are not read, so that the message can name them."""

_REMEDIES = {"a Git LFS pointer": "run git lfs pull", "an HTML page": "get the file again"}


def split(data: bytes) -> Contents:
    """Take a file apart.

    Raises:
        DamagedError: It ends early, a checksum is wrong, or its structure is broken.
        UnsupportedError: It is no picture, or one of a format that is not read.
    """
    if data.startswith(b"\xff\xd8"):
        return split_jpeg(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return split_png(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return split_tiff(data)
    if data.startswith(b"BM"):
        return Contents("BMP", pixels=data)
    if data.startswith(b"\x76\x2f\x31\x01"):
        return Contents("EXR", bits=32)
    if data.startswith((b"#?RADIANCE", b"#?RGBE")):
        return _hdr(data)
    for pattern, name in _REFUSED:
        if pattern.match(data):
            raise UnsupportedError(name, _REMEDIES.get(name, ""))
    if not data:
        raise DamagedError("it is empty")
    raise UnsupportedError("no picture", "name a picture")


# ---- WebP ---------------------------------------------------------------------------------------


def _webp(data: bytes) -> Contents:
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data):
        raise DamagedError(f"it has {len(data)} of {end} bytes")
    found, place, frames = Contents("WebP", pixels=data[:end]), 12, 0
    while place + 8 <= end:
        kind, size = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
        body = data[place + 8 : place + 8 + size]
        place += 8 + size + size % 2
        if kind == b"EXIF":
            found = replace(found, orientation=read_orientation(body) or 1)
        elif kind == b"XMP ":
            found = replace(found, xmp=(*found.xmp, body))
        elif kind == b"ICCP":
            found = replace(found, icc=body)
        elif kind == b"ANMF":
            frames += 1
            found = replace(found, lossy=found.lossy or b"VP8 " in body[:64])
        elif kind == b"VP8 ":
            found = replace(found, lossy=True)
    return replace(found, frames=max(1, frames))


# ---- HDR ----------------------------------------------------------------------------------------


def _hdr(data: bytes) -> Contents:
    size = re.search(rb"\n([+-][XY]) +(\d+) +([+-][XY]) +(\d+)\n", data[:65536])
    if size is None:
        raise DamagedError("its header has no size")
    if (size[1], size[3]) != (b"-Y", b"+X"):
        raise UnsupportedError(f"an HDR picture stored as {size[1].decode()} {size[3].decode()}")
    if b"FORMAT=32-bit_rle_xyze" in data[: size.start()]:
        raise UnsupportedError("an HDR picture in XYZ colours")
    return Contents("HDR", int(size[4][:9]), int(size[2][:9]), bits=32)
