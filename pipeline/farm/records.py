"""What became of each scene, for good: one record for a finished scene, one for a quarantined one.

    OUT/done/<scene_id>.json     its panoramas, what they cost, what they take
    OUT/failed/<scene_id>.json   why its seed was given up, and how to run it again

They lie side by side in two folders, so that one listing tells how a run stands, also on object
storage, however many files its scenes have.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline import storage
from pipeline.farm.attempt import Attempt
from pipeline.layout import STAGES, DamagedFileError, RunFolder, read_json

BATCH = 1000  # records read at once
MEND = "delete it and run the same command again, which writes it anew"


RECORD = re.compile(r"[a-z]+-\d{10}\.json")
"""A scene's record in done/ or failed/, and not what a killed process left half-written."""


@dataclass(frozen=True)
class Cost:
    """What one stage of a scene took, failed and interrupted attempts included.

    Attributes:
        attempts: How many there were.
        seconds: Wall-clock time.
        cpu_seconds: Of the processes; `gpu_seconds`, the time in which a GPU was held.
        peak_rss: The largest resident size of an attempt, bytes.
    """

    attempts: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    gpu_seconds: float = 0.0
    peak_rss: int = 0


@dataclass(frozen=True)
class Done:
    """A finished scene.

    Attributes:
        panoramas: Indices of the good ones.
        unfit: By index, why each of the others is unfit.
        costs: By stage.
        bytes: By what takes them: `scene` (scene.blend), `rendered` and `panoramas`.
        nodes: Where its attempts ran, by host name.
        reasons: How often its attempts ended how, "ok" included.
        finished: When, Unix seconds.
        lost: Of the costs, what went into attempts that did not end well.
    """

    scene_id: str
    seed: int
    generator: str
    panoramas: tuple[int, ...]
    unfit: dict[str, list[str]]
    costs: dict[str, Cost]
    bytes: dict[str, int]
    nodes: tuple[str, ...]
    reasons: dict[str, int]
    finished: float
    lost: Cost = Cost()

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of all its attempts."""
        return sum(cost.seconds for cost in self.costs.values())


@dataclass(frozen=True)
class Failed:
    """A quarantined seed.

    Attributes:
        stage: Where it failed, `reason` and `detail` as in `worker.Result`.
        log_tail: The end of the last attempt's log, and `log`, its place in the scene's folder.
        costs, reasons, nodes: As in `Done`.
        run_again: The command that makes this seed again by itself.
        when: Unix seconds.
    """

    scene_id: str
    seed: int
    generator: str
    stage: str
    reason: str
    detail: str
    log: str
    log_tail: str
    costs: dict[str, Cost]
    reasons: dict[str, int]
    nodes: tuple[str, ...]
    run_again: str
    when: float


def costs_of(attempts: Iterable[Attempt]) -> dict[str, Cost]:
    """What a scene's attempts cost, by stage."""
    costs: dict[str, Cost] = {}
    for one in attempts:
        costs[one.stage] = add(costs.get(one.stage, Cost()), _cost(one))
    return {stage: costs[stage] for stage in STAGES if stage in costs}


def lost_in(attempts: Iterable[Attempt]) -> Cost:
    """What those of a scene's attempts cost that did not end well."""
    return add(*(_cost(one) for one in attempts if one.reason != "ok"))


def hosts_of(attempts: Iterable[Attempt]) -> tuple[str, ...]:
    """Where a scene's attempts ran; an attempt that never began has only a node, or nothing."""
    return tuple(sorted({one.host or one.node for one in attempts}))


def add(*costs: Cost) -> Cost:
    """Several costs as one."""
    return Cost(
        attempts=sum(cost.attempts for cost in costs),
        seconds=sum(cost.seconds for cost in costs),
        cpu_seconds=sum(cost.cpu_seconds for cost in costs),
        gpu_seconds=sum(cost.gpu_seconds for cost in costs),
        peak_rss=max((cost.peak_rss for cost in costs), default=0),
    )


def _cost(one: Attempt) -> Cost:
    return Cost(1, one.seconds, one.cpu_seconds, one.seconds * one.gpus, one.peak_rss)


def to_json(record: Done | Failed) -> dict[str, Any]:
    return asdict(record)


def read_done(run: RunFolder, scene_id: str) -> Done:
    """The record of a finished scene.

    Raises:
        FileNotFoundError: It is not finished.
        DamagedFileError: Its record cannot be used.
    """
    return next(read_all_done(run, [scene_id]))


def read_all_done(run: RunFolder, scene_ids: Iterable[str]) -> Iterator[Done]:
    """The records of several finished scenes, many at a time; errors as of `read_done`."""
    paths = [run.scene(scene_id).done for scene_id in scene_ids]
    for start in range(0, len(paths), BATCH):
        batch = paths[start : start + BATCH]
        for path, data in zip(batch, storage.read_many(batch), strict=True):
            if data is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            yield _done(path, data)


def _done(path: Path, text: bytes) -> Done:
    try:
        data = json.loads(text)
        return Done(
            **{
                **data,
                "panoramas": tuple(data["panoramas"]),
                "nodes": tuple(data["nodes"]),
                "costs": {stage: Cost(**cost) for stage, cost in data["costs"].items()},
                "lost": Cost(**data.get("lost", {})),
            }
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DamagedFileError(f"{path} is damaged; {MEND}") from None


def read_failed(run: RunFolder, scene_id: str) -> Failed:
    """The record of a quarantined seed; errors as of `read_done`."""
    path = run.scene(scene_id).failed
    remedy = "delete it and run the same command again, which tries that seed again"
    data = read_json(path, remedy)
    try:
        return Failed(
            **{
                **data,
                "nodes": tuple(data["nodes"]),
                "costs": {stage: Cost(**cost) for stage, cost in data["costs"].items()},
            }
        )
    except (KeyError, TypeError, AttributeError):
        raise DamagedFileError(f"{path} is damaged; {remedy}") from None


def names_of(folder: Path) -> set[str]:
    """The scenes that have a record in a folder."""
    return {name.removesuffix(".json") for name in storage.names(folder) if RECORD.fullmatch(name)}


def seed_of(scene_id: str) -> int:
    """The seed in a scene's name.

    >>> seed_of("indoors-0000000012")
    12
    """
    return int(scene_id.rpartition("-")[2])
