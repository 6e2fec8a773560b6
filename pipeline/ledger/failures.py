"""What `make failures` prints: every seed that was given up, why, and how to make it again."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass

from pipeline import storage
from pipeline.errors import UserError
from pipeline.layout import RunFolder
from pipeline.ledger.attempts import Attempt, read_attempts
from pipeline.ledger.records import RECORD, Cost, Failed
from pipeline.ledger.status_text import damaged_line, duration
from pipeline.ledger.totals import NOT_A_RECORD

LIMIT = 3
LOG_LINES = 10
LAST_TIME = 1e11  # Unix seconds that a calendar knows


@dataclass(frozen=True)
class Failures:
    """The quarantined seeds of a run.

    Attributes:
        records: The newest first.
        damaged: Places in OUT of the records that cannot be used.
    """

    records: tuple[Failed, ...]
    damaged: tuple[str, ...]

    @property
    def kinds(self) -> dict[tuple[str, str], list[Failed]]:
        """By stage and reason; the most frequent kind first, in each the newest seed first."""
        counts = Counter((record.stage, record.reason) for record in self.records)
        kinds: dict[tuple[str, str], list[Failed]] = {kind: [] for kind, _ in counts.most_common()}
        for record in self.records:
            kinds[record.stage, record.reason].append(record)
        return kinds


def read_failures(run: RunFolder) -> Failures:
    """The seeds that were given up.

    Raises:
        UserError: There is no run.
    """
    if not storage.exists(run.settings):
        raise UserError(f"there is no run in OUT={run.path}; `make render OUT=…` starts one")
    folder = run.failed_folder
    names = sorted(name for name in storage.names(folder) if RECORD.fullmatch(name))
    records, damaged = [], []
    for name, data in zip(names, storage.read_many([folder / n for n in names]), strict=True):
        if data is None:  # taken back since it was listed
            continue
        try:
            records.append(_record(name.removesuffix(".json"), data))
        except NOT_A_RECORD:
            damaged.append(f"{folder.name}/{name}")
    records.sort(key=lambda record: record.when, reverse=True)
    return Failures(tuple(records), tuple(damaged))


def failures_text(run: RunFolder, limit: int | None = LIMIT) -> str:
    """What `make failures` prints.

    Args:
        run: The run.
        limit: So many seeds of each kind (stage and reason) are shown, the newest; None shows all.

    Raises:
        UserError: There is no run, or the limit is below 1.
    """
    if limit is not None and limit < 1:
        raise UserError(f"LIMIT must be at least 1, not {limit}")
    failures = read_failures(run)
    lines = [damaged_line(run, place) for place in failures.damaged]
    if not failures.records:
        return "\n".join(lines or [f"no seed has failed in {run.path}"])
    kinds, shown = failures.kinds, len(failures.records) if limit is None else limit
    counts = ", ".join(f"{len(of_it)} {stage} {reason}" for (stage, reason), of_it in kinds.items())
    lines.append(f"{run.path}: {_seeds(len(failures.records))} failed: {counts}")
    for (stage, reason), of_it in kinds.items():
        if len(kinds) > 1 or len(of_it) > shown:
            lines += ["", f"== {stage} {reason}: {_seeds(len(of_it))}"]
        for record in of_it[:shown]:
            lines += ["", *_seed_lines(run, record)]
        if more := len(of_it[shown:]):
            lines += ["", f"and {more} older; LIMIT={len(of_it)} shows all"]
    return "\n".join(lines)


def failures_json(run: RunFolder) -> str:
    """The same as JSON, all of it, for programs.

    Times are Unix seconds, durations seconds, sizes bytes. Keys stay; new ones may come.

        failed     how many seeds
        kinds      stage, reason, seeds; the most frequent first
        seeds      the newest first: scene_id, seed, generator, stage, reason, detail, when, log
                   (its full path), log_tail, run_again, nodes, reasons (how often its attempts
                   ended how), attempts (stage, number, reason, detail, host, node, started, ended,
                   seconds, cpu_seconds, peak_rss, counted)
        damaged    records that cannot be used, as places in OUT
    """
    failures = read_failures(run)
    data = {
        "failed": len(failures.records),
        "kinds": [
            {"stage": stage, "reason": reason, "seeds": len(of_it)}
            for (stage, reason), of_it in failures.kinds.items()
        ],
        "seeds": [_seed_data(run, record) for record in failures.records],
        "damaged": list(failures.damaged),
    }
    return json.dumps(data, indent=1, sort_keys=True)


def _record(scene_id: str, data: bytes) -> Failed:
    """A record, or one of `NOT_A_RECORD`."""
    fields = json.loads(data)
    texts = ("stage", "reason", "detail", "log", "log_tail", "run_again")
    if fields["scene_id"] != scene_id or not all(isinstance(fields[key], str) for key in texts):
        raise ValueError
    costs = {stage: Cost(**cost) for stage, cost in fields["costs"].items()}
    nodes = tuple(str(node) for node in fields["nodes"])
    when = float(fields["when"])
    if not 0 <= when < LAST_TIME:
        raise ValueError
    return Failed(**{**fields, "costs": costs, "nodes": nodes, "when": when})


def _seed_lines(run: RunFolder, record: Failed) -> list[str]:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.when))
    tail = record.log_tail.splitlines()[-LOG_LINES:]
    tried = [_attempt_line(attempt) for attempt in _attempts(run, record)]
    return [
        f"{record.scene_id}  {record.stage} {record.reason}, {when}",
        *([f"  {_plain(record.detail)}"] if record.detail else []),
        *_beside("attempts", tried),
        *_beside("log", [_log(run, record)]),
        *(f"    | {_plain(line)}" for line in tail),
        *_beside("make again", [record.run_again]),
    ]


def _seed_data(run: RunFolder, record: Failed) -> dict[str, object]:
    kept = ("scene_id", "seed", "generator", "stage", "reason", "detail", "when", "log_tail")
    told = ("stage", "number", "reason", "detail", "host", "node", "started", "ended", "seconds",
            "cpu_seconds", "peak_rss", "counted")  # fmt: skip
    return {
        **{name: getattr(record, name) for name in (*kept, "run_again", "reasons")},
        "nodes": list(record.nodes),
        "log": _log(run, record),
        "attempts": [
            {name: getattr(attempt, name) for name in told} for attempt in _attempts(run, record)
        ],
    }


def _attempts(run: RunFolder, record: Failed) -> list[Attempt]:
    return read_attempts(run.scene(record.scene_id))


def _attempt_line(attempt: Attempt) -> str:
    where = attempt.host or attempt.node or "unknown"
    end = attempt.reason or "no end"
    took = duration(attempt.seconds)
    return f"{attempt.stage} {attempt.number}: {end} after {took} on {where}"


def _log(run: RunFolder, record: Failed) -> str:
    return str(run.scene(record.scene_id).path / record.log)


def _beside(label: str, texts: list[str]) -> list[str]:
    return [f"  {label if place == 0 else '':12}{text}" for place, text in enumerate(texts)]


def _plain(text: str) -> str:
    """Text without what would move a terminal's cursor or change its colours."""
    return "".join(c if c.isprintable() or c == "\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def _seeds(count: int) -> str:
    return f"{count} seed" if count == 1 else f"{count} seeds"
