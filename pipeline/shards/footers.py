"""A shard's footer, which says where its rows lie.

Footers are read here, and not by pyarrow: one request to a remote store is enough, and the footer
is compared with its hash in the manifest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import UserError
from pipeline.shards.manifest import Shard, check_size, remedy
from pipeline.storage.ranges import open_ranges

FOOTER_BYTES_PER_ROW = 10 * 2**10
"""A bit more than a row adds to a footer (8.3 KB measured), so that one request fetches it."""

FOOTER_BYTES = 64 * 2**10
"""Bytes of a footer that are fetched first in any case."""


@dataclass(frozen=True)
class Footer:
    """What a shard says about its rows."""

    metadata: pq.FileMetaData
    leaves: tuple[str, ...]  # Parquet's columns, such as objects.list.element.area

    def numbers(self, columns: Sequence[str]) -> list[int]:
        """Numbers of the leaves of columns, in order.

        Raises:
            KeyError: There is no such column; Arrow would silently leave it out.
        """
        found = set()
        for name in columns:
            below = f"{name}."
            leaves = [
                number
                for number, leaf in enumerate(self.leaves)
                if leaf == name or leaf.startswith(below)
            ]
            if not leaves:
                raise KeyError(name)
            found.update(leaves)
        return sorted(found)


def read_footer(folder: Path, shard: Shard) -> Footer:
    """A shard's footer, compared with what the manifest says about the shard.

    Raises:
        UserError: The shard is missing, damaged or another one; or the store cannot be read.
    """
    path = folder / shard.name
    where, fix = storage.show(path), remedy(path)
    with damage_as_user_error(path):
        with open_ranges(path, shard.bytes) as file:
            check_size(folder, shard, file.size())
            tail = _read_tail(file, FOOTER_BYTES + FOOTER_BYTES_PER_ROW * (shard.rows or 0))
        metadata = pq.read_metadata(pa.BufferReader(tail))
    groups = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
    if metadata.num_rows < 1 or len(groups) != metadata.num_rows or set(groups) != {1}:
        raise UserError(f"{where} is not one of our shards: they hold one row per row group; {fix}")
    if shard.rows not in (None, metadata.num_rows):
        raise UserError(
            f"{where} does not fit manifest.json: it holds {metadata.num_rows} rows instead of "
            f"{shard.rows}; {fix}"
        )
    # before a column's entry is touched: pyarrow ends the process where one of them is damaged
    if shard.footer_sha256 not in (None, _sha256(tail)):
        raise UserError(f"{where} does not fit manifest.json: its footer is another one; {fix}")
    # not from metadata.schema, which keeps the whole footer in memory until the process ends
    first, columns = metadata.row_group(0), range(metadata.num_columns)
    leaves = tuple(first.column(column).path_in_schema for column in columns)
    return Footer(metadata, leaves)


def footer_sha256(path: Path, size: int) -> str | None:
    """Hash of the footer of a shard of `size` bytes; None where there is no complete shard."""
    try:
        with open_ranges(path, size) as file:
            return _sha256(_read_tail(file, FOOTER_BYTES))
    except (OSError, pa.ArrowException):
        return None


@contextmanager
def damage_as_user_error(path: Path, rows: range | None = None) -> Iterator[None]:
    """Turn errors of Arrow and the local disk into a UserError that names the place.

    Args:
        path: The shard.
        rows: Rows of it that are being read.
    """
    where, place = storage.show(path), ""
    if rows is not None:
        place = f" at row {rows[0]}" if len(rows) == 1 else f" in rows {rows[0]} to {rows[-1]}"
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{where} is missing; {remedy(path)}") from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno:
            raise storage.user_error(error, path) from error
        if "CRC" in str(error):
            raise UserError(
                f"{where} is damaged{place}: its data do not fit their checksum; {remedy(path)}"
            ) from error
        raise UserError(f"{where} is truncated or damaged{place}; {remedy(path)}") from error


def _read_tail(file: pa.NativeFile, guess: int) -> bytes:
    """A Parquet file's footer with the eight bytes behind it: its length and `PAR1`.

    Args:
        file: The file.
        guess: Bytes to fetch first; a longer footer takes a second request.

    Raises:
        ArrowInvalid: It is not the end of a Parquet file.
    """
    size = file.size()
    file.seek(max(0, size - guess))
    tail = file.read()
    length = int.from_bytes(tail[-8:-4], "little") + 8
    if tail[-4:] != b"PAR1" or length > size:
        raise pa.ArrowInvalid("no Parquet file")
    if length > len(tail):
        file.seek(size - length)
        tail = file.read(length - len(tail)) + tail
    return tail[-length:]


def _sha256(tail: bytes) -> str:
    """Hash of a footer without the eight bytes behind it."""
    return hashlib.sha256(memoryview(tail)[:-8]).hexdigest()
