"""What the records of finished scenes and failed seeds add up to, each record read once."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from dataclasses import dataclass, fields
from operator import itemgetter
from typing import Any

from pipeline import storage
from pipeline.farm.records import BATCH, RECORD, Cost, add
from pipeline.layout import STAGES, RunFolder

SLOWEST = 5
COSTS = tuple(field.name for field in fields(Cost))
"""The last, the peak, is the largest; the others add up."""

NOT_A_RECORD = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What comes of reading a file as a record that is none."""


@dataclass(frozen=True)
class Slow:
    """What one seed took: wall-clock seconds of all its attempts, in all and by stage."""

    scene_id: str
    seconds: float
    stages: dict[str, float]
    failed: bool


@dataclass(frozen=True)
class Totals:
    """Sums over a run; damaged records count in `done` and `failed` alone.

    Attributes:
        done, failed: Finished scenes and quarantined seeds.
        finished: When each scene was finished, Unix seconds, ascending.
        good, unfit: Panoramas of finished scenes.
        costs: By stage, of finished scenes and failed seeds; `failed_costs`, of failed seeds alone.
        lost: Of all stages: what failed seeds cost, and of finished scenes the attempts that did
            not end well.
        reasons: How often their attempts ended how.
        kinds: Failed seeds by (stage, reason).
        bytes: Brought to OUT by finished scenes: `scene`, `rendered`, `panoramas`.
        nodes: By host name, in how many finished scenes and in how many failed seeds it took part.
        slowest: The slowest seeds, slowest first.
        damaged: Places in OUT of the records that cannot be used.
    """

    done: int
    failed: int
    finished: tuple[float, ...]
    good: int
    unfit: int
    costs: dict[str, Cost]
    failed_costs: dict[str, Cost]
    lost: Cost
    reasons: dict[str, int]
    kinds: dict[tuple[str, str], int]
    bytes: dict[str, int]
    nodes: dict[str, tuple[int, int]]
    slowest: tuple[Slow, ...]
    damaged: tuple[str, ...]


class Records:
    """The records of a run as far as they have been read; `update` reads those that are new.

    A record never changes. Should one be gone (taken back, or deleted by a user), all are read
    again.
    """

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._seen: dict[str, set[str]] = {"done": set(), "failed": set()}
        self._ids: set[str] = set()
        self._damaged: list[str] = []
        self._finished: list[float] = []
        self._good = self._unfit = 0
        self._costs: defaultdict[tuple[str, str], Cost] = defaultdict(Cost)  # by kind and stage
        self._new: defaultdict[tuple[str, str], list[tuple[Any, ...]]] = defaultdict(list)
        self._reasons: Counter[str] = Counter()
        self._kinds: Counter[tuple[str, str]] = Counter()
        self._bytes: Counter[str] = Counter()
        self._nodes = {kind: Counter[str]() for kind in self._seen}
        self._slowest: list[Slow] = []

    def update(self, run: RunFolder) -> None:
        """Read the records that are new since the last call."""
        failed = set(storage.names(run.failed_folder))
        done = set(storage.names(run.done_folder)) - failed  # once given up, it is not wanted
        if self._seen["failed"] - failed or self._seen["done"] - done:
            self._clear()
        for kind, names in (("failed", failed), ("done", done)):
            new = [name for name in names - self._seen[kind] if RECORD.fullmatch(name)]
            for start in range(0, len(new), BATCH):
                self._read(run, kind, new[start : start + BATCH])
        self._fold()
        self._finished.sort()

    @property
    def ids(self) -> set[str]:
        """The scenes that have a record; not to be changed."""
        return self._ids

    def totals(self) -> Totals:
        """The sums at this moment."""
        done, failed = (
            {stage: self._costs[kind, stage] for stage in STAGES} for kind in ("done", "failed")
        )
        ran = self._nodes["done"] | self._nodes["failed"]
        return Totals(
            done=len(self._seen["done"]),
            failed=len(self._seen["failed"]),
            finished=tuple(self._finished),
            good=self._good,
            unfit=self._unfit,
            costs={stage: add(done[stage], failed[stage]) for stage in STAGES},
            failed_costs=failed,
            lost=add(*failed.values(), self._costs["lost", ""]),
            reasons=dict(self._reasons.most_common()),
            kinds=dict(self._kinds.most_common()),
            bytes={kind: self._bytes[kind] for kind in ("scene", "rendered", "panoramas")},
            nodes={
                node: (self._nodes["done"][node], self._nodes["failed"][node])
                for node, _ in ran.most_common()
            },
            slowest=tuple(self._slowest),
            damaged=tuple(sorted(self._damaged)),
        )

    def _read(self, run: RunFolder, kind: str, names: list[str]) -> None:
        folder = run.done_folder if kind == "done" else run.failed_folder
        found = storage.read_many([folder / name for name in names])
        for name, data in zip(names, found, strict=True):
            if data is None:  # gone since it was listed
                continue
            scene_id = name.removesuffix(".json")
            self._seen[kind].add(name)
            self._ids.add(scene_id)
            try:
                record = _decode(data.decode())
                if record["scene_id"] != scene_id:
                    raise ValueError
                (self._add_done if kind == "done" else self._add_failed)(record)
            except NOT_A_RECORD:
                self._damaged.append(f"{folder.name}/{name}")

    def _fold(self) -> None:
        """Add up what the new records cost."""
        for key, rows in self._new.items():
            *columns, peaks = zip(*rows, strict=True)
            attempts, seconds, cpu_seconds, gpu_seconds = map(sum, columns)
            new = Cost(attempts, seconds, cpu_seconds, gpu_seconds, max(peaks))
            self._costs[key] = add(self._costs[key], new)
        self._new.clear()

    def _add_done(self, record: dict[str, Any]) -> None:
        good, unfit = _count(record["panoramas"], list), _count(record["unfit"], dict)
        taken, finished = record["bytes"], record["finished"]
        lost = _numbers(record["lost"]) if "lost" in record else _NOTHING
        self._add(record, "done", [finished, *taken.values(), *lost])
        if lost[0]:
            self._new["lost", ""].append(lost)
        self._good += good
        self._unfit += unfit
        for what, number in taken.items():
            self._bytes[what] += number
        self._finished.append(finished)

    def _add_failed(self, record: dict[str, Any]) -> None:
        kind = str(record["stage"]), str(record["reason"])
        self._add(record, "failed", [])
        self._kinds[kind] += 1

    def _add(self, record: dict[str, Any], kind: str, others: list[Any]) -> None:
        """Add what both kinds of record have, or nothing at all of one that is damaged.

        Args:
            others: Numbers of the record that are looked at as well.
        """
        costs = [(stage, _numbers(cost)) for stage, cost in record["costs"].items()]
        reasons, nodes = record["reasons"], [str(node) for node in record["nodes"]]
        numbers = [*others, *reasons.values()]
        for stage, row in costs:
            numbers += row
            if stage not in STAGES:
                raise ValueError
        if numbers and (min(numbers) < 0 or max(numbers) == math.inf):
            raise ValueError
        seconds = 0.0
        for stage, row in costs:
            self._new[kind, stage].append(row)
            seconds += row[1]
        for reason, number in reasons.items():
            self._reasons[reason] += number
        for node in nodes:
            self._nodes[kind][node] += 1
        if len(self._slowest) < SLOWEST or seconds > self._slowest[-1].seconds:
            stages = {stage: row[1] for stage, row in costs}
            slow = Slow(record["scene_id"], seconds, stages, failed=kind == "failed")
            self._slowest = sorted([*self._slowest, slow], key=lambda one: -one.seconds)[:SLOWEST]


def _count(items: Any, kind: type[list[Any]] | type[dict[str, Any]]) -> int:
    if not isinstance(items, kind):
        raise TypeError
    return len(items)


def _no_number(name: str) -> None:
    raise ValueError(name)


_NOTHING = (0,) * len(COSTS)
_numbers = itemgetter(*COSTS)
_decode = json.JSONDecoder(parse_constant=_no_number).decode  # NaN would spoil every sum
