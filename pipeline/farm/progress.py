"""Show how a run stands: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from types import TracebackType
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipeline.farm.status import Finished, Status, read_status
from pipeline.outputs import RunFolder

REFRESH_SECONDS = 1.0
LINE_SECONDS = 2.0  # not more often, however much changes
HEARTBEAT_SECONDS = 30.0  # a line at least this often


class Progress:
    """The driver's display; `update` as often as you like, it looks at the files when due.

    Example:
        with Progress(run) as progress:
            while work: ...; progress.update()
    """

    def __init__(self, run: RunFolder, stream: TextIO | None = None) -> None:
        self._run = run
        self._finished: Finished = {}
        self._console = Console(file=stream or sys.stdout, highlight=False, soft_wrap=True)
        self._live: Live | None = None
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False)
        self._read_at = self._printed_at = 0.0
        self._printed: object = None

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.update(last=True)
        if self._live:
            self._live.stop()

    def note(self, text: str) -> None:
        """One line that stays."""
        self._console.print(text, markup=False)

    def update(self, last: bool = False) -> None:
        now = time.monotonic()
        if not last and now - self._read_at < REFRESH_SECONDS:
            return
        self._read_at = now
        status = read_status(self._run, self._finished)
        if self._live:
            self._live.update(table(status), refresh=True)
            return
        changed = (
            status.done,
            status.failed,
            [(attempt.scene_id, attempt.stage, attempt.number) for attempt in status.running],
        )
        age = now - self._printed_at
        if age > HEARTBEAT_SECONDS or (changed != self._printed and (last or age > LINE_SECONDS)):
            self._printed, self._printed_at = changed, now
            self.note(line(status))


def status_text(run: RunFolder) -> str:
    """What `make status` prints."""
    status = read_status(run)
    state = "working" if status.working else "no driver is working"
    attempts = [
        f"  {attempt.scene_id}  {attempt.step}, attempt {attempt.number}, "
        f"{duration(status.now - attempt.since)}"
        for attempt in status.running
    ]
    return "\n".join([f"{run.path}: {state}", summary(status), *attempts])


def status_json(run: RunFolder) -> str:
    """The same as JSON."""
    status = read_status(run)
    derived = {
        "waiting": status.waiting,
        "scenes_per_hour": status.scenes_per_hour,
        "seconds_left": status.seconds_left,
    }
    return json.dumps({**asdict(status), **derived}, indent=1, sort_keys=True)


def summary(status: Status) -> str:
    """The numbers, in one line."""
    parts = [f"{status.done}/{status.wanted} scenes done", f"{status.failed} failed"]
    if status.working:
        busy = len({attempt.scene_id for attempt in status.running})
        parts += [f"{busy} running", f"{status.waiting} waiting"]
        rate, left = status.scenes_per_hour, status.seconds_left
        if rate is not None and left is not None:
            parts += [f"{rate:.1f} an hour", f"{duration(left)} left"]
        parts.append(f"{duration(status.now - status.started)} so far")
    return ", ".join(parts)


def line(status: Status) -> str:
    """The numbers and what runs, in one line."""
    steps = "; ".join(
        f"{attempt.scene_id} {attempt.step} {duration(status.now - attempt.since)}"
        for attempt in status.running[:4]
    )
    more = len(status.running) - 4
    return summary(status) + (f" | {steps}" if steps else "") + (f"; +{more}" if more > 0 else "")


def table(status: Status) -> Group:
    """The live display."""
    rows = Table.grid(padding=(0, 2))
    for attempt in status.running:
        retry = f"attempt {attempt.number}" if attempt.number > 1 else ""
        rows.add_row(
            attempt.scene_id, attempt.step, duration(status.now - attempt.since), Text(retry)
        )
    return Group(Text(summary(status), style="bold"), rows)


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
