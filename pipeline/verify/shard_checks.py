"""Checks of one shard, row by row; shards are checked in parallel."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.digest import sha256_of
from pipeline.errors import UserError
from pipeline.shards.footers import read_footer
from pipeline.shards.manifest import Shard
from pipeline.shards.schema import IMAGE_FILES, make_schema
from pipeline.storage.ranges import open_ranges
from pipeline.verify.findings import Finding
from pipeline.verify.imported_rows import check_imported_row, is_imported
from pipeline.verify.near_duplicates import magnitudes, pack, thumbnail
from pipeline.verify.row_checks import check_row

UNREADABLE = (OSError, pa.ArrowException, UserError, ValueError)
"""Exceptions that Arrow and the readers raise for damaged bytes."""

BLOCK_BYTES = 2**22
"""Bytes of a remote shard that are copied at once."""


@dataclass(frozen=True)
class ShardTask:
    """A shard to check.

    Attributes:
        folder: The folder of the shard.
        shard: Its name, and its entry in the manifest.
        min_area: The run's smallest annotated area in pixels; None if unknown.
    """

    folder: Path
    shard: Shard
    min_area: int | None


@dataclass(frozen=True)
class RowFacts:
    """The values of a row that are compared with other rows.

    Attributes:
        seed: None of an imported panorama.
        magnitudes: Text of `near_duplicates.pack`; empty if the image cannot be decoded.
        instances: Id and description of each instance, used within the shard only.
        shapes: Id and 3D box of each instance, and name and outline of the room, in the same way.
    """

    image_id: str
    scene_id: str
    generator: str
    seed: int | None
    settings_hash: str
    magnitudes: str
    instances: list[tuple[int, str]] = field(default_factory=list)
    shapes: list[tuple[int | str, str]] = field(default_factory=list)


@dataclass
class ShardReport:
    """The result of checking a shard.

    Attributes:
        name: File name of the shard.
        sha256: Hash of the file; empty if it cannot be read.
        rows: One entry per row; None for a row that cannot be read.
        findings: All errors in the shard.
    """

    name: str
    sha256: str = ""
    rows: list[RowFacts | None] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def check_shard(task: ShardTask) -> ShardReport:
    """Check a shard and all of its rows. Errors in the shard are reported, not raised.

    Raises:
        UserError: The store does not answer, or the scratch disk is full.
    """
    shard = task.shard
    result = ShardReport(shard.name)

    def report(text: str, **place: Any) -> None:
        result.findings.append(Finding(text, shard=shard.name, **place))

    with _on_disk(task.folder, shard) as path:
        try:
            result.sha256 = sha256_of(path)
            if shard.sha256 not in (None, result.sha256):
                report("is not the file that was packed: its hash differs from the manifest's")
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                _check_file(file, task, report)
                for index in range(file.num_row_groups):
                    facts = _check_group(file, index, task.min_area, partial(report, row=index))
                    result.rows.append(facts)
        except UNREADABLE as error:
            report(f"cannot be read: {_short(error)}")
    _check_scenes(result)
    return result


@contextmanager
def _on_disk(folder: Path, shard: Shard) -> Iterator[Path]:
    """The shard as a local file; a remote shard is downloaded once."""
    if not storage.is_remote(folder):
        yield folder / shard.name
        return
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / shard.name
        with open_ranges(folder / shard.name) as source, open(path, "wb") as copy:
            while block := source.read(BLOCK_BYTES):
                copy.write(block)
        yield path


def _check_file(file: pq.ParquetFile, task: ShardTask, report: Any) -> None:
    """Check schema, row groups and footer."""
    found = file.schema_arrow
    passes = [name for name in IMAGE_FILES if name in found.names]
    expected = make_schema(passes, geometry="room" in found.names)
    # `equals` ignores that Parquet names list items "element" and Arrow "item"
    if not found.equals(expected) or found.metadata != expected.metadata:
        names = set(found.names) ^ set(expected.names)
        report(f"has another schema ({', '.join(sorted(names)) or 'types or metadata differ'})")
    rows, groups, listed = file.metadata.num_rows, file.num_row_groups, task.shard.rows
    if rows != groups:
        report(f"has {rows} rows in {groups} row groups, not one row per group")
    elif listed not in (None, rows):
        report(f"has {rows} rows, the manifest says {listed}")
    else:
        try:
            read_footer(task.folder, task.shard)  # as readers do
        except UserError as error:
            report(f"is rejected by readers: {_short(error)}")


def _check_scenes(result: ShardReport) -> None:
    """Check that an instance has one name, category and 3D box in all panoramas of its scene."""
    known: dict[int, tuple[str, str]] = {}
    shapes: dict[int | str, tuple[str, str]] = {}
    scene = ""
    for number, facts in enumerate(result.rows):
        if facts is None:
            continue
        if facts.scene_id != scene:
            scene, known, shapes = facts.scene_id, {}, {}
        for label, description in facts.instances:
            other, image_id = known.setdefault(label, (description, facts.image_id))
            if other != description:
                text = f"is {description} here and {other} in {image_id}"
                result.findings.append(
                    Finding(text, result.name, number, facts.image_id, object=label)
                )
        for name, shape in facts.shapes:
            other, image_id = shapes.setdefault(name, (shape, facts.image_id))
            if other != shape:
                what, where = (None, "room") if isinstance(name, str) else (name, "box3d")
                text = f"{where} differs from that in {image_id}"
                result.findings.append(
                    Finding(text, result.name, number, facts.image_id, object=what)
                )
        facts.instances.clear()  # saves memory; no longer needed
        facts.shapes.clear()


def _check_group(
    file: pq.ParquetFile, index: int, min_area: int | None, report: Any
) -> RowFacts | None:
    """Check the row of a row group; None if it cannot be read."""
    try:
        row = file.read_row_group(index).to_pylist()[0]
    except (*UNREADABLE, IndexError) as error:
        report(f"cannot be read: {_short(error)}")
        return None
    report = partial(report, image_id=row.get("image_id"))
    try:
        imported = is_imported(row)
        image = check_imported_row(row, report) if imported else check_row(row, min_area, report)
        names = (row["image_id"], row["scene_id"], row["generator"])
        has_seed = isinstance(row["seed"], int) or imported
        if not all(isinstance(name, str) for name in names) or not has_seed:
            raise TypeError("a name is not text, or the seed is not an integer")
        return RowFacts(
            image_id=row["image_id"],
            scene_id=row["scene_id"],
            generator=row["generator"],
            seed=row["seed"],
            settings_hash=str(row["provenance"]["settings_hash"]),
            magnitudes="" if image is None else pack(magnitudes(thumbnail(image))),
            instances=[(t["id"], f"{t['name']} ({t['category']})") for t in row["objects"]],
            shapes=list(_shapes(row)),
        )
    except Exception as error:  # an untrusted row may hold anything
        report(f"does not fit the schema: {_short(error)}")
        return None


def _shapes(row: dict[str, Any]) -> Iterator[tuple[int | str, str]]:
    """What is the same in all panoramas of a scene that show it."""
    for thing in row["objects"]:
        if thing.get("box3d"):
            yield thing["id"], str(sorted(thing["box3d"].items()))
    if room := row.get("room"):
        yield room["name"], str([room["kind"], room["polygon"], room["floor"]])


def _short(error: Exception) -> str:
    """The first line of an error."""
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__
