"""How a run stands, from its files alone: for the driver's own display and for `make status`."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import MutableMapping
from dataclasses import dataclass

from pipeline.errors import UserError
from pipeline.farm import attempts, claim
from pipeline.outputs import RunFolder, SceneFolder

STAGE_PREFIX = b"stage: "

Finished = MutableMapping[str, tuple[str, float]]
"""scene_id → ("done" or "failed", when in Unix seconds): what never changes again."""


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
class Status:
    """A run at one moment.

    Attributes:
        wanted: Scenes that its present or last driver was asked for.
        working: A driver is at work now.
        started: When that driver started, Unix seconds; `now`, when this was read.
        done_since: Scenes done by that driver.
    """

    wanted: int
    done: int
    failed: int
    running: tuple[Running, ...]
    working: bool
    started: float
    now: float
    done_since: int

    @property
    def waiting(self) -> int:
        busy = {attempt.scene_id for attempt in self.running}
        return max(0, self.wanted - self.done - len(busy))

    @property
    def scenes_per_hour(self) -> float | None:
        """Rate since the driver started; None before its first scene, and when none works."""
        if not self.working or self.done_since == 0 or self.now <= self.started:
            return None
        return self.done_since / (self.now - self.started) * 3600

    @property
    def seconds_left(self) -> float | None:
        rate = self.scenes_per_hour
        return None if rate is None else max(0, self.wanted - self.done) / rate * 3600


def read_status(run: RunFolder, finished: Finished | None = None) -> Status:
    """Read how a run stands.

    Args:
        run: The run.
        finished: Remembers what never changes between two calls of one process.

    Raises:
        UserError: There is no run.
    """
    if not run.settings.exists():
        raise UserError(f"there is no run in OUT={run.path}; `make render OUT=…` starts one")
    driver = claim.read_claim(run)
    working = driver is not None and driver.held
    finished = {} if finished is None else finished
    running: list[Running] = []
    for scene_id in _names(run):
        if scene_id in finished:
            continue
        scene = run.scene(scene_id)
        if end := _end(scene):
            finished[scene_id] = end
        elif working:
            running += _running(scene)
    started = driver.started if driver else 0.0
    done = [when for kind, when in finished.values() if kind == "done"]
    return Status(
        wanted=driver.scenes if driver else len(done),
        done=len(done),
        failed=len(finished) - len(done),
        running=tuple(sorted(running, key=lambda attempt: attempt.since)),
        working=working,
        started=started,
        now=time.time(),
        done_since=sum(when >= started for when in done),
    )


def current_step(scene: SceneFolder, stage: str, number: int) -> str:
    """What an attempt is doing, from the last `stage: ` line of its log."""
    try:
        with (
            open(attempts.log_path(scene, stage, number), "rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as log,
        ):
            start = log.rfind(b"\n" + STAGE_PREFIX) + 1  # 0 if it is only in the first line
            line = log[start : start + 200].partition(b"\n")[0]
    except (OSError, ValueError):  # no log yet, or an empty one
        return stage
    step = line.removeprefix(STAGE_PREFIX).decode(errors="replace").strip()
    return step if line.startswith(STAGE_PREFIX) and step else stage


def _names(run: RunFolder) -> list[str]:
    try:
        with os.scandir(run.scenes) as entries:  # other files may lie there, such as .DS_Store
            return [entry.name for entry in entries if entry.is_dir()]
    except FileNotFoundError:
        return []


def _end(scene: SceneFolder) -> tuple[str, float] | None:
    for kind, marker in (("done", scene.done), ("failed", scene.failed)):
        try:
            return kind, marker.stat().st_mtime
        except FileNotFoundError:
            pass
    return None


def _running(scene: SceneFolder) -> list[Running]:
    return [
        Running(
            scene_id=scene.scene_id,
            stage=attempt.stage,
            number=attempt.number,
            step=current_step(scene, attempt.stage, attempt.number),
            since=attempt.started,
        )
        for attempt in attempts.read_attempts(scene)
        if attempt.ended is None and attempt.process_alive is not False
    ]
