"""The content-addressed store that hf_xet talks to: xorbs, shards and reconstructions.

A file is cut into chunks of about 64 KiB. Chunks that the store lacks are sent in xorbs; a shard
then says which chunks of which xorbs make up which file, and what the file's sha256 is. The format
is described at https://huggingface.co/docs/xet. All numbers are little-endian.
"""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from tests.hub.store import Blobs, Upload
from tests.hub.wire import Refusal, Reply, Request, Routes

RECORD = 48
"""A shard's header, and every entry of its tables, bytes."""

BOOKEND = b"\xff" * 32
"""The hash that ends a table of a shard."""

WITH_VERIFICATION, WITH_METADATA = 1 << 31, 1 << 30

STORED, LZ4, GROUPED_LZ4 = 0, 1, 2
"""How a chunk is compressed."""

TAG = b"HFRepoMetaData\0" + bytes(
    [85, 105, 103, 69, 106, 123, 129, 87, 131, 165, 189, 217, 92, 205, 209, 74, 169]
)

routes = Routes()


def to_hex(digest: bytes) -> str:
    """A hash as Xet writes it: four 64-bit numbers."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", digest))


@dataclass(frozen=True)
class Chunk:
    """Where a chunk lies in its xorb (header included), and its size when unpacked."""

    start: int
    end: int
    size: int


@dataclass(frozen=True)
class Term:
    """Chunks first to last (exclusive) of a xorb; a file is a sequence of these."""

    xorb: str
    first: int
    last: int


class Xorb:
    """Chunks as they were sent: each an 8-byte header and its compressed data."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.chunks: list[Chunk] = []
        at = 0
        while at < len(data) and data[at] == 0:  # a footer begins with a letter
            packed, size = _int24(data, at + 1), _int24(data, at + 5)
            self.chunks.append(Chunk(at, at + 8 + packed, size))
            at += 8 + packed
        if not self.chunks or self.chunks[-1].end > len(data):
            raise Refusal(400, "not a xorb")

    def unpack(self, first: int, last: int) -> bytes:
        return b"".join(self._unpack(chunk) for chunk in self.chunks[first:last])

    def _unpack(self, chunk: Chunk) -> bytes:
        data, scheme = self.data[chunk.start + 8 : chunk.end], self.data[chunk.start + 4]
        if scheme == STORED:
            return data
        data = pa.decompress(data, chunk.size, "lz4", asbytes=True)
        if scheme == LZ4:
            return data
        # four groups, of every fourth byte each
        joined, at = bytearray(chunk.size), 0
        for group in range(4):
            count = len(range(group, chunk.size, 4))
            joined[group::4] = data[at : at + count]
            at += count
        return bytes(joined)


class Cas:
    """The store. `uploads` is shared with the Hub, `blobs` gets each file that becomes complete.

    Args:
        may: Whether a Xet token allows "read" or "write".
    """

    def __init__(
        self, url: str, blobs: Blobs, uploads: list[Upload], may: Callable[[str, str], bool]
    ) -> None:
        self.url, self.blobs, self.uploads, self._may = url, blobs, uploads, may
        self.xorbs: dict[str, Xorb] = {}
        self.files: dict[str, list[Term]] = {}
        self._known: dict[str, bytes] = {}  # a chunk's hash, and the table of the xorb that has it

    def _demand(self, request: Request, right: str) -> None:
        if not self._may(request.token, right):
            raise Refusal(401, "invalid or expired Xet token")

    @routes("POST", r"/v1/xorbs/default/(?P<xorb>[0-9a-f]{64})")
    def _put_xorb(self, request: Request, xorb: str) -> Reply:
        self._demand(request, "write")
        new = xorb not in self.xorbs
        self.xorbs.setdefault(xorb, Xorb(request.body))
        self.uploads.append(Upload("xorb", xorb, len(request.body), new))
        return Reply({"was_inserted": new})

    @routes("POST", r"/v1/shards")
    def _put_shard(self, request: Request) -> Reply:
        """Register the shard's files; they are rebuilt at once, which proves that all is there."""
        self._demand(request, "write")
        files, tables = _read_shard(request.body)
        for xorb in {term.xorb for _, terms, _ in files for term in terms} | set(tables):
            if xorb not in self.xorbs:
                raise Refusal(400, f"the shard names xorb {xorb}, which was never uploaded")
        new = False
        for name, terms, sha256 in files:
            data = b"".join(self.xorbs[term.xorb].unpack(term.first, term.last) for term in terms)
            new |= name not in self.files
            self.files[name] = terms
            self.blobs.add(data, sha256)
            self.blobs.xet_hashes[sha256] = name
        for table in tables.values():
            for at in range(RECORD, len(table), RECORD):
                self._known.setdefault(to_hex(table[at : at + 32]), table)
        self.uploads.append(Upload("shard", "", len(request.body), new))
        return Reply({"result": int(new)})

    @routes("GET", r"/v1/chunks/[\w-]+/(?P<chunk>[0-9a-f]{64})")
    def _find_chunk(self, request: Request, chunk: str) -> Reply:
        """Which xorb has a chunk, as a shard: how a client with an empty cache learns of it."""
        self._demand(request, "read")
        if chunk not in self._known:
            raise Refusal(404, "chunk not found")
        return Reply(_write_shard(self._known[chunk]))

    @routes("GET", r"/v1/reconstructions/(?P<name>[0-9a-f]{64})")
    def _reconstruct(self, request: Request, name: str) -> Reply:
        """Where the chunks of a file, or of a range of it, can be had."""
        self._demand(request, "read")
        if name not in self.files:
            raise Refusal(404, "file not found")
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("range", ""))
        first, last = (int(found[1]), int(found[2])) if found else (0, 1 << 62)
        skipped, terms = self._overlap(self.files[name], first, last)
        if not terms:
            raise Refusal(416, "range not satisfiable")
        about: list[dict] = []
        fetch: dict[str, list[dict]] = {}
        for term in terms:
            size = sum(chunk.size for chunk in self.xorbs[term.xorb].chunks[term.first : term.last])
            span = {"start": term.first, "end": term.last}
            about.append({"hash": term.xorb, "unpacked_length": size, "range": span})
        for term in _merge(terms):
            chunks = self.xorbs[term.xorb].chunks[term.first : term.last]
            place = {
                "range": {"start": term.first, "end": term.last},
                "url": f"{self.url}/xorbs/{term.xorb}",
                "url_range": {"start": chunks[0].start, "end": chunks[-1].end - 1},
            }
            fetch.setdefault(term.xorb, []).append(place)
        return Reply({"offset_into_first_range": skipped, "terms": about, "fetch_info": fetch})

    def _overlap(self, terms: list[Term], first: int, last: int) -> tuple[int, list[Term]]:
        """The terms cut down to the chunks that hold bytes first to last, and where first is."""
        cut: list[Term] = []
        skipped, at = 0, 0
        for term in terms:
            wanted: list[int] = []
            for index in range(term.first, term.last):
                end = at + self.xorbs[term.xorb].chunks[index].size
                if at <= last and end > first:
                    skipped = skipped if cut or wanted else first - at
                    wanted.append(index)
                at = end
            if wanted:
                cut.append(Term(term.xorb, wanted[0], wanted[-1] + 1))
        return skipped, cut

    @routes("GET", r"/xorbs/(?P<xorb>[0-9a-f]{64})")
    def _get_xorb(self, request: Request, xorb: str) -> Reply:
        """The bytes that a reconstruction points to; the real store signs such addresses."""
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("range", ""))
        if xorb not in self.xorbs or not found:
            raise Refusal(400, "no such xorb, or no range")
        data, first, last = self.xorbs[xorb].data, int(found[1]), int(found[2])
        part = data[first : last + 1]
        return Reply(
            part, 206, {"Content-Range": f"bytes {first}-{first + len(part) - 1}/{len(data)}"}
        )


def _int24(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 3], "little")


def _merge(terms: list[Term]) -> list[Term]:
    """The same chunks, each once: hf_xet expects that fetched ranges do not overlap."""
    merged: list[Term] = []
    for term in sorted(terms, key=lambda term: (term.xorb, term.first)):
        last = merged[-1] if merged else None
        if last and last.xorb == term.xorb and term.first <= last.last:
            merged[-1] = Term(last.xorb, last.first, max(last.last, term.last))
        else:
            merged.append(term)
    return merged


def _read_shard(
    data: bytes,
) -> tuple[list[tuple[str, list[Term], str]], dict[str, bytes]]:
    """Files as (hash, terms, sha256), and by xorb the table of its chunks.

    Both tables consist of a header with the number of entries, the entries, and so on until a
    bookend; a file's terms may be followed by as many checks, and by one entry with the sha256.
    """
    if data[:32] != TAG:
        raise Refusal(400, "not a shard")
    files, tables, at = [], {}, RECORD
    while data[at : at + 32] != BOOKEND:
        flags, count = struct.unpack_from("<II", data, at + 32)
        name, terms = to_hex(data[at : at + 32]), []
        for entry in range(at + RECORD, at + RECORD * (1 + count), RECORD):
            first, last = struct.unpack_from("<II", data, entry + 40)
            terms.append(Term(to_hex(data[entry : entry + 32]), first, last))
        at += RECORD * (1 + count * (2 if flags & WITH_VERIFICATION else 1))
        if not flags & WITH_METADATA:
            raise Refusal(400, "a file without a sha256")
        files.append((name, terms, to_hex(data[at : at + 32])))
        at += RECORD
    at += RECORD
    while data[at : at + 32] != BOOKEND:
        (count,) = struct.unpack_from("<I", data, at + 36)
        table = data[at : at + RECORD * (1 + count)]
        tables[to_hex(table[:32])] = table
        at += len(table)
    return files, tables


def _write_shard(table: bytes) -> bytes:
    """A shard of no files and of one xorb's chunks, with the footer that answers need."""
    header = struct.pack("<32sQQ", TAG, 2, 200)
    end = BOOKEND + bytes(RECORD - len(BOOKEND))
    body = header + end + table + end
    footer = struct.pack(
        "<9Q32s2Q48x4Q",
        1,  # version
        RECORD,  # files begin
        2 * RECORD,  # xorbs begin
        *(len(body), 0) * 3,  # lookup tables: none
        bytes(32),  # the key that hashes are hidden with: none
        int(time.time()),  # made
        int(time.time()) + 3600,  # to be forgotten
        *(0, 0, 0),  # totals that nobody reads
        len(body),  # the footer begins
    )
    return body + footer
