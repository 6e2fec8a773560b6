"""Verify a dataset: its list of shards, each shard, and its rows against each other."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline import __version__
from pipeline.digest import sha256_of
from pipeline.errors import UserError
from pipeline.farm.child import die_with
from pipeline.layout import DamagedFileError, read_json, write_json
from pipeline.run_settings import RunSettings
from pipeline.shards.manifest import (
    MANIFEST,
    Shard,
    expected_names,
    locate_dataset,
    nothing_in,
    read_manifest,
)
from pipeline.storage import is_remote, open_path
from pipeline.verify.cross_row import LocatedRow, check_rows, find_near_duplicates
from pipeline.verify.findings import Finding
from pipeline.verify.shard_checks import RowFacts, ShardReport, ShardTask, check_shard

CHECKS_VERSION = 2
"""Increase it when a check is added or fixed, so that recorded shards are checked again."""


@dataclass(frozen=True)
class VerifyResult:
    """The result of a verification.

    Attributes:
        shards: Number of shards checked.
        panoramas: Number of readable rows.
        findings: All errors; empty for a good dataset.
        sha256: Hash of each shard, by file name.
    """

    shards: int
    panoramas: int
    findings: tuple[Finding, ...]
    sha256: dict[str, str]


def verify(
    address: Path | str,
    *,
    settings: RunSettings | None = None,
    records: Path | None = None,
    workers: int = 1,
    progress: Callable[[int, int, int, int], None] = lambda *_: None,
) -> VerifyResult:
    """Read all shards of a dataset and check them.

    Each process holds one row in memory at a time. Of earlier rows it keeps their names, and
    192 bytes each to find near duplicates.

    Args:
        address: The folder with data/ and manifest.json, or its data/; a path or a URL.
        settings: The settings of the run, which define the smallest area and the splits.
        records: A folder with the outcome of each shard. A shard whose file has not changed, by
            its hash, is not checked again; rows are always compared with each other.
        workers: Number of processes.
        progress: Called after each shard with the numbers of finished shards, of all shards, of
            panoramas and of findings.

    Raises:
        UserError: There is no dataset at the address, or a worker process was killed.
    """
    folder, shards, findings = _list_shards(address, needs_manifest=settings is not None)
    min_area = settings.min_area_pixels if settings else None
    tasks = [ShardTask(folder, shard, min_area) for shard in shards]
    rows: list[LocatedRow] = []
    sha256: dict[str, str] = {}
    for done, report in enumerate(_check_shards(tasks, records, workers), start=1):
        findings += report.findings
        sha256[report.name] = report.sha256
        rows += [
            LocatedRow(report.name, index, facts)
            for index, facts in enumerate(report.rows)
            if facts
        ]
        progress(done, len(tasks), len(rows), len(findings))
    findings += check_rows(rows, settings)
    findings += find_near_duplicates(rows, folder)
    return VerifyResult(len(tasks), len(rows), tuple(findings), sha256)


def _list_shards(
    address: Path | str, *, needs_manifest: bool
) -> tuple[Path, list[Shard], list[Finding]]:
    """List the shards in a folder and compare them with its manifest.

    Unlike the reader, this does not stop at the first missing shard: all errors are reported.

    Returns:
        The folder of the shards, the existing shards in order, and the errors of the list.

    Raises:
        UserError: There are no shards, or the folder cannot be read.
    """
    dataset = locate_dataset(open_path(address, read_only=True))
    folder, sizes = dataset.data, dataset.sizes
    findings: list[Finding] = []
    listed: dict[str, Shard] = {}
    if dataset.manifest is not None:
        try:
            shards = read_manifest(dataset.manifest, dataset.manifest_bytes)
            listed = {shard.name: shard for shard in shards}
        except DamagedFileError:
            findings.append(Finding(f"{MANIFEST} is damaged and lists no shards"))
    elif needs_manifest:
        findings.append(Finding(f"{MANIFEST} is missing"))
    if not sizes and not listed:
        raise UserError(nothing_in(folder, "shards to verify"))
    for name in sorted(set(listed or expected_names(sizes)) - set(sizes)):
        findings.append(Finding("is missing", shard=name))
    for name in sorted(set(sizes) - set(listed)) if listed else ():
        findings.append(Finding("is not in the manifest", shard=name))
    for name, shard in listed.items():
        size = sizes.get(name)
        if size is not None and shard.bytes not in (None, size):
            text = f"has {size} bytes, the manifest says {shard.bytes}"
            findings.append(Finding(text, shard=name))
    return (
        folder,
        [listed.get(name) or Shard(name, sizes[name]) for name in sorted(sizes)],
        findings,
    )


# ---- shards in parallel, with a record of each ---------------------------------------------------


def _check_shards(
    tasks: list[ShardTask], records: Path | None, workers: int
) -> Iterator[ShardReport]:
    """The reports in the order of the tasks."""
    check = _RecordedCheck(records)
    if workers == 1:
        yield from map(check, tasks)
        return
    # spawned, because Arrow has threads, which do not survive a fork
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=die_with,
        initargs=(os.getpid(),),
    )
    try:
        yield from pool.map(check, tasks)
    except BrokenProcessPool:
        raise UserError(
            "a worker process was killed, probably for lack of memory; run the same command with "
            "a smaller WORKERS"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class _RecordedCheck:
    """`check_shard` with a record of its report; can be sent to other processes."""

    records: Path | None

    def __call__(self, task: ShardTask) -> ShardReport:
        if self.records is None or is_remote(task.folder):
            return check_shard(task)
        path = self.records / f"{task.shard.name}.json"
        report = _read_record(path, task)
        if report is None:
            report = check_shard(task)
            with suppress(OSError):  # a full disk must not hide findings
                write_json(
                    path, {"key": _record_key(task, report.sha256), "report": asdict(report)}
                )
        return report


def _record_key(task: ShardTask, sha256: str) -> str:
    """Hash of everything that a report depends on: the file, what is expected of it, the checks."""
    text = json.dumps([sha256, asdict(task.shard), task.min_area, CHECKS_VERSION, __version__])
    return hashlib.sha256(text.encode()).hexdigest()


def _read_record(path: Path, task: ShardTask) -> ShardReport | None:
    """The recorded report of an unchanged file; None if the shard must be checked."""
    try:
        record = read_json(path)
        sha256 = sha256_of(task.folder / task.shard.name)
        if record["key"] != _record_key(task, sha256):
            return None
        report = record["report"]
        return ShardReport(
            name=report["name"],
            sha256=report["sha256"],
            rows=[facts and RowFacts(**facts) for facts in report["rows"]],
            findings=[Finding(**finding) for finding in report["findings"]],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
