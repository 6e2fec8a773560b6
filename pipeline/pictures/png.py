"""PNG: the chunks that decoders need, apart from its metadata."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace

from pipeline.pictures.contents import (
    XMP_HEADER,
    Contents,
    DamagedError,
    UnsupportedError,
    read_orientation,
    xmp_text,
)

MOST_METADATA = 16 * 2**20
"""Bytes of a compressed colour profile or XMP packet after decompression."""

_GREY, _RGB, _PALETTE = 0, 2, 3
"""Types of colours."""

_HDR_CURVES = {16: "PQ", 18: "HLG"}
"""Transfer characteristics of ITU-T H.273."""

_XMP_ORIENTATION = re.compile(r"""tiff:Orientation(?:\s*=\s*["']|>)\s*([1-8])\b""")


def split_png(data: bytes) -> Contents:
    """Take a PNG apart.

    Raises:
        DamagedError: It ends early, or the checksum of a chunk that matters is wrong.
        UnsupportedError: Its values are encoded for HDR screens.
    """
    kept, found = [data[:8]], Contents("PNG")
    text = _Text()
    orientation: int | None = None
    curve: dict[bytes, bytes] = {}
    stored, colours = 8, _RGB
    for kind, body, is_good in _png_chunks(data):
        if kind in (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS"):
            if not is_good:
                raise DamagedError(f"the checksum of its {kind.decode()} chunk is wrong")
            if kind != b"tRNS" or colours == _PALETTE:  # decoders do not agree on other tRNS
                length = len(body).to_bytes(4, "big")
                kept += [length, kind, body, zlib.crc32(kind + body).to_bytes(4, "big")]
        if kind == b"IHDR":
            if len(body) != 13:
                raise DamagedError("its header has a wrong length")
            width, height, stored, colours = struct.unpack(">IIBB", body[:10])
            found = replace(found, width=width, height=height, bits=stored)
        elif kind == b"PLTE":
            found = replace(found, entries=len(body) // 3)
        elif kind == b"tRNS" and len(body) == {_GREY: 2, _RGB: 6}.get(colours):
            key = struct.unpack(f">{len(body) // 2}H", body)
            found = replace(found, key=tuple(value % 2**stored for value in key))
        elif kind in (b"gAMA", b"sRGB", b"cICP"):
            curve[kind] = body
        elif kind == b"sBIT" and stored == 16 and body and 8 <= max(body) <= 16:
            found = replace(found, bits=max(body))
        elif kind == b"eXIf":
            orientation = orientation or read_orientation(body)
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            text.add(kind, body)
        elif kind == b"iCCP":
            found = replace(found, icc=_inflate(body.partition(b"\0")[2][1:]))
        elif kind == b"acTL" and len(body) >= 4:
            found = replace(found, frames=max(1, int.from_bytes(body[:4], "big")))
        elif kind == b"IEND":
            return replace(
                found,
                pixels=b"".join(kept),
                orientation=orientation or text.orientation or 1,
                xmp=tuple(text.packets),
                notes=_notes_on_curve(curve, bool(found.icc)),
            )
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


def _notes_on_curve(chunks: dict[bytes, bytes], has_profile: bool) -> tuple[str, ...]:
    """What is to be said of a curve that is not sRGB's, by PNG's order of precedence.

    Raises:
        UnsupportedError: It is one for HDR screens.
    """
    code = chunks.get(b"cICP", b"")[1:2]
    if code and code[0] in _HDR_CURVES:
        raise UnsupportedError(
            f"a PNG picture for HDR screens ({_HDR_CURVES[code[0]]})",
            "convert it to sRGB, or to EXR",
        )
    if code == b"\x08":
        return ("linear: cICP says that values are linear light; they are read as sRGB",)
    gamma = int.from_bytes(chunks.get(b"gAMA", b""), "big") / 100_000
    if code or has_profile or b"sRGB" in chunks or not gamma or abs(gamma - 1 / 2.2) < 0.15:
        return ()
    return (f"gamma: gAMA gives {gamma:g}, which is not applied; values are read as sRGB",)


class _Text:
    """What text chunks hold of EXIF and XMP.

    Attributes:
        packets: Of XMP.
    """

    def __init__(self) -> None:
        self.packets: list[bytes] = []
        self._exif: int | None = None
        self._room = MOST_METADATA

    @property
    def orientation(self) -> int | None:
        """EXIF's, or XMP's where EXIF has none."""
        found = (_XMP_ORIENTATION.search(xmp_text(packet)) for packet in self.packets)
        return self._exif or next((int(one[1]) for one in found if one), None)

    def add(self, kind: bytes, body: bytes) -> None:
        """Read a chunk if its keyword names EXIF or XMP."""
        keyword, _, rest = body.partition(b"\0")
        profile = keyword.lower().removeprefix(b"raw profile type ")
        if profile not in (b"xml:com.adobe.xmp", b"xmp", b"exif", b"app1") or self._room <= 0:
            return
        content = _text(kind, rest)
        self._room -= len(content)
        if profile != b"xml:com.adobe.xmp":
            content = _raw_profile(content)
        if profile in (b"exif", b"app1") and not content.startswith(XMP_HEADER):
            self._exif = self._exif or read_orientation(content)
        else:
            self.packets.append(content.removeprefix(XMP_HEADER))


def _text(kind: bytes, rest: bytes) -> bytes:
    """The text of a tEXt, zTXt or iTXt chunk, from what follows its keyword."""
    if kind == b"tEXt":
        return rest
    if kind == b"zTXt":  # method, text
        return _inflate(rest[1:])
    text = rest[2:].split(b"\0", 2)[-1]  # compressed?, method, language, 0, translation, 0, text
    return _inflate(text) if rest[:1] == b"\1" else text


def _raw_profile(text: bytes) -> bytes:
    """What ImageMagick wrote as a name, a length, and digits of base 16 in lines."""
    try:
        return bytes.fromhex(b"".join(text.split()[2:]).decode("ascii"))
    except ValueError:
        return b""


def _inflate(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, MOST_METADATA)
    except zlib.error:
        return b""
