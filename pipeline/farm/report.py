"""What `make status` and `make failures` print, for people and for programs."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import asdict, dataclass

from pipeline import storage
from pipeline.errors import UserError
from pipeline.farm.attempt import Attempt, read_attempts
from pipeline.farm.records import RECORD, Cost, Failed
from pipeline.farm.status import HOUR, Running, Status, read_status
from pipeline.farm.totals import NOT_A_RECORD
from pipeline.layout import RunFolder
from pipeline.units import format_bytes

LABEL = 14  # characters before the texts of `make status`
RUNNING_SHOWN, KINDS_SHOWN, NODES_SHOWN, DAMAGED_SHOWN = 10, 5, 4, 3
WRITTEN = {"scene": "scene files", "rendered": "renders", "panoramas": "panoramas"}


def status_text(run: RunFolder) -> str:
    """What `make status` prints."""
    status = read_status(run)
    totals, now = status.totals, status.now
    working = f"working for {duration(now - status.started)}"
    lines = [f"{run.path}: {working if status.working else 'no driver is working'}", ""]
    scenes = [status.scenes_done, f"{status.failed} failed"]
    if status.working:
        scenes += [f"{status.at_work} running", f"{status.waiting} waiting"]
    lines += _rows("scenes", [", ".join(scenes)])
    if rate := status.scenes_per_hour:
        recent = (
            f"{status.scenes_last_hour:.1f} in the last hour, "
            if now - status.started > HOUR
            else ""
        )
        lines += _rows("an hour", [f"{recent}{rate:.1f} since the driver started"])
    if left := status.left:
        span = f"{duration(left.low)} to {duration(left.high)} in 9 of 10 such cases"
        lines += _rows("time left", [f"{duration(left.seconds)}, {span}"])
    if seen := totals.good + totals.unfit:
        unfit = f"{totals.unfit} unfit ({totals.unfit / seen:.1%})"
        lines += _rows("panoramas", [f"{totals.good} good, {unfit}"])
    lines += _costs(status) + _troubles(status, run)
    lines += _rows("running", _first([_attempt(one, now) for one in status.running], RUNNING_SHOWN))
    return "\n".join(lines)


def status_json(run: RunFolder) -> str:
    """The same as JSON, for programs.

    Times are Unix seconds, durations seconds, sizes bytes. Keys stay; new ones may come.

        wanted, done, failed, waiting, done_since   scenes; done_since, by the present driver
        working, started, now             whether a driver works, since when, when this was read
        running                           scene_id, stage, number, step, since of each attempt
        scenes_per_hour, scenes_last_hour  while a driver works and has finished a scene; else null
        seconds_left, seconds_left_90     expected, and [low, high]; null before enough is known
        panoramas                         good, unfit
        stages                            by stage: attempts, seconds, cpu_seconds, gpu_seconds,
                                          peak_rss; of finished scenes and failed seeds
        total, failed_seeds               the same of all stages, and of failed seeds alone
        lost                              the same of failed seeds and of attempts that did not end
                                          well
        per_panorama                      seconds, cpu_seconds, gpu_seconds for a good panorama,
                                          bytes by kind; null before there is one
        attempts                          how many ended how, by reason
        failures                          stage, reason, seeds
        slowest                           scene_id, seconds, stages (seconds of each), failed
        bytes                             scene, rendered, panoramas: brought to OUT
        nodes                             by host name: scenes and failed_seeds it took part in
        damaged                           records that cannot be used, as places in OUT
    """
    status = read_status(run)
    totals, cost, left = status.totals, status.cost, status.left
    seconds = ("seconds", "cpu_seconds", "gpu_seconds")
    data = {
        "wanted": status.wanted,
        "done": status.done,
        "failed": status.failed,
        "waiting": status.waiting,
        "done_since": status.done_since,
        "working": status.working,
        "started": status.started,
        "now": status.now,
        "running": [asdict(attempt) for attempt in status.running],
        "scenes_per_hour": status.scenes_per_hour,
        "scenes_last_hour": status.scenes_last_hour,
        "seconds_left": left and left.seconds,
        "seconds_left_90": left and [left.low, left.high],
        "panoramas": {"good": totals.good, "unfit": totals.unfit},
        "stages": {stage: asdict(one) for stage, one in totals.costs.items()},
        "total": asdict(cost),
        "failed_seeds": asdict(status.failed_cost),
        "lost": asdict(totals.lost),
        "per_panorama": {
            **{name: getattr(cost, name) / totals.good for name in seconds},
            "bytes": {kind: number / totals.good for kind, number in totals.bytes.items()},
        }
        if totals.good
        else None,
        "attempts": totals.reasons,
        "failures": [
            {"stage": stage, "reason": reason, "seeds": seeds}
            for (stage, reason), seeds in totals.kinds.items()
        ],
        "slowest": [asdict(slow) for slow in totals.slowest],
        "bytes": totals.bytes,
        "nodes": {
            node: {"scenes": done, "failed_seeds": lost}
            for node, (done, lost) in totals.nodes.items()
        },
        "damaged": list(totals.damaged),
    }
    return json.dumps(data, indent=1, sort_keys=True)


def duration(seconds: float) -> str:
    """Seconds for people.

    >>> duration(59.4), duration(90), duration(7260), duration(200000)
    ('59 s', '1 min 30 s', '2 h 01 min', '2 d 07 h')
    """
    whole = round(max(0.0, seconds))
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if days:
        return f"{days} d {hours % 24:02d} h"
    if hours:
        return f"{hours} h {minutes % 60:02d} min"
    return f"{minutes} min {whole % 60:02d} s" if minutes else f"{whole} s"


def _shares(what: str, lost: Cost, cost: Cost) -> str:
    """What part of all cost went into something."""
    shares = [
        f"{part / whole:.1%} of {name}"
        for name, part, whole in (
            ("wall time", lost.seconds, cost.seconds),
            ("CPU time", lost.cpu_seconds, cost.cpu_seconds),
            ("GPU time", lost.gpu_seconds, cost.gpu_seconds),
        )
        if whole
    ]
    return f"{what} took {', '.join(shares)}" if shares and lost.attempts else ""


def damaged_line(run: RunFolder, place: str) -> str:
    """What to do about a record that cannot be used."""
    then = "writes it anew" if place.startswith(run.done_folder.name) else "tries that seed again"
    return f"{run.path}/{place} is damaged; delete it and run make render again, which {then}"


def _costs(status: Status) -> list[str]:
    """What it took, by stage and for a panorama; nothing before there is anything."""
    totals, all_of_it = status.totals, status.cost
    if not all_of_it.attempts:
        return []
    head = ("attempts", "wall time", "CPU time", "GPU time", "peak memory")
    lines = ["", " " * LABEL + "".join(f"{title:>13}" for title in head)]
    for name, cost in [*totals.costs.items(), ("in all", all_of_it)]:
        cells = (
            f"{cost.attempts}",
            *(duration(s) for s in (cost.seconds, cost.cpu_seconds, cost.gpu_seconds)),
            format_bytes(cost.peak_rss),
        )
        lines.append(f"{name:{LABEL}}" + "".join(f"{cell:>13}" for cell in cells))
    lines.append("")
    if totals.good:
        each = [
            f"{seconds / totals.good:.1f} s of {name}"
            for name, seconds in (
                ("wall time", all_of_it.seconds),
                ("CPU", all_of_it.cpu_seconds),
                ("GPU", all_of_it.gpu_seconds),
            )
        ]
        kept = format_bytes(totals.bytes["panoramas"] / totals.good)
        lines += _rows("a panorama", [f"{', '.join(each)}; {kept} of files"])
        taken = [f"{WRITTEN[kind]} {format_bytes(number)}" for kind, number in totals.bytes.items()]
        lines += _rows("written", [", ".join(taken)])
    return lines


def _troubles(status: Status, run: RunFolder) -> list[str]:
    """How attempts ended, which seeds failed, where, and which took long."""
    totals = status.totals
    ends = ", ".join(f"{n} {reason}" for reason, n in totals.reasons.items())
    lost = _shares("what came to nothing", totals.lost, status.cost)
    lines = _rows("attempts", [ends, lost])
    kinds = [f"{n} {stage} {reason}" for (stage, reason), n in totals.kinds.items()]
    if others := sum([*totals.kinds.values()][KINDS_SHOWN:]):
        kinds[KINDS_SHOWN:] = [f"{others} others"]
    if kinds:
        see = f"make failures OUT={run.path} says more"
        failed = [", ".join(kinds), _shares("which", status.failed_cost, status.cost), see]
        lines += _rows("failed seeds", failed)
    nodes = [
        f"{node or 'unknown'}  {done} scene{'s' * (done != 1)}, {lost} failed seeds"
        for node, (done, lost) in totals.nodes.items()
    ]
    lines += _rows("nodes", _first(nodes, NODES_SHOWN))
    slowest = [
        f"{slow.scene_id}  {duration(slow.seconds)}"
        f" ({', '.join(f'{stage} {duration(s)}' for stage, s in slow.stages.items())})"
        + (", failed" if slow.failed else "")
        for slow in totals.slowest
    ]
    lines += _rows("slowest", slowest)
    damaged = [damaged_line(run, place) for place in totals.damaged]
    return lines + _rows("damaged", _first(damaged, DAMAGED_SHOWN))


def _attempt(attempt: Running, now: float) -> str:
    return (
        f"{attempt.scene_id}  {attempt.step}, attempt {attempt.number}, "
        f"{duration(now - attempt.since)}"
    )


def _rows(label: str, texts: list[str]) -> list[str]:
    """Lines beside a label; none for no text."""
    labels = [label, *[""] * len(texts)]
    return [f"{name:{LABEL}}{text}" for name, text in zip(labels, texts, strict=False) if text]


def _first(lines: list[str], count: int) -> list[str]:
    more = len(lines) - count
    return [*lines[:count], f"and {more} more"] if more > 0 else lines


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
