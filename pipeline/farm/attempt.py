"""One attempt at one stage of one scene: what is asked for, its record in OUT, and its result.

    attempts/<stage>-<n>.json   written when attempt n starts, and again when it ends
    attempts/<stage>-<n>.log    what it printed

An attempt whose process vanished without an end was interrupted. That does not count against the
retries, because a killed driver or a power cut says nothing about the seed. An attempt with a
recorded end delivers nothing to OUT any more (`is_open`): its node may only have been unreachable,
and another attempt at the scene may be running elsewhere.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from pipeline import storage
from pipeline.farm.child import Limits
from pipeline.farm.scheduler import ResourceRequest
from pipeline.layout import STAGES, SceneFolder, read_json, write_json

NOT_COUNTED = ("ok", "interrupted", "node", "machine", "disk", "scratch", "gpu-memory")
"""Reasons that say nothing against the seed."""

MACHINE_REASONS = ("node", "scratch", "machine")
"""Reasons for which the machine is to blame."""

TAIL_LINES = 30  # of a log


@dataclass(frozen=True)
class Program:
    """What the farm runs; tests replace it.

    Attributes:
        blender: Arguments of the worker's own Python that start Blender on a SPEC.json.
        annotate: `module:function`, called in the Ray worker with (SceneFolder, RunSettings).
    """

    blender: tuple[str, ...] = ("-m", "pipeline.blender")
    annotate: str = "pipeline.annotations.stage:annotate_scene"


@dataclass(frozen=True)
class AttemptSpec:
    """What is asked for: everything a worker needs to run an attempt, as plain data.

    Attributes:
        scene_folder: In OUT: a path that every node has, or a URL.
        stage: generate, render or annotate.
        number: Number of the attempt at this stage, from 1.
        settings: `settings.to_json`.
        request: What it takes from its node.
        node: Ray's id of the node where it runs.
        device: For a render on a GPU, one of `resource_estimates.DEVICES`; else "".
        scratch: Where it works on its machine; None takes the folder for temporary files.
        keep_scenes: Keep scene.blend of a finished scene.
        token: Distinguishes this attempt from another one with the same number.
        to_render: Panoramas that are not rendered yet when it starts.
        max_seconds: After this time the executor ends it; None for no limit.
    """

    scene_folder: str
    stage: str
    number: int
    generator: str
    seed: int
    settings: dict[str, Any]
    request: ResourceRequest
    node: str
    device: str
    scratch: str | None
    keep_scenes: bool
    token: str
    limits: Limits
    program: Program
    to_render: int = 0
    max_seconds: float | None = None

    @property
    def scene_id(self) -> str:
        return self.scene_folder.rstrip("/").rpartition("/")[2]


@dataclass(frozen=True)
class Attempt:
    """What is running or has run: the record of an attempt. Times are Unix seconds.

    Attributes:
        host: Where it ran, and `node`, Ray's id of that machine.
        pid: Process id of its Ray worker, and `created`, when that process started (process ids
            are reused).
        token: As in `AttemptSpec`.
        cpus, gpus: What it got; `device`, as in `AttemptSpec`.
        ended: None while it runs.
        reason: As in `Result`, like `detail`.
        seconds: Wall-clock time; `cpu_seconds` and `peak_rss` (bytes) as in `Result`.
        counted: Whether it is a failure that counts against the seed.
        forgiven: Its failure was reset: it counts neither against its seed nor against its node.
        bytes: Size of what it delivered to OUT.
        brought: Panoramas that it delivered to OUT.
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


@dataclass(frozen=True)
class SceneState:
    """What a scene needs next, by its files and its attempts.

    Attributes:
        stage: The next stage; None where the scene is finished or quarantined.
        to_render: Panoramas that are not rendered yet, and `to_annotate`, not annotated yet. At
            stage annotate with none left, only the record in done/ is missing.
        scene_bytes: Size of its scene.blend.
        numbers: By stage, how many attempts it has had.
        failures: By stage, those that count against its seed.
        failed_on: By stage, the nodes where those ran.
        memory_failures: By stage, attempts that ran out of memory, and `memory_peaks`, the most
            bytes that one of them used.
        gpu_failures: Renders that ran out of GPU memory.
        machine_failures: Attempts that ended because of their machine: its node went away, its
            scratch disk was full, or a part of it failed.
    """

    stage: str | None = "generate"
    to_render: int = 0
    to_annotate: int = 0
    scene_bytes: int = 0
    numbers: dict[str, int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    failed_on: dict[str, frozenset[str]] = field(default_factory=dict)
    memory_failures: dict[str, int] = field(default_factory=dict)
    memory_peaks: dict[str, int] = field(default_factory=dict)
    gpu_failures: int = 0
    machine_failures: int = 0

    def panoramas_left(self, stage: str) -> int:
        """Panoramas that a stage still has to make."""
        return self.to_render if stage == "render" else self.to_annotate


@dataclass(frozen=True)
class Result:
    """What came of an attempt, and what it cost.

    Attributes:
        reason: ok, rejected, damaged (its input), crashed, timeout, silent, memory, gpu-memory,
            size (folder or log too large), disk (OUT is full), scratch (its scratch disk is full),
            node (the node went away), machine (a part of it, or the store, failed) or interrupted
            (stopped from outside).
        detail: One line for people.
        seconds: Wall-clock time.
        cpu_seconds: User and system time of the child and its descendants.
        peak_rss: Largest resident size in bytes of all of them together, sampled.
        log_tail: The last lines of the log.
        state: What its scene needs next; None where the worker could not read or report it.
        node_lost: Its node went away while it ran or before it started.
    """

    reason: str
    detail: str = ""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_rss: int = 0
    log_tail: str = ""
    state: SceneState | None = None
    node_lost: bool = False

    @property
    def ok(self) -> bool:
        return self.reason == "ok"


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
    """Record that this process starts an attempt."""
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
    result: Result,
    *,
    bytes: int = 0,
    brought: int = 0,
) -> None:
    """Record how an attempt ended, also if its worker died before it could begin.

    A recorded end stays as it is: the driver may have written it for an attempt it took for lost.
    A failed render that delivered a panorama does not count against the seed: the next render
    resumes after that panorama, and the number of panoramas is limited.
    """
    path = record_path(scene, stage, number)
    now = time.time()
    attempt = _read(path) or Attempt(stage, number, host="", pid=0, created=0.0, started=now)
    if attempt.ended is not None:
        return
    progressed = stage == "render" and brought > 0
    ended = replace(
        attempt,
        ended=now,
        reason=result.reason,
        detail=result.detail,
        seconds=result.seconds or now - attempt.started,
        cpu_seconds=result.cpu_seconds,
        peak_rss=result.peak_rss,
        counted=result.reason not in NOT_COUNTED and not progressed and not attempt.forgiven,
        bytes=bytes,
        brought=brought,
    )
    write_json(path, asdict(ended))


def is_open(scene: SceneFolder, stage: str, number: int, token: str = "") -> bool:
    """Whether an attempt may still deliver results to OUT.

    It may not if its end is recorded, if the record has another token (two drivers may give the
    same number, if the first was killed at the right moment), or if a later attempt exists.
    """
    attempt = _read(record_path(scene, stage, number))
    return (
        attempt is not None
        and attempt.ended is None
        and attempt.token == token
        and not storage.exists(record_path(scene, stage, number + 1))
    )


def has_ended(scene: SceneFolder, stage: str, number: int) -> bool:
    """Whether the attempt is recorded as ended, even if it never started."""
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


def read_tail(log: Path) -> str:
    """The last lines of a log, on this machine or in a store; empty if there is no log."""
    try:
        if storage.is_remote(log):
            data = storage.read_bytes(log)
        else:
            with open(log, "rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - 400 * TAIL_LINES))
                data = file.read()
    except FileNotFoundError:
        return ""
    return "\n".join(data.decode(errors="replace").splitlines()[-TAIL_LINES:])


def _read(path: Path) -> Attempt | None:
    """One record; None for a file that is missing or not a record."""
    try:
        attempt = Attempt(**read_json(path))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return attempt if attempt.stage in STAGES and isinstance(attempt.number, int) else None
