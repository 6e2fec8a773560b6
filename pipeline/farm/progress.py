"""The driver's display: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipeline.farm.report import duration
from pipeline.farm.status import RunStatus, current_step, read_status
from pipeline.farm.totals import Records
from pipeline.layout import RunFolder

REFRESH_SECONDS = 1.0
REFRESH_SHARE = 0.02  # most of the driver's time that reading the status may take
LINE_SECONDS = 2.0  # least time between two lines, however much changes
HEARTBEAT_SECONDS = 30.0  # most time between two lines
RUNNING_SHOWN = 4  # in a line


class Progress:
    """The driver's display. `update` may be called often; it reads the files only now and then.

    Example:
        with Progress(run) as progress:
            while work: ...; progress.update()
    """

    def __init__(self, run: RunFolder, stream: TextIO | None = None) -> None:
        self._run = run
        self._records = Records()
        self._console = Console(file=stream or sys.stdout, highlight=False, soft_wrap=True)
        self._live: Live | None = None
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False)
        self._next_at = self._printed_at = 0.0
        self._is_first = True  # the first look reads all records; later ones take less time
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
        """Print one line that stays."""
        self._console.print(text, markup=False)

    def update(self, last: bool = False) -> None:
        now = time.monotonic()
        if not last and now < self._next_at:
            return
        status = read_status(self._run, self._records)
        took = time.monotonic() - now
        pause = REFRESH_SECONDS if self._is_first else max(REFRESH_SECONDS, took / REFRESH_SHARE)
        self._next_at = now + pause
        self._is_first = False
        if self._live:
            self._live.update(table(status), refresh=True)
            return
        changed = (
            status.done,
            status.failed,
            [(scene.scene_id, attempt.stage, attempt.number) for scene, attempt in status.running],
        )
        age = now - self._printed_at
        if age > HEARTBEAT_SECONDS or (changed != self._printed and (last or age > LINE_SECONDS)):
            self._printed, self._printed_at = changed, now
            self.note(line(status))


def summary(status: RunStatus) -> str:
    """The numbers in one line."""
    parts = [f"scenes: {status.scenes_done}", f"{status.failed} failed"]
    if status.working:
        parts += [f"{status.scenes_running} running", f"{status.waiting} waiting"]
        rate, left = status.scenes_per_hour, status.left
        if rate is not None:
            parts.append(f"{rate:.1f} an hour")
        if left is not None:
            parts.append(f"{duration(left.seconds)} left")
        parts.append(f"{duration(status.now - status.started)} so far")
    return ", ".join(parts)


def line(status: RunStatus) -> str:
    """The numbers and the running attempts in one line."""
    steps = "; ".join(
        f"{scene.scene_id} {current_step(scene, attempt.stage, attempt.number)} "
        f"{duration(status.now - attempt.started)}"
        for scene, attempt in status.running[:RUNNING_SHOWN]
    )
    more = len(status.running) - RUNNING_SHOWN
    return summary(status) + (f" | {steps}" if steps else "") + (f"; +{more}" if more > 0 else "")


def table(status: RunStatus) -> Group:
    """The live display."""
    rows = Table.grid(padding=(0, 2))
    for scene, attempt in status.running:
        retry = f"attempt {attempt.number}" if attempt.number > 1 else ""
        step = current_step(scene, attempt.stage, attempt.number)
        rows.add_row(scene.scene_id, step, duration(status.now - attempt.started), Text(retry))
    return Group(Text(summary(status), style="bold"), rows)
