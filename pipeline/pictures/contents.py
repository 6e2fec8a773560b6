"""The parts of a picture's file, and what is said of files that have none."""

from __future__ import annotations

import codecs
from dataclasses import dataclass

from PIL import Image

ORIENTATION = 274
"""EXIF's and TIFF's tag."""

XMP_HEADER = b"http://ns.adobe.com/xap/1.0/\0"
"""Before an XMP packet in a segment of a JPEG."""

_ENCODINGS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (b"<\0\0\0", "utf-32-le"),
    (b"\0\0\0<", "utf-32-be"),
    (b"<\0", "utf-16-le"),
    (b"\0<", "utf-16-be"),
)
"""How XMP packets start that are not UTF-8."""


class DamagedError(Exception):
    """The file is not what its format requires; the text is a reason for a message."""


class UnsupportedError(Exception):
    """The file is whole, but nothing here reads its kind.

    Args:
        kind: What it is: "a GIF picture".
        remedy: What to do, unless converting it is what helps.
    """

    def __init__(self, kind: str, remedy: str = "") -> None:
        super().__init__(kind)
        self.remedy = remedy


@dataclass(frozen=True)
class Tags:
    """What decides how a TIFF is decoded.

    Attributes:
        samples: Channels.
        kind: "uint", "int" or "float".
        separate: Whether each channel is stored as a plane.
        photometric: 0: 0 is white, 1: 0 is black, 2: RGB, 3: palette, 5: CMYK, 6: YCbCr, 8: LAB.
    """

    samples: int
    kind: str
    separate: bool
    photometric: int


@dataclass(frozen=True)
class Contents:
    """A picture's file in its parts.

    Attributes:
        format: JPEG, PNG, WebP, TIFF, BMP, EXR or HDR.
        width, height: Pixels as stored; 0 where only the decoder knows.
        bits: Of a channel as the file declares them: 16 in a PNG may have an sBIT of 12.
        pixels: The file without metadata (all of it for formats whose decoders ignore metadata).
        orientation: EXIF's, 1 to 8; 1 also where it is nonsense.
        xmp: Packets as stored; empty where there are none.
        icc: The colour profile; empty where there is none.
        frames: Pictures in the file, of which the first is read.
        entries: Of a PNG's palette; 0 where it is missing.
        key: The grey value or the colour of a PNG, of `bits` bits as stored, that is transparent.
        notes: What a person should know about the file: "kind: details".
        lossy: Whether values near an edge may differ from those that were saved.
        tags: Of a TIFF.
    """

    format: str
    width: int = 0
    height: int = 0
    bits: int = 8
    pixels: bytes = b""
    orientation: int = 1
    xmp: tuple[bytes, ...] = ()
    icc: bytes = b""
    frames: int = 1
    entries: int = 0
    key: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    lossy: bool = False
    tags: Tags | None = None


def read_orientation(exif: bytes) -> int | None:
    """The orientation of an EXIF block, 1 to 8; None where it has none or it is nonsense."""
    try:
        tags = Image.Exif()
        tags.load(exif)
        return in_range(tags.get(ORIENTATION))
    except Exception:  # nonsense in EXIF never stops a picture
        return None


def in_range(orientation: object) -> int | None:
    """An orientation from 1 to 8; None where it is anything else.

    It is a SHORT by the standard. Some programs write a BYTE, which arrives as bytes, or a
    RATIONAL, which arrives as a fraction.
    """
    if isinstance(orientation, bytes | tuple) and orientation:
        orientation = orientation[0]
    return next((number for number in range(1, 9) if number == orientation), None)


def xmp_text(packet: bytes) -> str:
    """The text of an XMP packet in UTF-8, 16 or 32; what is none becomes question marks."""
    encoding = next((name for start, name in _ENCODINGS if packet.startswith(start)), "utf-8")
    return packet.decode(encoding, "replace")
