"""Verify a dataset: its list of shards, each shard by itself, and the rows against each other."""

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
from pipeline.errors import UserError
from pipeline.farm.child import die_with
from pipeline.layout import read_json, write_json
from pipeline.settings import RunSettings
from pipeline.verify.cross_row import Place, compare, find_alike
from pipeline.verify.findings import Finding
from pipeline.verify.listing import list_dataset
from pipeline.verify.shard_checks import Checked, RowFacts, Task, check_shard

CHECKS = 1
"""Raise this when a check is added or mended: what was checked before is then checked again."""


@dataclass(frozen=True)
class Verified:
    """The outcome.

    Attributes:
        shards: Shards looked at.
        panoramas: Rows that could be read.
        findings: Everything that is wrong; a good dataset has none.
        sha256: Hash of each shard.
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
) -> Verified:
    """Read all shards of a dataset back and check them.

    One row is in memory at a time in each process. Of the rows before it their names are kept, and
    192 bytes each to find those that show the same.

    Args:
        address: The folder with data/ and manifest.json, or its data/; a path or a URL.
        settings: The run's. With them the smallest area is known, and who is drawn for validation.
        records: A folder in which each shard's outcome is noted. It is taken from there if the
            file is still the same, which its hash tells; rows are always compared with each other.
        workers: Processes.
        progress: Called after each shard with shards done, shards in all, panoramas and findings.

    Raises:
        UserError: There is no dataset at the address, or a process that checks was killed.
    """
    listed = list_dataset(address, manifest_due=settings is not None)
    min_area = settings.min_area_pixels if settings else None
    tasks = [Task(listed.data, shard, min_area) for shard in listed.shards]
    findings, places, sha256 = list(listed.findings), [], {}
    for done, checked in enumerate(_check(tasks, records, workers), start=1):
        findings += checked.findings
        sha256[checked.name] = checked.sha256
        places += [
            Place(checked.name, number, facts) for number, facts in enumerate(checked.rows) if facts
        ]
        progress(done, len(tasks), len(places), len(findings))
    findings += compare(places, settings)
    findings += find_alike(places, listed.data)
    return Verified(len(tasks), len(places), tuple(findings), sha256)


# ---- each shard ---------------------------------------------------------------------------------


def _check(tasks: list[Task], records: Path | None, workers: int) -> Iterator[Checked]:
    """The outcomes in the order of the tasks."""
    if workers == 1:
        yield from map(_Check(records), tasks)
        return
    # not forked: Arrow has threads
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=die_with,
        initargs=(os.getpid(),),
    )
    try:
        yield from pool.map(_Check(records), tasks)
    except BrokenProcessPool:
        raise UserError(
            "a process that checks shards was killed (out of memory?); run the same command again "
            "with a smaller WORKERS"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class _Check:
    """`check_shard`, unless there is a record; to be sent to other processes."""

    records: Path | None

    def __call__(self, task: Task) -> Checked:
        if self.records is None or task.folder.remote:
            return check_shard(task)
        path = self.records / f"{task.shard.name}.json"
        known = _read_record(path, task)
        if known is None:
            known = check_shard(task)
            with suppress(OSError):  # records only save time; a full disk must not hide findings
                write_json(path, {"key": _key(task, known.sha256), "checked": asdict(known)})
        return known


def _key(task: Task, sha256: str) -> str:
    """What an outcome depends on: the file, what is expected of it, and the checks."""
    text = json.dumps([sha256, asdict(task.shard), task.min_area, CHECKS, __version__])
    return hashlib.sha256(text.encode()).hexdigest()


def _read_record(path: Path, task: Task) -> Checked | None:
    """What was found out about the same file before; None if it has to be checked."""
    try:
        record = read_json(path)
        with open(task.folder.path(task.shard.name), "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if record["key"] != _key(task, sha256):
            return None
        about = record["checked"]
        return Checked(
            name=about["name"],
            sha256=about["sha256"],
            rows=[facts and RowFacts(**facts) for facts in about["rows"]],
            findings=[Finding(**finding) for finding in about["findings"]],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
