"""Export panoramas as WebDataset: tar files that training reads from the front to the end.

    <split>-NNNNNN.tar     a panorama's members, one after another: KEY.webp, KEY.ids.png, KEY.json,
                           and KEY.depth.png, KEY.normal.png, KEY.albedo.webp where there are any

KEY.json is the row without its images. One row is in memory at a time. A repeated export writes
only tar files that are missing or hold other panoramas. Equal shards give equal bytes.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.export.dataset_rows import check_row
from pipeline.export.resumable import ROWS, claimed
from pipeline.layout import read_json, write_json
from pipeline.shards.reader import ShardReader
from pipeline.shards.schema import IMAGE_FILES
from pipeline.storage import open_atomic

ROWS_PER_TAR = 100
"""Panoramas in a tar file: about 0.7 GB at 4K."""


@dataclass(frozen=True)
class TarPlan:
    """The panoramas of a tar file.

    Attributes:
        name: The file's name.
        rows: Their numbers in the reader.
        image_ids: Their names.
    """

    name: str
    rows: range
    image_ids: tuple[str, ...]


def export_webdataset(
    shards: Path | str,
    folder: Path,
    rows_per_tar: int = ROWS_PER_TAR,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> int:
    """Write all splits as tar files; for the arguments and errors see `resumable.export_rows`.

    Returns:
        The number of panoramas that were written now.
    """
    reader = ShardReader(shards)
    written = done = 0
    with claimed(reader, folder, {"format": "webdataset", "options": {"rows": rows_per_tar}}):
        for plan in _plans(reader, rows_per_tar):
            record = folder / ROWS / f"{plan.name}.json"
            about = {"image_ids": list(plan.image_ids)}
            if not (folder / plan.name).exists() or _read(record) != about:
                record.unlink(missing_ok=True)
                _write_tar(reader, plan, folder / plan.name)
                write_json(record, about)
                written += len(plan.rows)
            done += len(plan.rows)
            progress(done, len(reader))
    return written


def _read(record: Path) -> object:
    try:
        return read_json(record)
    except (FileNotFoundError, ValueError):
        return None


def _plans(reader: ShardReader, rows_per_tar: int) -> Iterator[TarPlan]:
    names = [row["image_id"] for row in reader.annotations(["image_id"])]
    start = 0
    for split, count in reader.splits.items():
        for number, first in enumerate(range(start, start + count, rows_per_tar)):
            rows = range(first, min(first + rows_per_tar, start + count))
            image_ids = tuple(names[rows.start : rows.stop])
            yield TarPlan(f"{split}-{number:06d}.tar", rows, image_ids)
        start += count


def _write_tar(reader: ShardReader, plan: TarPlan, path: Path) -> None:
    with (
        open_atomic(path) as file,
        tarfile.open(fileobj=file, mode="w|", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for index in plan.rows:
            row = check_row(reader, index, reader.row(index))
            values = row.values
            members = {}
            for column in IMAGE_FILES:
                if column in values:
                    suffix = IMAGE_FILES[column].rpartition(".")[2]
                    middle = "" if column == "image" else f".{column}"
                    members[f"{row.stem}{middle}.{suffix}"] = values[column]["bytes"]
            about = {name: value for name, value in values.items() if name not in IMAGE_FILES}
            members[f"{row.stem}.json"] = json.dumps(about, sort_keys=True).encode()
            for name, data in members.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
