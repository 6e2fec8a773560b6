"""TIFF: its tags, without those that hold metadata."""

from __future__ import annotations

import io
import struct

from PIL.TiffImagePlugin import ImageFileDirectory_v2

from pipeline.pictures.contents import (
    ORIENTATION,
    Contents,
    DamagedError,
    Tags,
    UnsupportedError,
    in_range,
)

_XMP, _ICC, _DNG, _SUBFILE = 700, 34675, 50706, 254
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_SAMPLES, _PLANAR, _SAMPLE_FORMAT = 277, 284, 339

_PIXELS = {
    *range(254, 260), 262, 266, 273, ORIENTATION, 277, 278, 279, 284, 292, 293, 317,
    *range(320, 326), 332, *range(336, 342), 347, *range(512, 516), *range(517, 522),
    *range(529, 533),
}  # fmt: skip
"""Tags that decoders need; others hold metadata."""

_LOSSY_COMPRESSIONS = (6, 7, 34892)  # JPEG

MOST_PAGES = 10_000


def split_tiff(data: bytes) -> Contents:
    """Take a TIFF apart.

    Raises:
        DamagedError: Its first page cannot be found.
        UnsupportedError: It is a raw photograph.
    """
    page, following = _page(data, None)
    if page is None:
        raise DamagedError("it ends within its header")
    if _DNG in page or data[8:10] == b"CR" or _first(page, _SUBFILE, 0) & 1:
        raise UnsupportedError("a raw photograph (TIFF with a preview before the picture)")
    pages, seen = 1, {0}
    while following and following not in seen and pages < MOST_PAGES:
        seen.add(following)
        page_after, following = _page(data, following)
        pages += page_after is not None
    kinds = {1: "uint", 2: "int", 3: "float"}
    try:
        pixels = _without_metadata(data)
    except struct.error:
        raise DamagedError("it ends within its header") from None
    return Contents(
        "TIFF",
        width=_first(page, _WIDTH, 0),
        height=_first(page, _HEIGHT, 0),
        bits=max(_numbers(page, _BITS), default=1),
        pixels=pixels,
        orientation=in_range(_first(page, ORIENTATION, 1)) or 1,
        xmp=(_bytes(page, _XMP),),
        icc=_bytes(page, _ICC),
        frames=pages,
        lossy=_first(page, _COMPRESSION, 1) in _LOSSY_COMPRESSIONS,
        tags=Tags(
            samples=_first(page, _SAMPLES, 1),
            kind=kinds.get(_first(page, _SAMPLE_FORMAT, 1), "other"),
            separate=_first(page, _PLANAR, 1) == 2,
            photometric=_first(page, _PHOTOMETRIC, 1),
        ),
    )


def _without_metadata(data: bytes) -> bytes:
    """A TIFF whose first page has an empty entry in place of each that holds metadata.

    Raises:
        struct.error: It ends within its header.
    """
    order, is_big = "<" if data[:2] == b"II" else ">", 43 in data[2:4]
    place = struct.unpack_from(order + ("Q" if is_big else "I"), data, 8 if is_big else 4)[0]
    count, size = ("Q", 20) if is_big else ("H", 12)
    empty = struct.pack(order + ("HHQQ" if is_big else "HHII"), 65535, 1, 1, 0)
    changed = bytearray(data)
    entries = struct.unpack_from(order + count, data, place)[0]
    place += struct.calcsize(order + count)
    for start in range(place, min(place + entries * size, len(data) - size + 1), size):
        if struct.unpack_from(order + "H", data, start)[0] not in _PIXELS:
            changed[start : start + size] = empty
    return bytes(changed)


def _page(data: bytes, offset: int | None) -> tuple[ImageFileDirectory_v2 | None, int]:
    """Tags of a page and where the next one is; None where they cannot be read."""
    try:
        tags = ImageFileDirectory_v2(data[:16] if 43 in data[2:4] else data[:8])
        file = io.BytesIO(data)
        file.seek(tags.next if offset is None else offset)
        tags.load(file)
        return tags, tags.next
    except Exception:  # of whatever a damaged directory makes Pillow do
        return None, 0


def _first(page: ImageFileDirectory_v2, tag: int, default: int) -> int:
    return next(iter(_numbers(page, tag)), default)


def _numbers(page: ImageFileDirectory_v2, tag: int) -> tuple[int, ...]:
    try:
        value = page.get(tag, ())
        return tuple(map(int, value if isinstance(value, tuple) else (value,)))
    except Exception:  # a damaged tag counts as absent
        return ()


def _bytes(page: ImageFileDirectory_v2, tag: int) -> bytes:
    try:
        value = page.get(tag, b"")
        if isinstance(value, tuple) and len(value) == 1:  # of type ASCII or UNDEFINED
            (value,) = value
        if isinstance(value, str):
            return value.encode("latin-1")  # as Pillow decodes it
        return value if isinstance(value, bytes) else bytes(tuple(value))
    except Exception:  # a damaged tag counts as absent
        return b""
