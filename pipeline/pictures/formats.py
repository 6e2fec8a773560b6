"""What a file is, by its content: its pixels apart from its metadata.

Metadata is cut out before a decoder sees the file, and read here on its own. A decoder therefore
never stops at nonsense in EXIF, XMP or colour profiles, and a damaged picture is never blamed on
them.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace

from pipeline.pictures.contents import (
    Contents,
    DamagedError,
    UnsupportedError,
    read_orientation,
)
from pipeline.pictures.tiff import split_tiff

MOST_SCANS = 100
"""Scans of a progressive JPEG; files with thousands of them keep a decoder busy for hours."""

MOST_METADATA = 16 * 2**20
"""Bytes of a compressed colour profile or XMP packet after decompression."""

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
        return _jpeg(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png(data)
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


# ---- JPEG ---------------------------------------------------------------------------------------

_MARKER = re.compile(rb"\xff+([\x01-\xfe])")
_AFTER_SCAN = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")
"""0xFF00 is a value and D0 to D7 are restarts: both belong to a scan."""

_SOF = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
_TABLES = (*_SOF, 0xC4, 0xCC, 0xDB, 0xDC, 0xDD)
_APP0, _APP1, _APP2, _APP14, _SOI, _EOI, _SOS = 0xE0, 0xE1, 0xE2, 0xEE, 0xD8, 0xD9, 0xDA


def _jpeg(data: bytes) -> Contents:
    kept, found, profile = [b"\xff\xd8"], Contents("JPEG", lossy=True), {}
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
            found = replace(found, orientation=read_orientation(body))
        elif code == _APP1 and body.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
            found = replace(found, xmp=body[29:])
        elif code == _APP2 and body.startswith(b"ICC_PROFILE\0") and len(body) > 14:
            profile[body[12]] = body[14:]
        if keep:
            kept.append(b"\xff" + bytes([code]) + data[place:end])
        place = end
    if not scans or not found.width or not found.height:
        raise DamagedError("it has no picture")
    icc = b"".join(profile[number] for number in sorted(profile))
    return replace(found, pixels=b"".join([*kept, b"\xff\xd9"]), icc=icc)


def without_padding(jpeg: bytes) -> bytes:
    """A JPEG of `Contents.pixels` without zeros before its end marker, as some cameras write."""
    return jpeg[:-2].rstrip(b"\0") + jpeg[-2:]


# ---- PNG ----------------------------------------------------------------------------------------


def _png(data: bytes) -> Contents:
    kept, found = [data[:8]], Contents("PNG")
    for kind, body, is_good in _png_chunks(data):
        if kind in (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS"):
            if not is_good:
                raise DamagedError(f"the checksum of its {kind.decode()} chunk is wrong")
            length = len(body).to_bytes(4, "big")
            kept += [length, kind, body, zlib.crc32(kind + body).to_bytes(4, "big")]
        if kind == b"IHDR":
            if len(body) != 13:
                raise DamagedError("its header has a wrong length")
            width, height, bits = struct.unpack(">IIB", body[:9])
            found = replace(found, width=width, height=height, bits=bits)
        elif kind == b"sBIT" and found.bits == 16 and body and 8 <= max(body) <= 16:
            found = replace(found, bits=max(body))
        elif kind == b"eXIf":
            found = replace(found, orientation=read_orientation(b"Exif\0\0" + body))
        elif kind == b"iTXt" and body.startswith(b"XML:com.adobe.xmp\0"):
            found = replace(found, xmp=_itxt(body))
        elif kind == b"iCCP":
            found = replace(found, icc=_inflate(body.partition(b"\0")[2][1:]))
        elif kind == b"acTL" and len(body) >= 4:
            found = replace(found, frames=max(1, int.from_bytes(body[:4], "big")))
        elif kind == b"IEND":
            return replace(found, pixels=b"".join(kept))
    raise DamagedError("it ends before its last chunk (IEND)")


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """Name and bytes of each chunk, and whether its checksum is right."""
    place = 8
    while place + 12 <= len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        end = place + 12 + size
        if end > len(data):
            return
        kind, body = data[place + 4 : place + 8], data[place + 8 : end - 4]
        yield (
            kind,
            body,
            zlib.crc32(data[place + 4 : end - 4]).to_bytes(4, "big") == data[end - 4 : end],
        )
        place = end


def _itxt(body: bytes) -> bytes:
    """The text of an iTXt chunk: keyword, 0, compressed?, method, language, 0, translation, 0."""
    rest = body.partition(b"\0")[2]
    text = rest[2:].split(b"\0", 2)[-1]
    return _inflate(text) if rest[:1] == b"\1" else text


def _inflate(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, MOST_METADATA)
    except zlib.error:
        return b""


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
            exif = body if body.startswith(b"Exif\0") else b"Exif\0\0" + body
            found = replace(found, orientation=read_orientation(exif))
        elif kind == b"XMP ":
            found = replace(found, xmp=body)
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
