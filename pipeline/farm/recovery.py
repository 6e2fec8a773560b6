"""What an earlier driver left open: attempts without an end, and what may still run of them."""

from __future__ import annotations

from contextlib import suppress

import psutil

from pipeline.farm.attempt import Result, end_attempt, read_attempts
from pipeline.farm.supervisor import kill_session
from pipeline.layout import SceneFolder


def close_interrupted(scene: SceneFolder) -> None:
    """Close the attempts that an earlier driver left open, and end what may still run of them.

    Only for the driver that holds the claim on OUT: an open attempt is then nobody else's.
    """
    for attempt in read_attempts(scene):
        if attempt.ended is not None:
            continue
        if attempt.process_alive:
            _kill_worker(attempt.pid)
        outcome = Result("interrupted", "its driver or machine went away")
        end_attempt(scene, attempt.stage, attempt.number, outcome)


def _kill_worker(pid: int) -> None:
    """End a left-over Ray worker, then what it started (first, it would report a crash)."""
    with suppress(psutil.Error):
        worker = psutil.Process(pid)
        children = worker.children()
        worker.kill()
        worker.wait(timeout=5)
        for child in children:
            kill_session(child.pid, grace=0)
