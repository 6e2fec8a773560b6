"""What finally became of each scene: one record for a finished scene or for a quarantined seed.

    OUT/done/<scene_id>.json     its panoramas, their costs and sizes
    OUT/failed/<scene_id>.json   why its seed was quarantined, and how to run it again

All records lie side by side in two folders, so that one listing shows the progress of a run, also
on object storage and however many files the scenes have.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from pipeline import storage
from pipeline.farm.attempt import Attempt
from pipeline.layout import STAGES, DamagedFileError, RunFolder

BATCH = 1000  # records read at once
LAST_TIME = 1e11  # Unix seconds that a calendar can show

RECORD = re.compile(r"[a-z]+-\d{10}\.json")
"""Name of a scene's record in done/ or failed/; a killed process may leave other files there."""

NOT_A_RECORD = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""Errors of parsing a file that is not a record."""


@dataclass(frozen=True)
class Cost:
    """What the attempts at one stage of a scene cost, including failed and interrupted ones.

    Attributes:
        attempts: Number of attempts.
        seconds: Wall-clock time.
        cpu_seconds: CPU time of the processes.
        gpu_seconds: Time for which a GPU was held.
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
        bytes: Sizes of what was delivered: `scene` (scene.blend), `rendered` and `panoramas`.
        nodes: Host names of the machines where its attempts ran.
        reasons: How many attempts ended for which reason, "ok" included.
        finished: Unix seconds.
        lost: The part of the costs that went into attempts that did not end well.
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
        stage: Where it failed; `reason` and `detail` as in `attempt.Result`.
        log: The last attempt's log, relative to the scene's folder, and `log_tail`, its end.
        costs, reasons, nodes: As in `Done`.
        run_again: The command that makes this seed alone.
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


Record = TypeVar("Record", Done, Failed)


def costs_of(attempts: Iterable[Attempt]) -> dict[str, Cost]:
    """What a scene's attempts cost, by stage."""
    by_stage: dict[str, list[Cost]] = {}
    for attempt in attempts:
        by_stage.setdefault(attempt.stage, []).append(_cost(attempt))
    return {stage: total_cost(by_stage[stage]) for stage in STAGES if stage in by_stage}


def lost_in(attempts: Iterable[Attempt]) -> Cost:
    """What those of a scene's attempts cost that did not end well."""
    return total_cost(_cost(attempt) for attempt in attempts if attempt.reason != "ok")


def hosts_of(attempts: Iterable[Attempt]) -> tuple[str, ...]:
    """Where a scene's attempts ran; an attempt that never began has a node at most."""
    return tuple(sorted({attempt.host or attempt.node for attempt in attempts}))


def total_cost(costs: Iterable[Cost]) -> Cost:
    """Several costs as one."""
    costs = list(costs)
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
            yield _checked(parse_done, path, data)


def read_failed(run: RunFolder, scene_id: str) -> Failed:
    """The record of a quarantined seed; errors as of `read_done`."""
    path = run.scene(scene_id).failed
    return _checked(parse_failed, path, storage.read_bytes(path))


def read_records(
    folder: Path, names: Iterable[str], parse: Callable[[str, bytes], Record]
) -> Iterator[tuple[str, Record | None]]:
    """The records in done/ or failed/, many at a time; None for a damaged one.

    A record that has been removed since it was listed is left out.

    Args:
        folder: done/ or failed/.
        names: File names.
        parse: `parse_done` or `parse_failed`.
    """
    names = list(names)
    for start in range(0, len(names), BATCH):
        batch = names[start : start + BATCH]
        found = storage.read_many([folder / name for name in batch])
        for name, data in zip(batch, found, strict=True):
            if data is None:
                continue
            try:
                yield name, parse(name.removesuffix(".json"), data)
            except NOT_A_RECORD:
                yield name, None


def damaged_message(path: Path) -> str:
    """What is wrong with a damaged record, and what to do."""
    then = "tries that seed again" if path.parent.name == "failed" else "writes it again"
    return f"{path} is damaged; delete it and run make render again, which {then}"


def parse_done(scene_id: str, data: bytes) -> Done:
    """The record of a finished scene, or one of `NOT_A_RECORD`."""
    fields, costs, nodes = _parse(scene_id, data)
    lost = _parse_cost(fields["lost"]) if "lost" in fields else Cost()
    if not isinstance(fields["panoramas"], list) or not isinstance(fields["unfit"], dict):
        raise TypeError
    _check_numbers([fields["finished"], *fields["bytes"].values(), *fields["reasons"].values()])
    return Done(
        scene_id=scene_id,
        seed=fields["seed"],
        generator=fields["generator"],
        panoramas=tuple(fields["panoramas"]),
        unfit=fields["unfit"],
        costs=costs,
        bytes=fields["bytes"],
        nodes=nodes,
        reasons=fields["reasons"],
        finished=fields["finished"],
        lost=lost,
    )


def parse_failed(scene_id: str, data: bytes) -> Failed:
    """The record of a quarantined seed, or one of `NOT_A_RECORD`."""
    fields, costs, nodes = _parse(scene_id, data)
    texts = {
        name: fields[name]
        for name in ("generator", "stage", "reason", "detail", "log", "log_tail", "run_again")
    }
    if not all(isinstance(text, str) for text in texts.values()):
        raise TypeError
    _check_numbers([fields["when"], *fields["reasons"].values()])
    if fields["when"] >= LAST_TIME:
        raise ValueError
    return Failed(
        scene_id=scene_id,
        seed=fields["seed"],
        costs=costs,
        reasons=fields["reasons"],
        nodes=nodes,
        when=float(fields["when"]),
        **texts,
    )


def names_of(folder: Path) -> set[str]:
    """The scenes that have a record in a folder."""
    return {name.removesuffix(".json") for name in storage.names(folder) if RECORD.fullmatch(name)}


def seed_of(scene_id: str) -> int:
    """The seed in a scene's name.

    >>> seed_of("indoors-0000000012")
    12
    """
    return int(scene_id.rpartition("-")[2])


def _checked(parse: Callable[[str, bytes], Record], path: Path, data: bytes) -> Record:
    try:
        return parse(path.stem, data)
    except NOT_A_RECORD:
        raise DamagedFileError(damaged_message(path)) from None


def _parse(scene_id: str, data: bytes) -> tuple[dict[str, Any], dict[str, Cost], tuple[str, ...]]:
    """The fields of a record, and those that both kinds have and need converting."""
    fields = _decode(data.decode())
    if fields["scene_id"] != scene_id:
        raise ValueError
    costs = {stage: _parse_cost(cost) for stage, cost in fields["costs"].items()}
    if not costs.keys() <= set(STAGES):
        raise ValueError
    return fields, costs, tuple(str(node) for node in fields["nodes"])


def _parse_cost(fields: dict[str, Any]) -> Cost:
    numbers = [fields[name] for name in Cost.__dataclass_fields__]
    _check_numbers(numbers)
    return Cost(*numbers)


def _check_numbers(numbers: list[Any]) -> None:
    """Raise unless all are numbers, finite and not negative."""
    if min(numbers) < 0 or max(numbers) == math.inf:
        raise ValueError


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


_decode = json.JSONDecoder(parse_constant=_refuse_constant).decode  # NaN would spoil every sum
