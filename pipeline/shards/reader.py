"""Read shards back: the twin of `pipeline.shards.writer`.

A row is one row group, so reading a row reads one range of a file, local or remote. The manifest
holds the number of rows of each shard, so opening thousands of shards reads the manifest and a list
of the files. A shard's footer, which says where its rows lie, is read with the first row of the
shard that is read; the last `FOOTERS_KEPT` footers stay in memory.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pycocotools import mask as coco

from pipeline import storage
from pipeline.errors import UserError
from pipeline.shards.footers import Footer, damage_as_user_error, read_footer
from pipeline.shards.manifest import find_shards
from pipeline.shards.schema import IMAGE_FILES, SPLITS
from pipeline.storage.ranges import open_ranges

FOOTERS_KEPT = 32
"""Footers in memory; the footer of a full 4K shard (80 rows) takes 3.3 MB, measured."""

REQUESTS_AT_ONCE = 8
"""Requests to a remote store at a time; Arrow has as many threads for reading."""

BATCH_BYTES = 16 * 2**20
"""The size of a batch in memory, unless a single row takes more."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Piece:
    """Neighbouring rows of a shard that are read together."""

    shard: int
    rows: range
    footer: Footer


class ShardReader:
    """Random access to the rows of a folder of shards, by split and then in packing order.

    No file stays open between calls, so a reader may be used by several threads and sent to other
    processes. A pickled reader holds its `storage_options`, which may hold secrets.

    Args:
        folder: OUT/shards, its data/, or a download of either; or a URL that fsspec knows, such
            as `hf://datasets/user/name` or `s3://bucket/prefix`.
        split: Only this split; all splits by default.
        storage_options: What fsspec gets besides the URL, such as `{"anon": True}`.

    Raises:
        UserError: There are no shards, or one is missing or truncated; or the store cannot be
            read.
    """

    def __init__(
        self,
        folder: Path | str,
        split: str | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        path = storage.open_path(folder, storage_options, read_only=True)
        self._folder, self._shards = find_shards(path, split)
        self._keep_footers()
        self._ends = list(accumulate(self._map(self._count, range(len(self._shards)))))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_footer"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._keep_footers()

    @property
    def shards(self) -> list[str]:
        """Names of the shards in order, such as `train-00000.parquet`."""
        return [shard.name for shard in self._shards]

    @property
    def paths(self) -> list[Path | str]:
        """Paths of the shards in order, or their URLs (without credentials)."""
        paths = [self._folder / name for name in self.shards]
        return [storage.show(path) for path in paths] if self._is_remote else list(paths)

    @property
    def splits(self) -> dict[str, int]:
        """Number of rows of each split."""
        rows = dict.fromkeys(SPLITS, 0)
        for shard, start, end in zip(self.shards, [0, *self._ends], self._ends, strict=False):
            rows[shard.split("-")[0]] += end - start
        return {split: count for split, count in rows.items() if count}

    def __len__(self) -> int:
        """Number of rows, which is the number of panoramas."""
        return self._ends[-1]

    def locate(self, index: int) -> tuple[str, int]:
        """The name of the shard that holds a row, and the row's number in it.

        Raises:
            IndexError: index is not in [0, len).
        """
        shard, row = self._locate(index)
        return self._shards[shard].name, row

    def row(self, index: int, columns: Sequence[str] | None = None) -> dict[str, Any]:
        """One row, or some of its columns; only its row group is read.

        Args:
            index: Counts the rows of all shards.
            columns: Columns, or leaves of nested ones such as `objects.list.element.area`.

        Raises:
            IndexError: index is not in [0, len).
            UserError: The shard is damaged, was removed or changed meanwhile, or has no such
                column; or the store cannot be read.
        """
        shard, row = self._locate(index)
        piece = Piece(shard, range(row, row + 1), self._footer(shard))
        return self._rows(piece, self._read(piece, columns))[0]

    def annotations(self, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """All rows in order, without their images, or only some columns.

        Raises:
            UserError: As for `row`.
        """
        if not columns:
            leaves = self._footer(0).leaves
            names = dict.fromkeys(leaf.split(".")[0] for leaf in leaves)
            columns = [name for name in names if name not in IMAGE_FILES]
        for piece, batch in self._pieces(columns):
            yield from self._rows(piece, batch)

    def batches(self, columns: Sequence[str]) -> Iterator[tuple[str, pa.RecordBatch]]:
        """Some columns of all rows in order; a batch holds many rows, of one shard.

        A few batches of about `BATCH_BYTES` are in memory, however many shards there are.

        Args:
            columns: Columns, or leaves of nested ones such as `objects.list.element.area`.

        Yields:
            A shard's name, such as `train-00000.parquet`, and a batch of its rows.

        Raises:
            UserError: As for `row`.
            ValueError: No columns.
        """
        if not columns:
            raise ValueError("no columns to read")
        for piece, batch in self._pieces(columns):
            yield self._shards[piece.shard].name, batch

    def _pieces(self, columns: Sequence[str]) -> Iterator[tuple[Piece, pa.RecordBatch]]:
        """All rows in order, cut into pieces, with these columns."""

        def cut(shard: int) -> list[Piece]:
            return self._cut(shard, columns)

        def read(piece: Piece) -> tuple[Piece, pa.RecordBatch]:
            return piece, self._read(piece, columns)

        cuts = self._map(cut, range(len(self._shards)))
        return self._map(read, (piece for pieces in cuts for piece in pieces))

    def _map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """`map`, with several requests at a time to a remote store."""
        return in_order(function, items, REQUESTS_AT_ONCE if self._is_remote else 1)

    @property
    def _is_remote(self) -> bool:
        return storage.is_remote(self._folder)

    def _path(self, shard: int) -> Path:
        return self._folder / self._shards[shard].name

    def _locate(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        shard = bisect_right(self._ends, index)
        return shard, index - (self._ends[shard - 1] if shard else 0)

    def _count(self, shard: int) -> int:
        rows = self._shards[shard].rows
        return self._footer(shard).metadata.num_rows if rows is None else rows

    def _keep_footers(self) -> None:
        self._footer = lru_cache(FOOTERS_KEPT)(self._read_footer)

    def _read_footer(self, shard: int) -> Footer:
        return read_footer(self._folder, self._shards[shard])

    def _cut(self, shard: int, columns: Sequence[str]) -> list[Piece]:
        """A shard's rows in pieces whose columns take about `BATCH_BYTES` each."""
        footer = self._footer(shard)
        leaves = self._leaves(shard, footer, columns)
        pieces, first, size = [], 0, 0
        for row in range(footer.metadata.num_row_groups):
            group = footer.metadata.row_group(row)
            more = sum(group.column(leaf).total_uncompressed_size for leaf in leaves)
            if row > first and size + more > BATCH_BYTES:
                pieces.append(Piece(shard, range(first, row), footer))
                first, size = row, 0
            size += more
        return [*pieces, Piece(shard, range(first, footer.metadata.num_row_groups), footer)]

    def _leaves(self, shard: int, footer: Footer, columns: Sequence[str]) -> list[int]:
        try:
            return footer.numbers(columns)
        except KeyError as error:
            where = storage.show(self._path(shard))
            known = ", ".join(dict.fromkeys(leaf.split(".")[0] for leaf in footer.leaves))
            raise UserError(
                f"{where} has no column {error.args[0]}; it has {known} and their parts"
            ) from None

    def _read(self, piece: Piece, columns: Sequence[str] | None) -> pa.RecordBatch:
        """Columns of a piece; all of them where columns is None."""
        if columns is not None:
            self._leaves(piece.shard, piece.footer, columns)
        try:
            return self._read_groups(piece, columns)
        except UserError:
            for row in piece.rows if len(piece.rows) > 1 else ():  # to find the damaged row
                self._read_groups(Piece(piece.shard, range(row, row + 1), piece.footer), columns)
            raise

    def _read_groups(self, piece: Piece, columns: Sequence[str] | None) -> pa.RecordBatch:
        path, count = self._path(piece.shard), len(piece.rows)
        with (
            damage_as_user_error(path, piece.rows),
            open_ranges(path, self._shards[piece.shard].bytes) as source,
            pq.ParquetFile(
                source,
                metadata=piece.footer.metadata,
                pre_buffer=self._is_remote,  # one request for neighbouring columns
                page_checksum_verification=True,
            ) as file,
        ):
            names = None if columns is None else list(columns)
            batches = list(file.iter_batches(count, row_groups=piece.rows, columns=names))
            if [batch.num_rows for batch in batches] != [count]:
                raise pa.ArrowInvalid("not the rows that the footer names")
            return batches[0]

    def _rows(self, piece: Piece, batch: pa.RecordBatch) -> list[dict[str, Any]]:
        with damage_as_user_error(self._path(piece.shard), piece.rows):
            return batch.to_pylist()


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], at_once: int
) -> Iterator[Result]:
    """`map(function, items)`, working on a few items ahead in as many threads.

    Args:
        function: What to do with each item.
        items: The items, which are taken only when there is room for another.
        at_once: How many are worked on at a time; with 1 there are no threads.
    """
    if at_once == 1:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(at_once, thread_name_prefix="shards")
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) == at_once:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def decode_image(image: Mapping[str, Any]) -> NDArray[np.uint8]:
    """The `image` column's value to (H, W, 3) uint8 RGB; `normal`'s to uint16."""
    return np.ascontiguousarray(_decode(image)[..., ::-1])


def decode_ids(ids: Mapping[str, Any]) -> NDArray[np.uint16]:
    """The `ids` column's value to (H, W) uint16; `depth`'s too, in millimetres."""
    return _decode(ids)


def masks(objects: Iterable[Mapping[str, Any]]) -> Iterator[NDArray[np.bool_]]:
    """The mask (H, W) of each object, one at a time: a 4K panorama's would fill a gigabyte."""
    for thing in objects:
        yield coco.decode(thing["segmentation"]).view(np.bool_)


def _decode(value: Mapping[str, Any]) -> NDArray:
    image = cv2.imdecode(np.frombuffer(value["bytes"], np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise UserError(f"the image {value['path']} in a shard is corrupt; download or pack again")
    return image
