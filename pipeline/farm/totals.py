"""What the records of finished scenes and quarantined seeds add up to; each is read once."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pipeline import storage
from pipeline.farm.records import (
    RECORD,
    Cost,
    Done,
    Failed,
    Record,
    parse_done,
    parse_failed,
    read_records,
    total_cost,
)
from pipeline.layout import STAGES, RunFolder

SLOWEST = 5


@dataclass(frozen=True)
class Slow:
    """What one seed took: wall-clock seconds of all its attempts, in total and by stage."""

    scene_id: str
    seconds: float
    stages: dict[str, float]
    failed: bool


@dataclass(frozen=True)
class Totals:
    """Sums over a run; damaged records count in `done` and `failed` only.

    Attributes:
        done, failed: Finished scenes and quarantined seeds.
        finished: When each scene was finished, Unix seconds, ascending.
        good, unfit: Panoramas of finished scenes.
        costs: By stage, of finished scenes and quarantined seeds; `failed_costs`, of quarantined
            seeds only.
        lost: Over all stages: the cost of quarantined seeds, and of those attempts of finished
            scenes that did not end well.
        reasons: How many attempts ended for which reason.
        kinds: Quarantined seeds by (stage, reason).
        bytes: Delivered to OUT by finished scenes: `scene`, `rendered`, `panoramas`.
        nodes: By host name, for how many finished scenes and quarantined seeds it worked.
        slowest: The slowest seeds, slowest first.
        damaged: Records that cannot be used, relative to OUT.
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
    """The records of a run that have been read so far; `update` reads the new ones.

    A record never changes. If one is gone (reset, or deleted by a user), all are read again.
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
        self._new: defaultdict[tuple[str, str], list[Cost]] = defaultdict(list)
        self._reasons: Counter[str] = Counter()
        self._kinds: Counter[tuple[str, str]] = Counter()
        self._bytes: Counter[str] = Counter()
        self._nodes = {kind: Counter[str]() for kind in self._seen}
        self._slowest: list[Slow] = []

    def update(self, run: RunFolder) -> None:
        """Read the records that are new since the last call."""
        failed = set(storage.names(run.failed_folder))
        done = set(storage.names(run.done_folder)) - failed  # a quarantined seed is not wanted
        if self._seen["failed"] - failed or self._seen["done"] - done:
            self._clear()
        for seed in self._read_new(run, "failed", failed, parse_failed):
            self._kinds[seed.stage, seed.reason] += 1
        for scene in self._read_new(run, "done", done, parse_done):
            self._good += len(scene.panoramas)
            self._unfit += len(scene.unfit)
            self._bytes.update(scene.bytes)
            self._finished.append(scene.finished)
            if scene.lost.attempts:
                self._new["lost", ""].append(scene.lost)
        for key, costs in self._new.items():
            self._costs[key] = total_cost([self._costs[key], *costs])
        self._new.clear()
        self._finished.sort()

    @property
    def ids(self) -> set[str]:
        """The scenes that have a record; must not be changed."""
        return self._ids

    def totals(self) -> Totals:
        """The sums at this moment."""
        done, failed = (
            {stage: self._costs[kind, stage] for stage in STAGES} for kind in ("done", "failed")
        )
        worked = self._nodes["done"] | self._nodes["failed"]
        return Totals(
            done=len(self._seen["done"]),
            failed=len(self._seen["failed"]),
            finished=tuple(self._finished),
            good=self._good,
            unfit=self._unfit,
            costs={stage: total_cost([done[stage], failed[stage]]) for stage in STAGES},
            failed_costs=failed,
            lost=total_cost([*failed.values(), self._costs["lost", ""]]),
            reasons=dict(self._reasons.most_common()),
            kinds=dict(self._kinds.most_common()),
            bytes={kind: self._bytes[kind] for kind in ("scene", "rendered", "panoramas")},
            nodes={
                node: (self._nodes["done"][node], self._nodes["failed"][node])
                for node, _ in worked.most_common()
            },
            slowest=tuple(self._slowest),
            damaged=tuple(sorted(self._damaged)),
        )

    def _read_new(
        self, run: RunFolder, kind: str, names: set[str], parse: Callable[[str, bytes], Record]
    ) -> Iterator[Record]:
        """Read the new records of a kind, and add what both kinds have."""
        folder = run.done_folder if kind == "done" else run.failed_folder
        new = [name for name in names - self._seen[kind] if RECORD.fullmatch(name)]
        for name, record in read_records(folder, new, parse):
            self._seen[kind].add(name)
            self._ids.add(name.removesuffix(".json"))
            if record is None:
                self._damaged.append(f"{folder.name}/{name}")
            else:
                self._add(kind, record)
                yield record

    def _add(self, kind: str, record: Done | Failed) -> None:
        seconds = 0.0
        for stage, cost in record.costs.items():
            self._new[kind, stage].append(cost)
            seconds += cost.seconds
        self._reasons.update(record.reasons)
        self._nodes[kind].update(record.nodes)
        if len(self._slowest) < SLOWEST or seconds > self._slowest[-1].seconds:
            stages = {stage: cost.seconds for stage, cost in record.costs.items()}
            slow = Slow(record.scene_id, seconds, stages, failed=kind == "failed")
            self._slowest = sorted([*self._slowest, slow], key=lambda one: -one.seconds)[:SLOWEST]
