"""How a driver takes over a scene that an earlier driver left unfinished."""

from __future__ import annotations

from contextlib import suppress

import psutil

from pipeline.farm.attempt import Result, end_attempt, read_attempts
from pipeline.farm.farm_settings import FarmSettings
from pipeline.farm.quarantine import must_quarantine
from pipeline.farm.run_child import kill_session
from pipeline.farm.scene import read_state
from pipeline.layout import STAGES, SceneFolder


def close_interrupted(scene: SceneFolder) -> None:
    """Close the attempts that an earlier driver left open, and kill what still runs of them.

    Only the driver that holds the claim on OUT may call it: no open attempt is then in use.
    """
    for attempt in read_attempts(scene):
        if attempt.ended is not None:
            continue
        if attempt.process_alive:
            _kill_worker(attempt.pid)
        result = Result("interrupted", "its driver or machine went away")
        end_attempt(scene, attempt.stage, attempt.number, result)


def missed_quarantine(scene: SceneFolder, farm: FarmSettings) -> tuple[str, Result] | None:
    """Stage and result for which an earlier driver was killed before it could quarantine a seed."""
    state = read_state(scene)
    last = {one.stage: one for one in read_attempts(scene) if one.reason and not one.forgiven}
    for stage in STAGES:
        if stage in last:
            result = Result(str(last[stage].reason), last[stage].detail)
            if state.stage is not None and must_quarantine(state, stage, result, farm):
                return stage, result
    return None


def _kill_worker(pid: int) -> None:
    """Kill a remaining Ray worker, then its children; the reverse order would report a crash."""
    with suppress(psutil.Error):
        worker = psutil.Process(pid)
        children = worker.children()
        worker.kill()
        worker.wait(timeout=5)
        for child in children:
            kill_session(child.pid, grace=0)
