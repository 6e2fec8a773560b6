"""Read one shard back, row by row. This is what runs in parallel."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import UserError
from pipeline.shards.files import Folder
from pipeline.shards.footers import read_footer
from pipeline.shards.manifest import Shard
from pipeline.shards.schema import IMAGE_FILES, make_schema
from pipeline.verify.findings import Finding
from pipeline.verify.near_duplicates import magnitudes, pack, thumbnail
from pipeline.verify.row_checks import check_row

UNREADABLE = (OSError, pa.ArrowException, UserError, ValueError)
"""What Arrow raises, at one place or another, about bytes that are not what was written."""

BLOCK_BYTES = 2**22


@dataclass(frozen=True)
class Task:
    """A shard to check.

    Attributes:
        folder: Where it lies.
        shard: Its name, and what the manifest says of it.
        min_area: The run's smallest instance in pixels, if known.
    """

    folder: Folder
    shard: Shard
    min_area: int | None


@dataclass(frozen=True)
class RowFacts:
    """What has to be compared with other rows."""

    image_id: str
    scene_id: str
    generator: str
    seed: int
    settings_hash: str
    magnitudes: str  # packed by `pipeline.verify.near_duplicates`; empty without a picture
    instances: list[tuple[int, str]] = field(default_factory=list)  # id, and what it is


@dataclass
class Checked:
    """What a shard holds, and what is wrong with it.

    Attributes:
        rows: One entry for each row; None for a row that cannot be read.
    """

    name: str
    sha256: str = ""
    rows: list[RowFacts | None] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def check_shard(task: Task) -> Checked:
    """Check a shard and all of its rows; what is wrong with them is never raised.

    Raises:
        UserError: The store that it lies in does not answer, or the scratch disk is full.
    """
    shard = task.shard
    checked = Checked(shard.name)

    def report(text: str, **place: Any) -> None:
        checked.findings.append(Finding(text, shard=shard.name, **place))

    with _on_disk(task.folder, shard) as path:
        try:
            with open(path, "rb") as file:
                checked.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            if shard.sha256 not in (None, checked.sha256):
                report("is not the file that was packed: its hash is another than the manifest's")
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                _check_file(file, task, report)
                for index in range(file.num_row_groups):
                    facts = _check_group(file, index, task.min_area, partial(report, row=index))
                    checked.rows.append(facts)
        except UNREADABLE as error:
            report(f"cannot be read: {_short(error)}")
    _check_scenes(checked)
    return checked


@contextmanager
def _on_disk(folder: Folder, shard: Shard) -> Iterator[Path]:
    """The shard as a local file: a remote one is fetched once, as a whole."""
    if not folder.remote:
        yield Path(folder.path(shard.name))
        return
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / shard.name
        with folder.open(shard.name) as source, open(path, "wb") as copy:
            while block := source.read(BLOCK_BYTES):
                copy.write(block)
        yield path


def _check_file(file: pq.ParquetFile, task: Task, report: Any) -> None:
    found = file.schema_arrow
    expected = make_schema([name for name in IMAGE_FILES if name in found.names])
    # Parquet calls the items of lists "element", Arrow "item": names that do not count
    if not found.equals(expected) or found.metadata != expected.metadata:
        names = set(found.names) ^ set(expected.names)
        report(f"has another schema ({', '.join(sorted(names)) or 'types or metadata differ'})")
    rows, groups, told = file.metadata.num_rows, file.num_row_groups, task.shard.rows
    if rows != groups:
        report(f"has {rows} rows in {groups} row groups; each row should be its own")
    elif told not in (None, rows):
        report(f"has {rows} rows, the manifest says {told}")
    else:
        try:
            read_footer(task.folder, task.shard)  # as readers do, with the manifest in hand
        except UserError as error:
            report(f"readers refuse it: {_short(error)}")


def _check_scenes(checked: Checked) -> None:
    """An instance has one name and category in all panoramas of its scene."""
    known: dict[int, tuple[str, str]] = {}
    scene = ""
    for number, facts in enumerate(checked.rows):
        if facts is None:
            continue
        if facts.scene_id != scene:
            scene, known = facts.scene_id, {}
        for label, what in facts.instances:
            before = known.setdefault(label, (what, facts.image_id))
            if before[0] != what:
                text = f"is {what} here and {before[0]} in {before[1]}"
                checked.findings.append(
                    Finding(text, checked.name, number, facts.image_id, object=label)
                )
        facts.instances.clear()  # they are not needed again


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
        named = (row["image_id"], row["scene_id"], row["generator"])
        if not all(isinstance(name, str) for name in named) or not isinstance(row["seed"], int):
            raise TypeError("its names are no text, or its seed is no number")
        return RowFacts(
            image_id=row["image_id"],
            scene_id=row["scene_id"],
            generator=row["generator"],
            seed=row["seed"],
            settings_hash=str(row["provenance"]["settings_hash"]),
            magnitudes="" if image is None else pack(magnitudes(thumbnail(image))),
            instances=[(t["id"], f"{t['name']} ({t['category']})") for t in row["objects"]],
        )
    except Exception as error:  # a row of a stranger may hold anything
        report(f"is not a row of ours: {_short(error)}")
        return None


def _short(error: Exception) -> str:
    """The first line of an error, without the file's name that some begin with."""
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__
