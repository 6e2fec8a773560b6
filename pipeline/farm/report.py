"""What `make status` and `make failures` print, for people and as JSON for programs."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import asdict, dataclass

from pipeline import storage
from pipeline.farm.attempt import Attempt, read_attempts
from pipeline.farm.records import RECORD, Cost, Failed, damaged_message, parse_failed, read_records
from pipeline.farm.status import HOUR, RunStatus, check_run, current_step, read_status
from pipeline.layout import RunFolder, SceneFolder
from pipeline.units import format_bytes

LABEL = 14  # characters before the texts of `make status`
RUNNING_SHOWN, KINDS_SHOWN, NODES_SHOWN, DAMAGED_SHOWN = 10, 5, 4, 3
FILES = {"scene": "scene files", "rendered": "renders", "panoramas": "panoramas"}
LOG_LINES = 10


def status_text(run: RunFolder) -> str:
    """What `make status` prints."""
    status = read_status(run)
    totals, now = status.totals, status.now
    working = f"working for {duration(now - status.started)}"
    lines = [f"{run.path}: {working if status.working else 'no driver is working'}", ""]
    scenes = [status.scenes_done, f"{status.failed} failed"]
    if status.working:
        scenes += [f"{status.scenes_running} running", f"{status.waiting} waiting"]
    lines += _rows("scenes", [", ".join(scenes)])
    if rate := status.scenes_per_hour:
        recent = (
            f"{status.scenes_last_hour:.1f} in the last hour, "
            if now - status.started > HOUR
            else ""
        )
        lines += _rows("an hour", [f"{recent}{rate:.1f} since the driver started"])
    if left := status.left:
        interval = f"{duration(left.low)} to {duration(left.high)} in 9 of 10 such cases"
        lines += _rows("time left", [f"{duration(left.seconds)}, {interval}"])
    if panoramas := totals.good + totals.unfit:
        unfit = f"{totals.unfit} unfit ({totals.unfit / panoramas:.1%})"
        lines += _rows("panoramas", [f"{totals.good} good, {unfit}"])
    lines += _cost_lines(status) + _problem_lines(status, run)
    running = [_running_line(scene, attempt, now) for scene, attempt in status.running]
    lines += _rows("running", _first(running, RUNNING_SHOWN))
    return "\n".join(lines)


def status_json(run: RunFolder) -> str:
    """The same as JSON.

    Times are Unix seconds, durations seconds, sizes bytes. Keys stay; new ones may be added.

        wanted, done, failed, waiting, done_since   scenes; done_since, by the present driver
        working, started, now             whether a driver works, since when, when this was read
        running                           scene_id, stage, number, step, since of each attempt
        scenes_per_hour, scenes_last_hour  while a driver works and has finished a scene; else null
        seconds_left, seconds_left_90     expected, and [low, high]; null before enough is known
        panoramas                         good, unfit
        stages                            by stage: attempts, seconds, cpu_seconds, gpu_seconds,
                                          peak_rss; of finished scenes and quarantined seeds
        total, failed_seeds               the same of all stages, and of quarantined seeds only
        lost                              the same of quarantined seeds and of attempts that did
                                          not end well
        per_panorama                      seconds, cpu_seconds, gpu_seconds for a good panorama,
                                          bytes by kind; null before the first one
        attempts                          how many ended for which reason
        failures                          stage, reason, seeds
        slowest                           scene_id, seconds, stages (seconds of each), failed
        bytes                             scene, rendered, panoramas: delivered to OUT
        nodes                             by host name: scenes and failed_seeds it worked for
        damaged                           records that cannot be used, relative to OUT
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
        "running": [
            {
                "scene_id": scene.scene_id,
                "stage": attempt.stage,
                "number": attempt.number,
                "step": current_step(scene, attempt.stage, attempt.number),
                "since": attempt.started,
            }
            for scene, attempt in status.running
        ],
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
            node: {"scenes": done, "failed_seeds": failed}
            for node, (done, failed) in totals.nodes.items()
        },
        "damaged": list(totals.damaged),
    }
    return json.dumps(data, indent=1, sort_keys=True)


@dataclass(frozen=True)
class FailedSeeds:
    """The quarantined seeds of a run.

    Attributes:
        records: The newest first.
        damaged: Records that cannot be used, relative to OUT.
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


def read_failures(run: RunFolder) -> FailedSeeds:
    """The quarantined seeds.

    Raises:
        UserError: There is no run.
    """
    check_run(run)
    folder = run.failed_folder
    names = sorted(name for name in storage.names(folder) if RECORD.fullmatch(name))
    found = list(read_records(folder, names, parse_failed))
    records = [record for _, record in found if record is not None]
    records.sort(key=lambda record: record.when, reverse=True)
    damaged = [f"{folder.name}/{name}" for name, record in found if record is None]
    return FailedSeeds(tuple(records), tuple(damaged))


def failures_text(run: RunFolder, limit: int) -> str:
    """What `make failures` prints.

    Args:
        run: The run.
        limit: Seeds shown of each kind (stage and reason), the newest.

    Raises:
        UserError: There is no run.
    """
    failures = read_failures(run)
    lines = [damaged_message(run.path / place) for place in failures.damaged]
    if not failures.records:
        return "\n".join(lines or [f"no seed has failed in {run.path}"])
    kinds = failures.kinds
    counts = ", ".join(f"{len(some)} {stage} {reason}" for (stage, reason), some in kinds.items())
    lines.append(f"{run.path}: {_seeds(len(failures.records))} failed: {counts}")
    for (stage, reason), some in kinds.items():
        if len(kinds) > 1 or len(some) > limit:
            lines += ["", f"== {stage} {reason}: {_seeds(len(some))}"]
        for record in some[:limit]:
            lines += ["", *_seed_lines(run, record)]
        if more := len(some[limit:]):
            lines += ["", f"and {more} older; LIMIT={len(some)} shows all"]
    return "\n".join(lines)


def failures_json(run: RunFolder) -> str:
    """The same as JSON, without a limit.

    Times are Unix seconds, durations seconds, sizes bytes. Keys stay; new ones may be added.

        failed     how many seeds
        kinds      stage, reason, seeds; the most frequent first
        seeds      the newest first: scene_id, seed, generator, stage, reason, detail, when, log
                   (its full path), log_tail, run_again, nodes, reasons (how many of its attempts
                   ended for which reason), attempts (stage, number, reason, detail, host, node,
                   started, ended, seconds, cpu_seconds, peak_rss, counted)
        damaged    records that cannot be used, relative to OUT
    """
    failures = read_failures(run)
    data = {
        "failed": len(failures.records),
        "kinds": [
            {"stage": stage, "reason": reason, "seeds": len(some)}
            for (stage, reason), some in failures.kinds.items()
        ],
        "seeds": [_seed_data(run, record) for record in failures.records],
        "damaged": list(failures.damaged),
    }
    return json.dumps(data, indent=1, sort_keys=True)


def duration(seconds: float) -> str:
    """Seconds for people.

    >>> duration(59.4), duration(90), duration(7260), duration(200000)
    ('59 s', '1 min 30 s', '2 h 01 min', '2 d 07 h')
    """
    rounded = round(max(0.0, seconds))
    minutes, hours, days = rounded // 60, rounded // 3600, rounded // 86400
    if days:
        return f"{days} d {hours % 24:02d} h"
    if hours:
        return f"{hours} h {minutes % 60:02d} min"
    return f"{minutes} min {rounded % 60:02d} s" if minutes else f"{rounded} s"


def _cost_lines(status: RunStatus) -> list[str]:
    """Costs by stage and for a panorama; nothing before the first record."""
    totals, cost_of_all = status.totals, status.cost
    if not cost_of_all.attempts:
        return []
    head = ("attempts", "wall time", "CPU time", "GPU time", "peak memory")
    lines = ["", " " * LABEL + "".join(f"{title:>13}" for title in head)]
    for name, cost in [*totals.costs.items(), ("total", cost_of_all)]:
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
                ("wall time", cost_of_all.seconds),
                ("CPU", cost_of_all.cpu_seconds),
                ("GPU", cost_of_all.gpu_seconds),
            )
        ]
        kept = format_bytes(totals.bytes["panoramas"] / totals.good)
        lines += _rows("per panorama", [f"{', '.join(each)}; {kept} of files"])
        written = [f"{FILES[kind]} {format_bytes(number)}" for kind, number in totals.bytes.items()]
        lines += _rows("written", [", ".join(written)])
    return lines


def _problem_lines(status: RunStatus, run: RunFolder) -> list[str]:
    """How attempts ended, which seeds failed, where, and which took long."""
    totals = status.totals
    reasons = ", ".join(f"{n} {reason}" for reason, n in totals.reasons.items())
    lost = _share("failed work", totals.lost, status.cost)
    lines = _rows("attempts", [reasons, lost])
    kinds = [f"{n} {stage} {reason}" for (stage, reason), n in totals.kinds.items()]
    if others := sum([*totals.kinds.values()][KINDS_SHOWN:]):
        kinds[KINDS_SHOWN:] = [f"{others} others"]
    if kinds:
        see = f"make failures OUT={run.path} shows details"
        share = _share("they", status.failed_cost, status.cost)
        lines += _rows("failed seeds", [", ".join(kinds), share, see])
    nodes = [
        f"{node or 'unknown'}  {done} scene{'s' * (done != 1)}, {failed} failed seeds"
        for node, (done, failed) in totals.nodes.items()
    ]
    lines += _rows("nodes", _first(nodes, NODES_SHOWN))
    slowest = [
        f"{slow.scene_id}  {duration(slow.seconds)}"
        f" ({', '.join(f'{stage} {duration(s)}' for stage, s in slow.stages.items())})"
        + (", failed" if slow.failed else "")
        for slow in totals.slowest
    ]
    lines += _rows("slowest", slowest)
    damaged = [damaged_message(run.path / place) for place in totals.damaged]
    return lines + _rows("damaged", _first(damaged, DAMAGED_SHOWN))


def _share(what: str, part: Cost, cost: Cost) -> str:
    """The share of all cost that went into something."""
    shares = [
        f"{some / total:.1%} of {name}"
        for name, some, total in (
            ("wall time", part.seconds, cost.seconds),
            ("CPU time", part.cpu_seconds, cost.cpu_seconds),
            ("GPU time", part.gpu_seconds, cost.gpu_seconds),
        )
        if total
    ]
    return f"{what} took {', '.join(shares)}" if shares and part.attempts else ""


def _running_line(scene: SceneFolder, attempt: Attempt, now: float) -> str:
    step = current_step(scene, attempt.stage, attempt.number)
    age = duration(now - attempt.started)
    return f"{scene.scene_id}  {step}, attempt {attempt.number}, {age}"


def _seed_lines(run: RunFolder, record: Failed) -> list[str]:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.when))
    tail = record.log_tail.splitlines()[-LOG_LINES:]
    attempts = read_attempts(run.scene(record.scene_id))
    return [
        f"{record.scene_id}  {record.stage} {record.reason}, {when}",
        *([f"  {_printable(record.detail)}"] if record.detail else []),
        *_beside("attempts", [_attempt_line(attempt) for attempt in attempts]),
        *_beside("log", [_log(run, record)]),
        *(f"    | {_printable(line)}" for line in tail),
        *_beside("make again", [record.run_again]),
    ]


def _attempt_line(attempt: Attempt) -> str:
    where = attempt.host or attempt.node or "unknown"
    reason = attempt.reason or "no end"
    return (
        f"{attempt.stage} {attempt.number}: {reason} after {duration(attempt.seconds)} on {where}"
    )


def _seed_data(run: RunFolder, record: Failed) -> dict[str, object]:
    of_seed = ("scene_id", "seed", "generator", "stage", "reason", "detail", "when", "log_tail",
               "run_again", "reasons")  # fmt: skip
    of_attempt = ("stage", "number", "reason", "detail", "host", "node", "started", "ended",
                  "seconds", "cpu_seconds", "peak_rss", "counted")  # fmt: skip
    return {
        **{name: getattr(record, name) for name in of_seed},
        "nodes": list(record.nodes),
        "log": _log(run, record),
        "attempts": [
            {name: getattr(attempt, name) for name in of_attempt}
            for attempt in read_attempts(run.scene(record.scene_id))
        ],
    }


def _log(run: RunFolder, record: Failed) -> str:
    return str(run.scene(record.scene_id).path / record.log)


def _rows(label: str, texts: list[str]) -> list[str]:
    """Lines beside a label; empty texts are left out."""
    labels = [label, *[""] * len(texts)]
    return [f"{name:{LABEL}}{text}" for name, text in zip(labels, texts, strict=False) if text]


def _beside(label: str, texts: list[str]) -> list[str]:
    return [f"  {label if place == 0 else '':12}{text}" for place, text in enumerate(texts)]


def _first(lines: list[str], count: int) -> list[str]:
    more = len(lines) - count
    return [*lines[:count], f"and {more} more"] if more > 0 else lines


def _printable(text: str) -> str:
    """Text without characters that move a terminal's cursor or change its colours."""
    return "".join(c if c.isprintable() or c == "\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def _seeds(count: int) -> str:
    return f"{count} seed" if count == 1 else f"{count} seeds"
