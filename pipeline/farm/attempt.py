"""The ledger: every attempt at every stage of every scene, as files.

    attempts/<stage>-<n>.json   written when attempt n starts, and again when it ends
    attempts/<stage>-<n>.log    what it printed

An attempt whose process vanished without an end was interrupted. It does not count against the
retries, for a killed driver or a power cut says nothing about the seed. An attempt that has an end
may not bring its results to OUT any more (`is_open`): its node may only have been out of reach, and
the scene is then being made elsewhere.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

from pipeline import storage
from pipeline.layout import STAGES, SceneFolder, read_json, write_json

TAIL_LINES = 30


@dataclass(frozen=True)
class Result:
    """How one attempt ended and what it cost.

    Attributes:
        reason: ok, rejected, damaged (what it read), crashed, timeout, silent, memory, gpu-memory,
            size (folder or log too big), disk (no room in OUT), scratch (no room to work in),
            node (it went away), machine (something of it, or of the store, failed) or interrupted
            (stopped from outside).
        detail: One line for people.
        seconds: Wall-clock time.
        cpu_seconds: User and system time of the child and all it started.
        peak_rss: Largest resident size in bytes of all of them together, sampled.
        log_tail: The last lines of the log.
    """

    reason: str
    detail: str = ""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_rss: int = 0
    log_tail: str = ""

    @property
    def ok(self) -> bool:
        return self.reason == "ok"


def read_tail(path: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a log; empty if there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 400 * lines))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


NOT_COUNTED = ("ok", "interrupted", "node", "machine", "disk", "scratch", "gpu-memory")
"""Ends of an attempt that say nothing against its seed."""

ELSEWHERE = ("node", "scratch", "machine")
"""Ends of an attempt for the sake of its machine."""


@dataclass(frozen=True)
class Attempt:
    """One line of the ledger; times are Unix seconds.

    Attributes:
        host: Where it ran, and `node`, Ray's id of it.
        pid: Its Ray worker's process, and `created`, when that process began (pids come again).
        token: Tells it from another one that was given the same number.
        cpus, gpus: What it was given; `device`, where a render was to run (see `needs.DEVICES`).
        ended: None while it runs.
        reason: As in `worker.Result`.
        seconds: Wall-clock time; `cpu_seconds` and `peak_rss` (bytes) as in `worker.Result`.
        counted: Whether it is a failure that counts against the seed.
        forgiven: Taken back: it counts neither against its seed nor against where it ran.
        bytes: What it brought to OUT.
        brought: Panoramas that it brought to OUT.
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
    node: str = ""
    cpus: int = 1
    gpus: int = 0
    device: str = ""
    token: str = ""
    bytes: int = 0
    brought: int = 0
    forgiven: bool = False

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


def begin_attempt(
    scene: SceneFolder,
    stage: str,
    number: int,
    *,
    cpus: int = 1,
    gpus: int = 0,
    node: str = "",
    device: str = "",
    token: str = "",
) -> Attempt:
    """Write down that this process starts an attempt."""
    attempt = Attempt(
        stage=stage,
        number=number,
        host=socket.gethostname(),
        pid=os.getpid(),
        created=psutil.Process().create_time(),
        started=time.time(),
        node=node,
        cpus=cpus,
        gpus=gpus,
        device=device,
        token=token,
    )
    write_json(record_path(scene, stage, number), asdict(attempt))
    return attempt


def end_attempt(
    scene: SceneFolder,
    stage: str,
    number: int,
    outcome: Result,
    *,
    bytes: int = 0,
    brought: int = 0,
) -> None:
    """Write down how an attempt ended, also one whose worker died before it could begin.

    A render that brought a panorama does not count, however it ended: the next goes on from there,
    and there are only so many panoramas.
    """
    path = record_path(scene, stage, number)
    now = time.time()
    attempt = _read(path) or Attempt(stage, number, host="", pid=0, created=0.0, started=now)
    if attempt.ended is not None:  # by the driver, which took it for lost; that is how it stays
        return
    got_on = stage == "render" and brought > 0
    ended = replace(
        attempt,
        ended=now,
        reason=outcome.reason,
        detail=outcome.detail,
        seconds=outcome.seconds or now - attempt.started,
        cpu_seconds=outcome.cpu_seconds,
        peak_rss=outcome.peak_rss,
        counted=outcome.reason not in NOT_COUNTED and not got_on and not attempt.forgiven,
        bytes=bytes,
        brought=brought,
    )
    write_json(path, asdict(ended))


def is_open(scene: SceneFolder, stage: str, number: int, token: str = "") -> bool:
    """Whether an attempt may still bring results to OUT.

    It may not when somebody has written its end, when the record is another one's (two drivers
    may give the same number, if the first was killed at the right moment), and when there is a
    later one.
    """
    attempt = _read(record_path(scene, stage, number))
    return (
        attempt is not None
        and attempt.ended is None
        and attempt.token == token
        and not storage.exists(record_path(scene, stage, number + 1))
    )


def has_ended(scene: SceneFolder, stage: str, number: int) -> bool:
    """Whether somebody has written an attempt's end, be it before it began."""
    attempt = _read(record_path(scene, stage, number))
    return attempt is not None and attempt.ended is not None


def read_attempts(scene: SceneFolder) -> list[Attempt]:
    """All attempts of a scene, in the order of the stages and their numbers."""
    paths = [scene.attempts / name for name in storage.names(scene.attempts)]
    found = [attempt for path in paths if path.suffix == ".json" and (attempt := _read(path))]
    return sorted(found, key=lambda attempt: (STAGES.index(attempt.stage), attempt.number))


def reset_failures(scene: SceneFolder) -> None:
    """Take back failures, and a quarantine, that were not the seed's fault; the logs stay."""
    for attempt in read_attempts(scene):
        write_json(
            record_path(scene, attempt.stage, attempt.number),
            asdict(replace(attempt, counted=False, forgiven=True)),
        )
    storage.remove(scene.failed)


def _read(path: Path) -> Attempt | None:
    """One record; None for a file that is missing or no record."""
    try:
        attempt = Attempt(**read_json(path))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return attempt if attempt.stage in STAGES and isinstance(attempt.number, int) else None
