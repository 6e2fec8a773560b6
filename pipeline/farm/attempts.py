"""The ledger: every attempt at every stage of every scene, as files.

    attempts/<stage>-<n>.json   written when attempt n starts, and again when it ends
    attempts/<stage>-<n>.log    what it printed
    failed.json                 the seed is quarantined, and why

An attempt whose process vanished without an end was interrupted. It does not count against the
retries, for a killed driver or a power cut says nothing about the seed.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

from pipeline.farm.session import kill_session
from pipeline.farm.worker import Outcome, read_tail
from pipeline.outputs import STAGES, SceneFolder, read_json, write_json
from pipeline.settings import RunSettings, generator_of_seed

NOT_COUNTED = ("ok", "interrupted", "disk")
"""Ends of an attempt that say nothing against its seed."""


@dataclass(frozen=True)
class Attempt:
    """One line of the ledger; times are Unix seconds.

    Attributes:
        host: Where it ran.
        pid: Its Ray worker's process, and `created`, when that process began (pids come again).
        ended: None while it runs.
        reason: As in `worker.Outcome`.
        seconds: Wall-clock time; `cpu_seconds` and `peak_rss` (bytes) as in `worker.Outcome`.
        counted: Whether it is a failure that counts against the seed.
        rendered: Panoramas that lay in rendered/ when it began.
    """

    stage: str
    number: int
    host: str
    pid: int
    created: float
    started: float
    ended: float | None = None
    reason: str | None = None
    detail: str = ""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_rss: int = 0
    counted: bool = False
    rendered: int = 0

    @property
    def process_alive(self) -> bool | None:
        """Whether the worker process lives; None if it is on another machine."""
        if self.host != socket.gethostname():
            return None
        with suppress(psutil.Error):
            return bool(abs(psutil.Process(self.pid).create_time() - self.created) < 1)
        return False


def record_path(scene: SceneFolder, stage: str, number: int) -> Path:
    return scene.attempts / f"{stage}-{number}.json"


def log_path(scene: SceneFolder, stage: str, number: int) -> Path:
    return scene.attempts / f"{stage}-{number}.log"


def begin(scene: SceneFolder, stage: str, number: int) -> None:
    """Write down that this process starts an attempt."""
    attempt = Attempt(
        stage=stage,
        number=number,
        host=socket.gethostname(),
        pid=os.getpid(),
        created=psutil.Process().create_time(),
        started=time.time(),
        rendered=_rendered(scene),
    )
    write_json(record_path(scene, stage, number), asdict(attempt))


def end(scene: SceneFolder, stage: str, number: int, outcome: Outcome) -> None:
    """Write down how an attempt ended, also one whose worker died before it could begin.

    A render that added a panorama does not count, however it ended: the next goes on from there,
    and there are only so many panoramas.
    """
    path = record_path(scene, stage, number)
    now, rendered = time.time(), _rendered(scene)
    attempt = _read(path) or Attempt(
        stage, number, host="", pid=0, created=0.0, started=now, rendered=rendered
    )
    got_on = stage == "render" and rendered > attempt.rendered
    ended = replace(
        attempt,
        ended=now,
        reason=outcome.reason,
        detail=outcome.detail,
        seconds=outcome.seconds or now - attempt.started,
        cpu_seconds=outcome.cpu_seconds,
        peak_rss=outcome.peak_rss,
        counted=outcome.reason not in NOT_COUNTED and not got_on,
    )
    write_json(path, asdict(ended))


def read_attempts(scene: SceneFolder) -> list[Attempt]:
    """All attempts of a scene, in the order of the stages and their numbers."""
    try:
        paths = [path for path in scene.attempts.iterdir() if path.suffix == ".json"]
    except FileNotFoundError:
        return []
    found = [attempt for path in paths if (attempt := _read(path))]
    return sorted(found, key=lambda attempt: (STAGES.index(attempt.stage), attempt.number))


def failures(scene: SceneFolder, stage: str) -> int:
    """Attempts at a stage that count against the seed."""
    return sum(attempt.counted for attempt in read_attempts(scene) if attempt.stage == stage)


def next_number(scene: SceneFolder, stage: str) -> int:
    """The number of the next attempt at a stage, from 1."""
    return 1 + max((a.number for a in read_attempts(scene) if a.stage == stage), default=0)


def close_interrupted(scene: SceneFolder) -> None:
    """Close the attempts that an earlier driver left open, and end what may still run of them.

    Only for the driver that holds the claim on OUT: an open attempt is then nobody else's.
    """
    for attempt in read_attempts(scene):
        if attempt.ended is not None:
            continue
        if attempt.process_alive:
            _kill_worker(attempt.pid)
        shutil.rmtree(scene.scratch, ignore_errors=True)  # it may be what fills the disk
        outcome = Outcome("interrupted", "its driver or machine went away")
        end(scene, attempt.stage, attempt.number, outcome)


def forgive(scene: SceneFolder) -> None:
    """Take back a quarantine that was not the seed's fault; its logs stay."""
    for attempt in read_attempts(scene):
        write_json(
            record_path(scene, attempt.stage, attempt.number),
            asdict(replace(attempt, counted=False)),
        )
    scene.failed.unlink(missing_ok=True)


def quarantine(
    scene: SceneFolder, settings: RunSettings, seed: int, stage: str, outcome: Outcome
) -> None:
    """Give a seed up: write failed.json and free its disk space."""
    tried = read_attempts(scene)
    number = max((a.number for a in tried if a.stage == stage), default=0)
    log = log_path(scene, stage, number)
    write_json(
        scene.failed,
        {
            "seed": seed,
            "generator": generator_of_seed(settings, seed),
            "stage": stage,
            "reason": outcome.reason,
            "detail": outcome.detail,
            "log": str(log.relative_to(scene.path)),
            "log_tail": outcome.log_tail or read_tail(log),
            "attempts": [asdict(attempt) for attempt in tried],
            "when": time.time(),
            "run_again": run_again(settings, seed),
        },
    )
    remove_work(scene)
    shutil.rmtree(scene.path / "panoramas", ignore_errors=True)


def remove_work(scene: SceneFolder) -> None:
    """Remove what is large and no longer needed: the scene file, raw renders, scratch."""
    scene.blend.unlink(missing_ok=True)
    shutil.rmtree(scene.path / "rendered", ignore_errors=True)
    shutil.rmtree(scene.scratch, ignore_errors=True)


def run_again(settings: RunSettings, seed: int) -> str:
    """The command that makes this one seed again by itself, under the same settings."""
    mix = ",".join(f"{name}:{weight:g}" for name, weight in settings.generators)
    generator = mix if len(settings.generators) > 1 else settings.generators[0][0]
    passes = f" PASSES={','.join(settings.passes)}" if settings.passes else ""
    return (
        f"make render SCENES=1 SEED={seed} GENERATOR={generator} PANOS={settings.panos} "
        f"PROFILE={settings.profile} WIDTH={settings.width} SAMPLES={settings.samples}{passes} "
        f"MIN_AREA={settings.min_area} OUT=out-seed-{seed}"
    )


def _read(path: Path) -> Attempt | None:
    """One record; None for a file that is missing or no record."""
    try:
        attempt = Attempt(**read_json(path))
    except (OSError, ValueError, TypeError):
        return None
    return attempt if attempt.stage in STAGES and isinstance(attempt.number, int) else None


def _rendered(scene: SceneFolder) -> int:
    return sum(path.is_dir() for path in scene.path.glob("rendered/*"))


def _kill_worker(pid: int) -> None:
    """End a left-over Ray worker, then what it started (first, it would report a crash)."""
    with suppress(psutil.Error):
        worker = psutil.Process(pid)
        children = worker.children()
        worker.kill()
        worker.wait(timeout=5)
        for child in children:
            kill_session(child.pid, grace=0)
