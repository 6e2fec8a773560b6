"""Read one shard back, row by row. This is what runs in parallel."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import UserError
from pipeline.shards.files import Folder
from pipeline.shards.schema import IMAGE_FILES, make_schema
from pipeline.verify.findings import Finding
from pipeline.verify.likeness import magnitudes, pack, thumbnail
from pipeline.verify.row import check_row

UNREADABLE = (OSError, pa.ArrowException, UserError, ValueError)
"""What Arrow raises, at one place or another, about bytes that are not what was written."""

BLOCK_BYTES = 2**20


@dataclass(frozen=True)
class Task:
    """A shard to check.

    Attributes:
        folder: Where it lies.
        name: Its file name.
        entry: What the manifest says of it; empty where there is none.
        min_area: The run's smallest instance in pixels, if known.
    """

    folder: Folder
    name: str
    entry: Mapping[str, Any]
    min_area: int | None


@dataclass(frozen=True)
class RowFacts:
    """What has to be compared with other rows."""

    image_id: str
    scene_id: str
    generator: str
    seed: int
    settings_hash: str
    magnitudes: str  # packed by `pipeline.verify.likeness`; empty without a picture


@dataclass
class Checked:
    """What a shard holds, and what is wrong with it.

    Attributes:
        rows: One entry for each row; None for a row that cannot be read.
        sha256: Of the file; None where it was not read as a whole.
    """

    name: str
    sha256: str | None = None
    rows: list[RowFacts | None] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def check_shard(task: Task) -> Checked:
    """Check a shard and all of its rows; never raises for what is wrong with them."""
    checked = Checked(task.name)

    def report(text: str, **place: Any) -> None:
        checked.findings.append(Finding(text, shard=task.name, **place))

    try:
        checked.sha256 = _sha256(task)
        if checked.sha256 and checked.sha256 != task.entry.get("sha256", checked.sha256):
            report("is not the file that was packed: its hash is another than the manifest's")
        with (
            task.folder.open(task.name) as source,
            pq.ParquetFile(source, page_checksum_verification=True) as file,
        ):
            _check_file(file, task, report)
            for index in range(file.num_row_groups):
                facts = _check_group(file, index, task.min_area, partial(report, row=index))
                checked.rows.append(facts)
    except UNREADABLE as error:
        report(f"cannot be read: {_short(error)}")
    return checked


def _sha256(task: Task) -> str | None:
    """Hash of a local file. A remote one is not fetched twice: its pages have checksums."""
    if task.folder.remote:
        return None
    digest = hashlib.sha256()
    with task.folder.open(task.name) as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _check_file(file: pq.ParquetFile, task: Task, report: Any) -> None:
    found = file.schema_arrow
    expected = make_schema([name for name in IMAGE_FILES if name in found.names])
    # Parquet calls the items of lists "element", Arrow "item": names that do not count
    if not found.equals(expected) or found.metadata != expected.metadata:
        names = set(found.names) ^ set(expected.names)
        report(f"has another schema ({', '.join(sorted(names)) or 'types or metadata differ'})")
    rows, groups = file.metadata.num_rows, file.num_row_groups
    if rows != groups:
        report(f"has {rows} rows in {groups} row groups; each row should be its own")
    if rows != (told := task.entry.get("panoramas", rows)):
        report(f"has {rows} rows, the manifest says {told}")


def _check_group(
    file: pq.ParquetFile, index: int, min_area: int | None, report: Any
) -> RowFacts | None:
    """Check the row of a row group."""
    try:
        row = file.read_row_group(index).to_pylist()[0]
    except (*UNREADABLE, IndexError) as error:
        report(f"cannot be read: {_short(error)}")
        return None
    report = partial(report, image_id=row.get("image_id"))
    try:
        image = check_row(row, min_area, report)
        return RowFacts(
            image_id=row["image_id"],
            scene_id=row["scene_id"],
            generator=row["generator"],
            seed=row["seed"],
            settings_hash=row["provenance"]["settings_hash"],
            magnitudes="" if image is None else pack(magnitudes(thumbnail(image))),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:  # of another schema
        report(f"is not a row of ours: {_short(error)}")
        return None


def _short(error: Exception) -> str:
    """The first line of an error, without the file's name that some begin with."""
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__
