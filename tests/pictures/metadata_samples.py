"""The panorama with its metadata in the many places where programs write them."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from PIL import Image

from tests.pictures.samples import (
    QUARTER,
    Maker,
    encoded,
    exif,
    gpano,
    panorama,
    stored_for,
    tiff,
    with_chunk,
)

XAP = b"http://ns.adobe.com/xap/1.0/\0"
EXTENSION = b"http://ns.adobe.com/xmp/extension/\0"
KEYWORD = b"XML:com.adobe.xmp\0"

CROP = gpano(ProjectionType="equirectangular", **QUARTER)
NOTHING = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>'


def jpeg(*segments: bytes, turned: bool = False) -> Maker:
    """A JPEG with APP1 segments of these bytes."""
    app1 = b"".join(b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body for body in segments)

    def make(path: Path) -> None:
        image = stored_for(3) if turned else panorama()
        data = encoded("JPEG", image, quality=100, subsampling=0)
        path.write_bytes(data[:2] + app1 + data[2:])

    return make


def png(name: bytes, data: bytes, turned: bool = False) -> Maker:
    """A PNG with one more chunk."""
    image = stored_for(3) if turned else panorama()
    return lambda path: path.write_bytes(with_chunk(name, data)(encoded("PNG", image)))


def extended(xmp: bytes) -> tuple[bytes, ...]:
    """Segments that hold a packet in two parts, the second one first."""
    half = len(xmp) // 2
    return tuple(
        EXTENSION + b"0123456789ABCDEF" * 2 + struct.pack(">II", len(xmp), place) + text
        for place, text in ((half, xmp[half:]), (0, xmp[:half]))
    )


def raw_profile(name: bytes, content: bytes) -> bytes:
    """A zTXt chunk as ImageMagick writes profiles."""
    digits = content.hex().encode()
    lines = b"\n".join(digits[place : place + 72] for place in range(0, len(digits), 72))
    text = b"\n%s\n%8d\n%s\n" % (name, len(content), lines)
    return b"Raw profile type " + name + b"\0\0" + zlib.compress(text)


def tag_700(type: int) -> Maker:
    """A TIFF with the packet in a tag of this type."""
    return tiff(panorama(), photometric="rgb", extratags=[(700, type, len(CROP), CROP, True)])


def exif_of_type(type: int, value: bytes) -> bytes:
    """An EXIF block whose orientation has another type; a fraction of 3/1 stands at byte 26."""
    entry = struct.pack(">HHHI", 1, 0x0112, type, 1) + value
    return b"Exif\0\0MM\0*\0\0\0\x08" + entry + bytes(4) + struct.pack(">II", 3, 1)


def other_exif() -> bytes:
    """An EXIF block with a maker and no orientation."""
    tags = Image.Exif()
    tags[0x010F] = "maker"
    return tags.tobytes()


CROPS: dict[str, Maker] = {
    "JPEG, two packets": jpeg(XAP + CROP, XAP + NOTHING),
    "JPEG, two packets, the second": jpeg(XAP + NOTHING, XAP + CROP),
    "JPEG, extended XMP": jpeg(XAP + NOTHING, *extended(CROP)),
    "JPEG, UTF-16": jpeg(XAP + CROP.decode().encode("utf-16")),
    "JPEG, UTF-16 without a byte order mark": jpeg(XAP + CROP.decode().encode("utf-16-be")),
    "PNG, iTXt": png(b"iTXt", KEYWORD + bytes(4) + CROP),
    "PNG, compressed iTXt": png(b"iTXt", KEYWORD + b"\1\0\0\0" + zlib.compress(CROP)),
    "PNG, tEXt": png(b"tEXt", KEYWORD + CROP),
    "PNG, zTXt": png(b"zTXt", KEYWORD + b"\0" + zlib.compress(CROP)),
    "PNG, raw profile": png(b"zTXt", raw_profile(b"xmp", CROP)),
    "PNG, raw profile of APP1": png(b"zTXt", raw_profile(b"APP1", XAP + CROP)),
    "TIFF, bytes": tag_700(1),
    "TIFF, text": tag_700(2),
    "TIFF, undefined": tag_700(7),
}
"""Files whose metadata say that they show `QUARTER` of the sphere."""

EXIF = exif(3).tobytes()

TURNED: dict[str, tuple[str, Maker]] = {
    "JPEG whose second EXIF has no orientation": ("a.jpg", jpeg(EXIF, other_exif(), turned=True)),
    "JPEG whose first EXIF has no orientation": ("a.jpg", jpeg(other_exif(), EXIF, turned=True)),
    "JPEG whose orientation is a byte": (
        "a.jpg",
        jpeg(exif_of_type(1, b"\3\0\0\0"), turned=True),
    ),
    "JPEG whose orientation is a fraction": (
        "a.jpg",
        jpeg(exif_of_type(5, struct.pack(">I", 26)), turned=True),
    ),
    "PNG with EXIF in a raw profile": (
        "a.png",
        png(b"zTXt", raw_profile(b"exif", EXIF), turned=True),
    ),
    "PNG with EXIF in a raw profile of APP1": (
        "a.png",
        png(b"zTXt", raw_profile(b"APP1", EXIF), turned=True),
    ),
    "PNG with an orientation in XMP": (
        "a.png",
        png(b"iTXt", KEYWORD + bytes(4) + b'<a tiff:Orientation="3"/>', turned=True),
    ),
}
"""Files that are read as the panorama after half a turn."""
