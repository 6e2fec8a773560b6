"""The progress of a run, from its files alone: for the driver's display and for `make status`.

A finished scene or a quarantined seed has one record (`records.py`); `totals.Records` adds them up.
Running attempts are found in the folders of scenes without a record.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO

from pipeline import storage
from pipeline.errors import UserError
from pipeline.farm.attempt import Attempt, log_path, read_attempts
from pipeline.farm.records import RECORD, Cost, total_cost
from pipeline.farm.run_lock import read_claim
from pipeline.farm.totals import Records, Totals
from pipeline.layout import RunFolder, SceneFolder

STAGE_PREFIX = b"stage: "
BLOCK, LINE = 2**16, 200  # bytes that are read of a log at once, and of a line of it
HOUR = 3600.0
RECENT = 100  # the last scenes, from which the remaining time is estimated
MIN_SCENES = 5  # finished scenes before the remaining time is estimated
NINETY_PERCENT = 1.645  # standard deviations on either side


@dataclass(frozen=True)
class TimeLeft:
    """Seconds until the wanted scenes are finished: expected, and a 90 % interval."""

    seconds: float
    low: float
    high: float


@dataclass(frozen=True)
class RunStatus:
    """A run at one moment.

    Attributes:
        wanted: Scenes that its present or last driver was asked for.
        running: The running attempts with their scenes, the oldest first.
        working: Whether a driver works now.
        started: When that driver started, Unix seconds; `now`, when this was read.
        totals: What is finished and failed, and what it cost.
    """

    wanted: int
    running: tuple[tuple[SceneFolder, Attempt], ...]
    working: bool
    started: float
    now: float
    totals: Totals

    @property
    def done(self) -> int:
        return self.totals.done

    @property
    def failed(self) -> int:
        return self.totals.failed

    @property
    def scenes_done(self) -> str:
        """How many of how many, for people; an earlier driver may have made more than wanted."""
        if self.done > self.wanted:
            return f"{self.done} done, {self.wanted} asked for"
        return f"{self.done} of {self.wanted} done"

    @property
    def scenes_running(self) -> int:
        return len({scene for scene, _ in self.running})

    @property
    def waiting(self) -> int:
        return max(0, self.wanted - self.done - self.scenes_running)

    @property
    def done_since(self) -> int:
        """Scenes finished since that driver started."""
        return self._done_after(self.started)

    @property
    def scenes_per_hour(self) -> float | None:
        """Rate since the driver started; None before its first scene and without a driver."""
        return self._rate(self.started)

    @property
    def scenes_last_hour(self) -> float | None:
        """Rate over the last hour, or since the driver started if that is less."""
        return self._rate(max(self.started, self.now - HOUR))

    @property
    def left(self) -> TimeLeft | None:
        """See `time_left`; None also without a driver."""
        if not self.working:
            return None
        times = self.totals.finished[bisect_left(self.totals.finished, self.started) :]
        return time_left(times, max(0, self.wanted - self.done), self.scenes_running, self.now)

    @property
    def cost(self) -> Cost:
        """Cost of all stages together, including quarantined seeds."""
        return total_cost(self.totals.costs.values())

    @property
    def failed_cost(self) -> Cost:
        """The part of it that went into quarantined seeds."""
        return total_cost(self.totals.failed_costs.values())

    def _done_after(self, moment: float) -> int:
        return len(self.totals.finished) - bisect_left(self.totals.finished, moment)

    def _rate(self, since: float) -> float | None:
        if not self.working or self.done_since == 0 or self.now <= since:
            return None
        return self._done_after(since) / (self.now - since) * HOUR


def read_status(run: RunFolder, records: Records | None = None) -> RunStatus:
    """Read the progress of a run; damaged records do not make it fail.

    Args:
        run: The run.
        records: What has been read before; a process that passes it reads each record once.

    Raises:
        UserError: There is no run.
    """
    check_run(run)
    driver = read_claim(run)
    working = driver is not None and driver.held
    records = Records() if records is None else records
    records.update(run)
    running: list[tuple[SceneFolder, Attempt]] = []
    if working:
        for name in set(storage.names(run.scenes)) - records.ids:
            if RECORD.fullmatch(f"{name}.json"):  # other files may lie there, such as .DS_Store
                scene = run.scene(name)
                running += [
                    (scene, attempt)
                    for attempt in read_attempts(scene)
                    if attempt.ended is None and attempt.process_alive is not False
                ]
    totals = records.totals()
    return RunStatus(
        wanted=driver.scenes if driver else totals.done,
        running=tuple(sorted(running, key=lambda one: (one[1].started, one[0].scene_id))),
        working=working,
        started=driver.started if driver else 0.0,
        now=time.time(),
        totals=totals,
    )


def check_run(run: RunFolder) -> None:
    """Raise a UserError where OUT holds no run."""
    if not storage.exists(run.settings):
        raise UserError(f"OUT={run.path} holds no run; start one with make render OUT={run.path}")


def time_left(times: Sequence[float], scenes: int, running: int, now: float) -> TimeLeft | None:
    """How long a number of scenes will take, from the intervals between the last ones.

    The expected time is the mean interval m times the number of scenes n. Its spread comes from the
    intervals themselves. With their relative standard deviation c, the relative error of n·m is
    about c·√(1/n + 1/k), because n intervals are still to come and m is known from k of them. The
    limits are a factor exp(1.645·error) below and above, which stays positive. Formulas, and not a
    bootstrap: they give the same answer every time and cost nothing, and simulated farms fell
    within the limits as often (80 to 100 times in 100).

    No scene follows the last ones, so that workers become idle: that costs half of the time that
    one scene takes (running scenes times m), and up to all of it at the upper limit.

    Args:
        times: When scenes were finished, ascending, Unix seconds.
        scenes: How many are left.
        running: Scenes that run at the same time.
        now: Unix seconds; the present interval counts once it is longer than the mean.

    Returns:
        None before every worker has finished a scene, or `MIN_SCENES` scenes are finished.

    Example:
        >>> time_left([0, 60, 120, 180, 240], scenes=10, running=1, now=240)
        TimeLeft(seconds=600.0, low=600.0, high=600.0)
    """
    recent = times[-RECENT:]
    if len(times) < max(MIN_SCENES, running):
        return None
    intervals = [later - earlier for earlier, later in pairwise(recent)]
    if now - recent[-1] > statistics.fmean(intervals):
        intervals.append(now - recent[-1])
    mean = statistics.fmean(intervals)
    if scenes == 0 or mean <= 0:
        return TimeLeft(0.0, 0.0, 0.0) if scenes == 0 else None
    spread = statistics.stdev(intervals, mean) / mean
    factor = math.exp(NINETY_PERCENT * spread * math.sqrt(1 / scenes + 1 / len(intervals)))
    last = mean * max(0, min(scenes, running) - 1)
    expected = mean * scenes
    return TimeLeft(expected + last / 2, expected / factor, expected * factor + last)


def current_step(scene: SceneFolder, stage: str, number: int) -> str:
    """What an attempt is doing, from the last `stage: ` line of its log; by default its stage."""
    path = log_path(scene, stage, number)
    if storage.is_remote(path):  # the log is copied there when the attempt has ended
        return stage
    try:
        with open(path, "rb") as file:
            step = _last_step(file)
    except OSError:  # no log yet, or it is being replaced
        return stage
    return step or stage


def _last_step(log: BinaryIO) -> str:
    """The text after the last `stage: ` at the start of a line; empty if there is none."""
    end = log.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - BLOCK)
        log.seek(start)
        block = log.read(end - start + LINE)
        at_start = 0 if start == 0 and block.startswith(STAGE_PREFIX) else -1
        found = max(block.rfind(b"\n" + STAGE_PREFIX) + 1 or -1, at_start)
        if found >= 0:
            line = block[found + len(STAGE_PREFIX) :].partition(b"\n")[0]
            return line[:LINE].decode(errors="replace").strip()
        end = start
    return ""
