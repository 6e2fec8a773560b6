"""How a run stands, from its files alone: for the driver's own display and for `make status`.

What is finished or given up has one record each (`records.py`), which `Records` adds up; what
is at work shows in the ledger of the scenes that have a folder and no record yet.
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
from pipeline.farm.attempt import log_path, read_attempts
from pipeline.farm.claim import read_claim
from pipeline.farm.records import RECORD, Cost, add
from pipeline.farm.totals import Records, Totals
from pipeline.layout import RunFolder, SceneFolder

STAGE_PREFIX = b"stage: "
BLOCK, LINE = 2**16, 200  # bytes that are read of a log at once, and of a line of it
HOUR = 3600.0
RECENT = 100  # the last scenes, which tell how fast the next ones will be
ENOUGH = 5  # scenes before anything is said of the time left
NINETY_PERCENT = 1.645  # standard deviations on either side


@dataclass(frozen=True)
class Running:
    """An attempt at work.

    Attributes:
        step: What it is doing, in its own words (its last `stage: ` line), or else the stage.
        since: When the attempt started, Unix seconds.
    """

    scene_id: str
    stage: str
    number: int
    step: str
    since: float


@dataclass(frozen=True)
class Left:
    """Seconds until the wanted scenes are done: expected, and what they lie between (90 %)."""

    seconds: float
    low: float
    high: float


@dataclass(frozen=True)
class Status:
    """A run at one moment.

    Attributes:
        wanted: Scenes that its present or last driver was asked for.
        running: The attempts at work, the oldest first.
        working: A driver is at work now.
        started: When that driver started, Unix seconds; `now`, when this was read.
        totals: What is finished and failed, and what it cost.
    """

    wanted: int
    running: tuple[Running, ...]
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
    def at_work(self) -> int:
        """Scenes at work."""
        return len({attempt.scene_id for attempt in self.running})

    @property
    def waiting(self) -> int:
        return max(0, self.wanted - self.done - self.at_work)

    @property
    def done_since(self) -> int:
        """Scenes done by that driver."""
        return self._done_after(self.started)

    @property
    def scenes_per_hour(self) -> float | None:
        """Rate since the driver started; None before its first scene, and when none works."""
        return self._rate(self.started)

    @property
    def scenes_last_hour(self) -> float | None:
        """The same over the last hour, or since the driver started if that is less."""
        return self._rate(max(self.started, self.now - HOUR))

    @property
    def left(self) -> Left | None:
        """See `time_left`; None too when no driver works."""
        if not self.working:
            return None
        times = self.totals.finished[bisect_left(self.totals.finished, self.started) :]
        return time_left(times, max(0, self.wanted - self.done), self.at_work, self.now)

    @property
    def cost(self) -> Cost:
        """Of all stages together, failed seeds included."""
        return add(*self.totals.costs.values())

    @property
    def failed_cost(self) -> Cost:
        """The part of it that went into seeds that were given up."""
        return add(*self.totals.failed_costs.values())

    def _done_after(self, moment: float) -> int:
        return len(self.totals.finished) - bisect_left(self.totals.finished, moment)

    def _rate(self, since: float) -> float | None:
        if not self.working or self.done_since == 0 or self.now <= since:
            return None
        return self._done_after(since) / (self.now - since) * HOUR


def read_status(run: RunFolder, finished: Records | None = None) -> Status:
    """Read how a run stands; never fails because a record is damaged.

    Args:
        run: The run.
        finished: Remembers what never changes between two calls of one process.

    Raises:
        UserError: There is no run.
    """
    if not storage.exists(run.settings):
        raise UserError(f"there is no run in OUT={run.path}; `make render OUT=…` starts one")
    driver = read_claim(run)
    working = driver is not None and driver.held
    records = Records() if finished is None else finished
    records.update(run)
    running: list[Running] = []
    if working:
        for name in set(storage.names(run.scenes)) - records.ids:
            if RECORD.fullmatch(f"{name}.json"):  # other files may lie there, such as .DS_Store
                running += _running(run.scene(name))
    totals = records.totals()
    return Status(
        wanted=driver.scenes if driver else totals.done,
        running=tuple(sorted(running, key=lambda attempt: (attempt.since, attempt.scene_id))),
        working=working,
        started=driver.started if driver else 0.0,
        now=time.time(),
        totals=totals,
    )


def time_left(times: Sequence[float], scenes: int, at_work: int, now: float) -> Left | None:
    """How long a number of scenes will take, from the pauses between the last ones.

    The mean pause m, times the number of scenes n, is the expected time. Its spread comes from the
    pauses themselves: with a relative standard deviation c, the relative error of n·m is about
    c·√(1/n + 1/k), for n pauses are still to come, and m is known from k of them. The limits are
    a factor exp(1.645·error) below and above, which stays positive. Formulas, and not a bootstrap:
    those answer alike every time and cost nothing, and simulated farms fell within the limits as
    often (80 to 100 times in 100).

    The last scenes have none to follow them, and the farm runs dry: that costs half of the time
    that one scene takes (scenes at work times m), and up to all of it at the upper limit.

    Args:
        times: When scenes were finished, ascending, Unix seconds.
        scenes: How many are left.
        at_work: Scenes at work at once.
        now: Unix seconds; a pause that has become longer than the mean already counts.

    Returns:
        None before every place at work has finished one, or `ENOUGH` scenes are done.

    Example:
        >>> time_left([0, 60, 120, 180, 240], scenes=10, at_work=1, now=240)
        Left(seconds=600.0, low=600.0, high=600.0)
    """
    recent = times[-RECENT:]
    if len(times) < max(ENOUGH, at_work):
        return None
    pauses = [later - earlier for earlier, later in pairwise(recent)]
    if now - recent[-1] > statistics.fmean(pauses):
        pauses.append(now - recent[-1])
    mean = statistics.fmean(pauses)
    if scenes == 0 or mean <= 0:
        return Left(0.0, 0.0, 0.0) if scenes == 0 else None
    spread = statistics.stdev(pauses, mean) / mean
    factor = math.exp(NINETY_PERCENT * spread * math.sqrt(1 / scenes + 1 / len(pauses)))
    last = mean * max(0, min(scenes, at_work) - 1)
    expected = mean * scenes
    return Left(expected + last / 2, expected / factor, expected * factor + last)


def current_step(scene: SceneFolder, stage: str, number: int) -> str:
    """What an attempt is doing, from the last `stage: ` line of its log."""
    path = log_path(scene, stage, number)
    if storage.is_remote(path):  # the log comes there when the attempt has ended
        return stage
    try:
        with open(path, "rb") as file:
            step = _last_step(file)
    except OSError:  # no log yet, or one that is being replaced
        return stage
    return step or stage


def _last_step(log: BinaryIO) -> str:
    """The text after the last `stage: ` at the beginning of a line; empty if there is none."""
    end = log.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - BLOCK)
        log.seek(start)
        block = log.read(end - start + LINE)
        at_begin = 0 if start == 0 and block.startswith(STAGE_PREFIX) else -1
        found = max(block.rfind(b"\n" + STAGE_PREFIX) + 1 or -1, at_begin)
        if found >= 0:
            line = block[found + len(STAGE_PREFIX) :].partition(b"\n")[0]
            return line[:LINE].decode(errors="replace").strip()
        end = start
    return ""


def _running(scene: SceneFolder) -> list[Running]:
    return [
        Running(
            scene_id=scene.scene_id,
            stage=attempt.stage,
            number=attempt.number,
            step=current_step(scene, attempt.stage, attempt.number),
            since=attempt.started,
        )
        for attempt in read_attempts(scene)
        if attempt.ended is None and attempt.process_alive is not False
    ]
