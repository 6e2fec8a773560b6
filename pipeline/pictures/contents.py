"""The parts of a picture's file, and what is said of files that have none."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

ORIENTATION = 274
"""EXIF's and TIFF's tag."""


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
        xmp, icc: Packets as stored; empty where there are none.
        frames: Pictures in the file, of which the first is read.
        lossy: Whether values near an edge may differ from those that were saved.
        tags: Of a TIFF.
    """

    format: str
    width: int = 0
    height: int = 0
    bits: int = 8
    pixels: bytes = b""
    orientation: int = 1
    xmp: bytes = b""
    icc: bytes = b""
    frames: int = 1
    lossy: bool = False
    tags: Tags | None = None


def read_orientation(exif: bytes) -> int:
    """The orientation of an EXIF block, 1 to 8; 1 where it is nonsense."""
    try:
        tags = Image.Exif()
        tags.load(exif)
        return in_range(tags.get(ORIENTATION, 1))
    except Exception:  # nonsense in EXIF never stops a picture
        return 1


def in_range(orientation: object) -> int:
    """An orientation from 1 to 8, which is 1 unless it is given as such."""
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1
