"""One attempt at one stage of one scene, as a Ray task on the node that it was sent to.

The Ray worker never imports bpy: generate and render are a fresh Blender process each.
"""

from __future__ import annotations

import importlib
import re
import resource
import shutil
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import (
    NodeDiedError,
    OutOfMemoryError,
    TaskCancelledError,
    TaskUnschedulableError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline import storage
from pipeline.farm.options import Program
from pipeline.farm.resources import Need
from pipeline.farm.scenes import Scene, finish
from pipeline.farm.worker import FULL_BYTES, Limits, run_job
from pipeline.farm.workspace import LostError, Workspace, workspace
from pipeline.layout import DISK_FULL, SceneFolder, write_json
from pipeline.ledger import attempts
from pipeline.ledger.outcome import Outcome, read_tail
from pipeline.ledger.state import FINISH, State, missing, read_state, start_over
from pipeline.settings import from_json

GPU_MEMORY = re.compile(r"(out of|insufficient|not enough)\b.{0,40}\bmemory\b", re.IGNORECASE)
"""What CUDA, OptiX, HIP and Cycles say of a GPU without memory."""


@dataclass(frozen=True)
class Job:
    """What an attempt needs to know, as plain data.

    Attributes:
        scene_folder: In OUT: a path that every node has, or a URL.
        stage: generate, render or annotate.
        number: Number of the attempt at this stage, from 1.
        settings: `settings.to_json`.
        cpus: CPUs that the stage may keep busy; `gpus`, what it holds.
        node: Ray's id of the node that it is sent to.
        device: For a render on a GPU, one of `needs.DEVICES`; else "".
        scratch: Where it works on its machine; None takes the folder for temporary files.
        keep_scenes: Keep scene.blend of a finished scene.
        token: Tells this attempt from another one with the same number.
    """

    scene_folder: str
    stage: str
    number: int
    generator: str
    seed: int
    settings: dict[str, Any]
    cpus: int
    gpus: int
    node: str
    device: str
    scratch: str | None
    keep_scenes: bool
    token: str
    limits: Limits
    program: Program


@dataclass(frozen=True)
class Report:
    """How an attempt ended, and what its scene needs now; None if this machine cannot tell."""

    outcome: Outcome
    state: State | None


def attempt(job: Job) -> Report:
    """Make one attempt, in the ledger from start to end; success needs the marker in OUT.

    After the last panorama is annotated the scene is finished here as well.
    """
    try:
        out = SceneFolder(storage.open_path(job.scene_folder))
        if attempts.is_over(out, job.stage, job.number):  # its node hung for too long
            return _report(job, out, Outcome("interrupted", "taken for lost before it began"))
        if not storage.exists(out.path.parent.parent / "run.json"):  # else it would be made anew
            return Report(Outcome("machine", f"OUT={out.path.parent.parent} is not here"), None)
    except Exception as error:
        return Report(_failed_around(error, job.scene_folder), None)
    work: Workspace | None = None
    try:
        attempts.begin(
            out,
            job.stage,
            job.number,
            cpus=job.cpus,
            gpus=job.gpus,
            node=job.node,
            device=job.device,
            token=job.token,
        )
        scratch = None if job.scratch is None else Path(job.scratch)
        with workspace(out, job.stage, job.number, scratch, job.token) as work:
            outcome = _work(job, work)
    except LostError as error:
        outcome = Outcome("interrupted", str(error))
    except (KeyboardInterrupt, SystemExit):  # cancelled, or Ray ends this worker
        _end(job, out, Outcome("interrupted", "stopped"), work)
        raise
    except Exception as error:  # of this machine or of the store, not of the seed
        outcome = _failed_around(error, out)
    _end(job, out, outcome, work)
    try:
        return _report(job, out, outcome)
    except Exception as error:
        return Report(outcome if not outcome.ok else _failed_around(error, out), None)


def _failed_around(error: Exception, out: SceneFolder | str) -> Outcome:
    """The outcome where something failed around the stage."""
    if isinstance(error, OSError) and error.errno in DISK_FULL and isinstance(out, SceneFolder):
        detail = f"{error.strerror}: {error.filename or out.path}"
        return Outcome(_which_disk(error, out), detail)
    return Outcome("machine", f"{type(error).__name__}: {error}".splitlines()[0][:300])


def _end(job: Job, out: SceneFolder, outcome: Outcome, work: Workspace | None) -> None:
    """Write down how the attempt ended, unless somebody else has, or OUT is gone."""
    with suppress(Exception):  # on a full disk, say; the driver still learns the outcome
        if attempts.is_open(out, job.stage, job.number, job.token):
            brought = {"bytes": work.bytes, "brought": len(work.brought)} if work else {}
            attempts.end(out, job.stage, job.number, outcome, **brought)


def _work(job: Job, work: Workspace) -> Outcome:
    """Fetch, run the stage, bring its results."""
    try:
        if job.stage == "generate":
            start_over(work.out, work.check_open)  # by now it may be another attempt's work
        work.fetch()
    except FileNotFoundError as error:  # removed since the driver looked: look again
        return Outcome("damaged", f"{error.filename or work.out.path} is gone")
    outcome = _annotate(job, work) if job.stage == "annotate" else _blender(job, work)
    if job.stage == "generate" and outcome.ok:
        with suppress(FileNotFoundError):
            work.bring_scene()
    work.bring()
    work.withdraw()
    if outcome.ok and (marker := missing(work.out, job.stage)):
        outcome = replace(outcome, reason="crashed", detail=f"ended well but left no {marker}")
    return outcome


def _blender(job: Job, work: Workspace) -> Outcome:
    spec = work.here.scratch / f"{job.stage}.json"
    write_json(
        spec,
        {
            "stage": job.stage,
            "scene_folder": str(work.here.path),
            "generator": job.generator,
            "seed": job.seed,
            "settings": job.settings,
            "threads": job.cpus,
            "device": job.device,
        },
    )
    log, sent = _log_path(job, work)
    try:
        outcome = run_job(
            [sys.executable, *job.program.blender, str(spec)],
            log,
            job.limits,
            folder=work.here.path,
            env={"OMP_NUM_THREADS": str(job.cpus)},
            on_poll=work.bring,
        )
    finally:
        _send(log, sent)
    on_gpu = job.device.startswith("gpu")
    if on_gpu and outcome.reason == "crashed" and GPU_MEMORY.search(outcome.log_tail):
        outcome = replace(outcome, reason="gpu-memory", detail="the GPU ran out of memory")
    return outcome


def _annotate(job: Job, work: Workspace) -> Outcome:
    log, sent = _log_path(job, work)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("stage: annotate\n")
    started, cpu_before = time.monotonic(), time.process_time()
    reason = detail = ""
    try:
        module, _, function = job.program.annotate.partition(":")
        stage = getattr(importlib.import_module(module), function)
        stage(work.here, from_json(job.settings))
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        reason, detail = "crashed", f"{type(error).__name__}: {error}".splitlines()[0][:300]
        with open(log, "a") as file:
            traceback.print_exc(file=file)
    log_tail = read_tail(log)
    _send(log, sent)
    return Outcome(
        reason=reason or "ok",
        detail=detail,
        seconds=time.monotonic() - started,
        cpu_seconds=time.process_time() - cpu_before,
        peak_rss=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        log_tail=log_tail,
    )


def _log_path(job: Job, work: Workspace) -> tuple[Path, Path | None]:
    """Where the log is written, and where it goes afterwards: a store cannot be appended to."""
    log = attempts.log_path(work.out, job.stage, job.number)
    if not storage.is_remote(log):
        return log, None
    return attempts.log_path(work.here, job.stage, job.number), log


def _send(log: Path, sent: Path | None) -> None:
    if sent is not None and log.exists():
        storage.put(log, sent)


def _which_disk(error: OSError, out: SceneFolder) -> str:
    """`disk` where OUT has no room, `scratch` where the folder that was worked in has none."""
    run = out.path.parent.parent
    if storage.is_remote(run):
        return "scratch"
    named = str(error.filename or "").startswith(str(run / "scenes"))
    full = shutil.disk_usage(run).free < FULL_BYTES
    return "disk" if named or full else "scratch"


def _report(job: Job, out: SceneFolder, outcome: Outcome) -> Report:
    """The outcome and the scene's state; a scene with nothing left to make is finished first."""
    state = read_state(out)
    if outcome.ok and state.stage == FINISH:
        scene = Scene(job.seed, out)
        if unfit := finish(scene, job.generator, keep_work=job.keep_scenes):
            return Report(replace(outcome, reason="rejected", detail=unfit), state)
        state = State(stage=None)
    return Report(outcome, state)


# Our own ledger decides about retries, never Ray.
_remote = ray.remote(max_retries=0)(attempt)


def submit(job: Job, need: Need) -> ray.ObjectRef[Report]:
    """Hand a job to Ray, with what it needs, for the node that was chosen."""
    return _remote.options(
        num_cpus=need.cpus,
        num_gpus=need.gpus,
        scheduling_strategy=NodeAffinitySchedulingStrategy(job.node, soft=False),
    ).remote(job)


def lost(error: Exception) -> Outcome:
    """The outcome of a task that Ray lost, by Ray's error."""
    if isinstance(error, TaskCancelledError):
        return Outcome("interrupted", "cancelled")
    if isinstance(error, TaskUnschedulableError):
        return Outcome("interrupted", "its node went away before it began")
    if isinstance(error, OutOfMemoryError):
        return Outcome("memory", "Ray ended its worker, the machine ran out of memory")
    if isinstance(error, NodeDiedError):
        return Outcome("node", "its node went away")
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return Outcome("crashed", f"{type(error).__name__}: {lines[-1] if lines else ''}"[:300])
