"""Exports row by row: one row in memory, finished rows are not written again.

folder/
  export.json        the format, its options and the dataset; another export is refused
  .rows/<row>.json   what was written for a row; written last
  .lock              held while a process exports into the folder
  …                  the files of the format; those that list all rows are written at the end
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from pipeline.errors import UserError
from pipeline.export.dataset_rows import DatasetRow, dataset_source, merged_rows, schema_mismatch
from pipeline.layout import DamagedFileError, read_json, write_json
from pipeline.shards.reader import ShardReader
from pipeline.storage import disk_full_as_user_error, exclusive_lock

MARKER, ROWS = "export.json", ".rows"

Record = dict[str, Any]
"""What `write_row` says about a row in JSON types; `files` lists what it wrote."""


class Exporter(Protocol):
    """A format. Implementations are dataclasses whose fields are its options."""

    @property
    def format(self) -> str:
        """Its name."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it reads, beside those of `dataset_rows.COLUMNS`."""

    def write_row(self, row: DatasetRow, folder: Path) -> Record:
        """Write the files of a row."""

    def finish(self, folder: Path, records: Iterator[Record]) -> None:
        """Write what lists all rows; records come in the order of the rows."""


def export_rows(
    shards: Path | str,
    folder: Path,
    exporter: Exporter,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> int:
    """Export all splits; a repeated export resumes.

    Args:
        shards: A folder or URL of shards, as for `ShardReader`.
        folder: The output folder, which is new, empty, or holds this export.
        exporter: The format, with its options.
        progress: Called after each row with the number of finished rows and of all.

    Returns:
        The number of rows that were written now.

    Raises:
        UserError: The folder holds something else, the shards lack a column, a row does not fit
            the schema, or the disk is full. What was written stays and is resumed.
    """
    reader = ShardReader(shards)
    fields: Any = exporter  # a dataclass, which a protocol cannot demand
    options = json.loads(json.dumps(asdict(fields)))
    written, names = 0, []
    with claimed(reader, folder, {"format": exporter.format, "options": options}):
        for row in merged_rows(reader, exporter.columns):
            names.append(f"{row.split}-{row.stem}.json")
            written += _write_row(row, folder, exporter, folder / ROWS / names[-1])
            progress(len(names), len(reader))
        exporter.finish(folder, (read_json(folder / ROWS / name)["record"] for name in names))
    return written


@contextmanager
def claimed(reader: ShardReader, folder: Path, about: dict[str, Any]) -> Iterator[None]:
    """Hold a folder for an export, which is new, empty, or holds the same export.

    Args:
        reader: The shards.
        folder: The output folder.
        about: The format and its options, in JSON types.

    Raises:
        UserError: The folder holds something else, or the disk is full.
    """
    identity = {**about, "source": dataset_source(reader)}
    _check_folder(folder, identity)
    full = f"no room for the export in {folder}; free some space and run the same command again"
    with disk_full_as_user_error(full), exclusive_lock(folder / ".lock", "exporting into"):
        write_json(folder / MARKER, identity)
        yield


def _check_folder(folder: Path, identity: dict[str, Any]) -> None:
    """Refuse a folder that holds anything but this export."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; choose another one to export to")
    try:
        found = read_json(folder / MARKER)
    except FileNotFoundError:
        if any(path.name != ".lock" for path in folder.iterdir()):
            raise UserError(
                f"{folder} holds something else; choose a new folder to export to"
            ) from None
        return
    if found != identity:
        raise UserError(
            f"{folder} holds an export of other data or with other settings; choose a new folder, "
            "or delete this one"
        )


def _write_row(row: DatasetRow, folder: Path, exporter: Exporter, path: Path) -> bool:
    """Write a row, unless it is there; returns whether it was written."""
    key = hashlib.sha256(row.webp)
    key.update(json.dumps(row.values["objects"], sort_keys=True).encode())
    try:
        known = read_json(path)
        complete = known["key"] == key.hexdigest()
        if complete and all((folder / name).is_file() for name in known["record"]["files"]):
            return False
    except (FileNotFoundError, DamagedFileError, KeyError, TypeError):
        pass
    try:
        record = exporter.write_row(row, folder)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(schema_mismatch(row.place)) from error
    write_json(path, {"key": key.hexdigest(), "record": record})
    return True
