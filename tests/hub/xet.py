"""The content-addressed store that hf_xet talks to: xorbs, shards and reconstructions.

A file is cut into chunks of about 64 KiB. Chunks that the client did not send before arrive in
xorbs; a shard then lists which chunks of which xorbs make up which file, and the file's sha256. The
format is described at https://huggingface.co/docs/xet. All numbers are little-endian. The hashes of
xorbs and chunks are not checked here; the sha256 of files is.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
from werkzeug.wrappers import Response

from tests.hub.http import RefusedError, Request, part, reply

if TYPE_CHECKING:
    from tests.hub.server import Hub

RECORD = 48
"""Bytes of a shard's header, and of every entry of its tables."""

BOOKEND = b"\xff" * 32
"""The hash that ends a table."""

WITH_VERIFICATION, WITH_METADATA = 1 << 31, 1 << 30
"""Flags of a file in a shard: it has checks, and a sha256."""

STORED, LZ4, GROUPED_LZ4 = 0, 1, 2
"""Compression of a chunk."""


class Term(NamedTuple):
    """Chunks first to last (exclusive) of a xorb; a file is a sequence of terms."""

    xorb: str
    first: int
    last: int


class Xorb:
    """Chunks as they were sent: an 8-byte header and compressed data each."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.places: list[tuple[int, int]] = []  # start and end of each chunk, with its header
        self.sizes: list[int] = []  # of each chunk, uncompressed
        at = 0
        while at < len(data) and data[at] == 0:  # the footer starts with a letter
            end = at + 8 + int.from_bytes(data[at + 1 : at + 4], "little")
            self.places.append((at, end))
            self.sizes.append(int.from_bytes(data[at + 5 : at + 8], "little"))
            at = end

    def chunk(self, index: int) -> bytes:
        (start, end), size = self.places[index], self.sizes[index]
        data, scheme = self.data[start + 8 : end], self.data[start + 4]
        if scheme == STORED:
            return data
        data = pa.decompress(data, size, "lz4", asbytes=True)
        if scheme == LZ4:
            return data
        grouped, at = bytearray(size), 0  # every fourth byte, in four groups
        for group in range(4):
            count = len(range(group, size, 4))
            grouped[group::4] = data[at : at + count]
            at += count
        return bytes(grouped)


def put_xorb(hub: Hub, request: Request, xorb: str) -> Response:
    hub.demand(request, "write")
    new = xorb not in hub.xorbs
    hub.xorbs.setdefault(xorb, Xorb(request.get_data()))
    hub.note_upload("xorb", xorb, request.get_data(), new)
    return reply({"was_inserted": new})


def put_shard(hub: Hub, request: Request) -> Response:
    """Register the files of a shard; each is rebuilt, which proves that its chunks arrived."""
    hub.demand(request, "write")
    for name, terms, sha256 in _read_shard(request.get_data()):
        for term in terms:
            if term.xorb not in hub.xorbs:
                raise RefusedError(400, f"xorb {term.xorb} was never uploaded")
        chunks = (hub.xorbs[t.xorb].chunk(i) for t in terms for i in range(t.first, t.last))
        hub.add_blob(b"".join(chunks), sha256)
        hub.xet_files[name] = terms
        hub.xet_hashes[sha256] = name
    return reply({"result": 1})


def reconstruct(hub: Hub, request: Request, name: str) -> Response:
    """Where the chunks of a file, or of a range of it, are."""
    hub.demand(request, "read")
    if name not in hub.xet_files:
        raise RefusedError(404, "file not found")
    ranges = request.range.ranges if request.range else [(0, None)]
    first, last = ranges[0][0], (ranges[0][1] or 2**62) - 1
    skipped, terms, at = 0, [], 0
    for term in hub.xet_files[name]:
        wanted = []
        for index in range(term.first, term.last):
            end = at + hub.xorbs[term.xorb].sizes[index]
            if at <= last and end > first:
                skipped = skipped if terms or wanted else first - at
                wanted.append(index)
            at = end
        terms += [Term(term.xorb, wanted[0], wanted[-1] + 1)] if wanted else []
    if not terms:
        raise RefusedError(416, "range not satisfiable")
    about = [
        {
            "hash": term.xorb,
            "unpacked_length": sum(hub.xorbs[term.xorb].sizes[term.first : term.last]),
            "range": {"start": term.first, "end": term.last},
        }
        for term in terms
    ]
    fetch: dict[str, list[dict]] = {}
    for term in _merge(terms):
        places = hub.xorbs[term.xorb].places[term.first : term.last]
        place = {
            "range": {"start": term.first, "end": term.last},
            "url": f"{hub.storage_url}/xorbs/{term.xorb}",
            "url_range": {"start": places[0][0], "end": places[-1][1] - 1},
        }
        fetch.setdefault(term.xorb, []).append(place)
    return reply({"offset_into_first_range": skipped, "terms": about, "fetch_info": fetch})


def get_xorb(hub: Hub, request: Request, xorb: str) -> Response:
    """The bytes that a reconstruction points to; the real store signs these addresses."""
    return part(request, hub.xorbs[xorb].data)


def _merge(terms: list[Term]) -> list[Term]:
    """The same chunks, each once, because hf_xet requires disjoint ranges."""
    merged: list[Term] = []
    for term in sorted(terms):
        last = merged[-1] if merged else None
        if last and last.xorb == term.xorb and term.first <= last.last:
            merged[-1] = Term(last.xorb, last.first, max(last.last, term.last))
        else:
            merged.append(term)
    return merged


def _read_shard(data: bytes) -> list[tuple[str, list[Term], str]]:
    """Files as (hash, terms, sha256).

    The table has a header with the number of terms per file, the terms, as many checks if flagged,
    and an entry with the sha256.
    """
    files, at = [], RECORD
    while data[at : at + 32] != BOOKEND:
        flags, count = struct.unpack_from("<II", data, at + 32)
        name, terms = _to_hex(data[at : at + 32]), []
        for entry in range(at + RECORD, at + RECORD * (1 + count), RECORD):
            first, last = struct.unpack_from("<II", data, entry + 40)
            terms.append(Term(_to_hex(data[entry : entry + 32]), first, last))
        at += RECORD * (1 + count * (2 if flags & WITH_VERIFICATION else 1))
        if not flags & WITH_METADATA:
            raise RefusedError(400, "a file without a sha256")
        files.append((name, terms, _to_hex(data[at : at + 32])))
        at += RECORD
    return files


def _to_hex(digest: bytes) -> str:
    """A hash as Xet writes it: four 64-bit numbers."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", digest))
