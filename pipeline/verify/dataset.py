"""Verify a dataset: its list of shards, each shard by itself, and the rows against each other."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline import __version__
from pipeline.errors import UserError
from pipeline.outputs import read_json, write_json
from pipeline.settings import RunSettings
from pipeline.verify.between import Place, compare, find_alike
from pipeline.verify.findings import Finding
from pipeline.verify.listing import list_dataset
from pipeline.verify.shard import Checked, RowFacts, Task, check_shard

CHECKS = 1
"""Raise this when a check is added or mended: what was checked before is then checked again."""


@dataclass(frozen=True)
class Verified:
    """The outcome.

    Attributes:
        shards: Shards looked at.
        panoramas: Rows that could be read.
        findings: Everything that is wrong; a good dataset has none.
        sha256: Hash of each local shard.
    """

    shards: int
    panoramas: int
    findings: tuple[Finding, ...]
    sha256: dict[str, str | None]


def verify(
    address: Path | str,
    *,
    settings: RunSettings | None = None,
    records: Path | None = None,
    anew: bool = True,
    workers: int = 1,
    progress: Callable[[int, int, int, int], None] = lambda *_: None,
) -> Verified:
    """Read all shards of a dataset back and check them.

    One row is in memory at a time in each process. Of the rows before it their names are kept, and
    192 bytes each to find those that show the same.

    Args:
        address: The folder with data/ and manifest.json, or its data/; a path or a URL.
        settings: The run's. With them the smallest area is known, and who is drawn for validation.
        records: A folder in which to note each shard's outcome.
        anew: False takes a shard's outcome from `records` if the file is still the same, which
            its hash tells; the comparisons between rows are always made.
        workers: Processes.
        progress: Called after each shard with shards done, shards in all, panoramas and findings.

    Raises:
        UserError: There is no dataset at the address, or a process that checks was killed.
    """
    listed = list_dataset(address)
    min_area = settings.min_area_pixels if settings else None
    tasks = [
        Task(listed.data, name, listed.manifest.get(name, {}), min_area) for name in listed.shards
    ]
    findings, places, sha256 = list(listed.findings), [], {}
    for done, checked in enumerate(_check(tasks, records, anew, workers), start=1):
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


def _check(tasks: list[Task], records: Path | None, anew: bool, workers: int) -> Iterator[Checked]:
    """The outcomes in the order of the tasks."""
    for task, checked in _in_processes(_Check(records, anew), tasks, workers):
        if records is not None:
            _write_record(records, task, checked)
        yield checked


@dataclass(frozen=True)
class _Check:
    """`check_shard`, unless there is a record; to be sent to other processes."""

    records: Path | None
    anew: bool

    def __call__(self, task: Task) -> Checked:
        known = None if self.anew or self.records is None else _read_record(self.records, task)
        return known or check_shard(task)


def _in_processes(
    function: Callable[[Task], Checked], tasks: list[Task], workers: int
) -> Iterator[tuple[Task, Checked]]:
    if workers == 1:
        yield from zip(tasks, map(function, tasks), strict=True)
        return
    # not forked: Arrow has threads
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield from zip(tasks, pool.map(function, tasks), strict=True)
    except BrokenProcessPool:
        raise UserError(
            "a process that checks shards was killed (out of memory?); run the same command again "
            "with a smaller WORKERS"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _key(task: Task, sha256: str) -> str:
    """What an outcome depends on: the file, what is expected of it, and the checks."""
    text = json.dumps([sha256, dict(task.entry), task.min_area, CHECKS, __version__])
    return hashlib.sha256(text.encode()).hexdigest()


def _write_record(records: Path, task: Task, checked: Checked) -> None:
    if checked.sha256 is not None:
        key = _key(task, checked.sha256)
        write_json(records / f"{task.name}.json", {"key": key, "checked": asdict(checked)})


def _read_record(records: Path, task: Task) -> Checked | None:
    """What was found out about the same file before; None if it has to be checked."""
    if task.folder.remote:
        return None
    path = Path(task.folder.path(task.name))
    try:
        record = read_json(records / f"{task.name}.json")
        with open(path, "rb") as file:
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
