"""What `make status` prints: how a run stands, for people and for programs."""

from __future__ import annotations

import json
from dataclasses import asdict

from pipeline.layout import RunFolder
from pipeline.ledger.records import Cost
from pipeline.ledger.status import HOUR, Running, Status, read_status

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


def size(number: float) -> str:
    """Bytes for people.

    >>> size(0), size(1536), size(3 * 2**40)
    ('0 B', '1.5 KiB', '3.0 TiB')
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} B" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


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
            size(cost.peak_rss),
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
        kept = size(totals.bytes["panoramas"] / totals.good)
        lines += _rows("a panorama", [f"{', '.join(each)}; {kept} of files"])
        taken = [f"{WRITTEN[kind]} {size(number)}" for kind, number in totals.bytes.items()]
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
