"""JPEG: its tables and scans, apart from its metadata."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import replace

from pipeline.pictures.contents import XMP_HEADER, Contents, DamagedError, read_orientation

MOST_SCANS = 100
"""Scans of a progressive JPEG; files with thousands of them keep a decoder busy for hours."""

MOST_ZEROS = 3
"""Zeros at the end of a scan: 0xFF is stored as 0xFF00, and a value or two of 0 may follow."""

_MARKER = re.compile(rb"\xff+([\x01-\xfe])")
_AFTER_SCAN = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")
"""0xFF00 is a value and D0 to D7 are restarts: both belong to a scan."""

_SOF = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
_TABLES = (*_SOF, 0xC4, 0xCC, 0xDB, 0xDC, 0xDD)

_EXTENDED = re.compile(
    rb"http://ns\.adobe\.com/xmp/extension/\0(?P<packet>.{32}).{4}(?P<offset>.{4})", re.S
)
"""Part of an XMP packet of more than 64 kB: the packet's digest, its length, the part's offset."""

_APP0, _APP1, _APP2, _APP14, _SOI, _EOI, _SOS = 0xE0, 0xE1, 0xE2, 0xEE, 0xD8, 0xD9, 0xDA


def split_jpeg(data: bytes) -> Contents:
    """Take a JPEG apart.

    Raises:
        DamagedError: It ends early, or holds no picture.
    """
    kept, found = [b"\xff\xd8"], Contents("JPEG", lossy=True)
    orientation: int | None = None
    packets: list[bytes] = []
    extended: dict[bytes, dict[int, bytes]] = {}
    profile: dict[int, bytes] = {}
    place, scans = 2, 0
    while True:
        marker = _MARKER.search(data, place)
        if marker is None:
            raise DamagedError("it ends before its end marker (EOI)")
        code, place = marker[1][0], marker.end()
        if code == _EOI:
            break
        if code == _SOI or code == 0x01 or 0xD0 <= code <= 0xD7:
            continue
        size = int.from_bytes(data[place : place + 2], "big")
        end = place + size
        if size < 2 or end > len(data):
            raise DamagedError("it ends within its header")
        body = data[place + 2 : end]
        keep = code in _TABLES or code == _SOS
        if code in _SOF:
            if len(body) < 6:
                raise DamagedError("its frame header is too short")
            bits, height, width = struct.unpack(">BHH", body[:5])
            found = replace(found, bits=bits, width=width, height=height)
        elif code == _SOS:
            scans += 1
            if scans > MOST_SCANS:
                raise DamagedError(f"it has more than {MOST_SCANS} scans")
            after = _AFTER_SCAN.search(data, end)
            if after is None:
                raise DamagedError("it ends before its end marker (EOI)")
            end = after.start()
        elif code == _APP0:
            keep = body.startswith(b"JFIF\0") and len(body) >= 14
        elif code == _APP14:
            keep = body.startswith(b"Adobe") and len(body) >= 12
        elif code == _APP1 and body.startswith(b"Exif\0"):
            orientation = orientation or read_orientation(body)
        elif code == _APP1 and body.startswith(XMP_HEADER):
            packets.append(body[len(XMP_HEADER) :])
        elif code == _APP1 and (part := _EXTENDED.match(body)):
            offset = int.from_bytes(part["offset"], "big")
            extended.setdefault(part["packet"], {})[offset] = body[part.end() :]
        elif code == _APP2 and body.startswith(b"ICC_PROFILE\0") and len(body) > 14:
            profile[body[12]] = body[14:]
        if keep:
            kept.append(b"\xff" + bytes([code]) + data[place:end])
        place = end
    if not scans or not found.width or not found.height:
        raise DamagedError("it has no picture")
    packets += [_joined(parts) for parts in extended.values()]
    return replace(
        found,
        pixels=b"".join([*kept, b"\xff\xd9"]),
        orientation=orientation or 1,
        xmp=tuple(packets),
        icc=_joined(profile),
    )


def _joined(parts: dict[int, bytes]) -> bytes:
    """Parts by their number or offset, in order."""
    return b"".join(parts[place] for place in sorted(parts))


def without_padding(jpeg: bytes) -> Iterator[bytes]:
    """A JPEG of `Contents.pixels` without zeros before its end marker, as some cameras write.

    The last values of a scan may be zeros as well, and belong to it: up to `MOST_ZEROS` are kept.
    """
    scan = jpeg[:-2].rstrip(b"\0")
    for kept in range(min(MOST_ZEROS, len(jpeg) - 2 - len(scan)) + 1):
        yield scan + bytes(kept) + jpeg[-2:]
