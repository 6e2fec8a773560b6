"""One attempt at one stage of one scene, as a Ray task. Runs on whatever node Ray picked.

The Ray worker never imports bpy: generate and render are a fresh Blender process each.
"""

from __future__ import annotations

import importlib
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
from ray.exceptions import OutOfMemoryError, TaskCancelledError

from pipeline.farm import attempts
from pipeline.farm.options import Program
from pipeline.farm.schedule import missing, start_over
from pipeline.farm.worker import Limits, Outcome, read_tail, run_job
from pipeline.outputs import DISK_FULL, SceneFolder, write_json
from pipeline.settings import from_json


@dataclass(frozen=True)
class Job:
    """What an attempt needs to know, as plain data.

    Attributes:
        stage: generate, render or annotate.
        number: Number of the attempt at this stage, from 1.
        settings: `settings.to_json`.
        threads: CPUs that the stage may keep busy.
    """

    scene_folder: str
    stage: str
    number: int
    generator: str
    seed: int
    settings: dict[str, Any]
    threads: int
    limits: Limits
    program: Program


def attempt(job: Job) -> Outcome:
    """Make one attempt, in the ledger from start to end; success needs the marker on disk."""
    scene = SceneFolder(Path(job.scene_folder))
    try:
        attempts.begin(scene, job.stage, job.number)
        outcome = _annotate(job, scene) if job.stage == "annotate" else _blender(job, scene)
        if outcome.ok and (marker := missing(scene, job.stage)):
            outcome = replace(outcome, reason="crashed", detail=f"ended well but left no {marker}")
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        outcome = Outcome("disk", f"{error.strerror}: {error.filename or scene.path}")
    except (KeyboardInterrupt, SystemExit):  # cancelled, or Ray ends this worker
        if attempts.record_path(scene, job.stage, job.number).exists():  # else OUT is gone
            with suppress(OSError):
                attempts.end(scene, job.stage, job.number, Outcome("interrupted", "stopped"))
        raise
    finally:
        shutil.rmtree(scene.scratch, ignore_errors=True)  # half-made things; may fill a disk
    with suppress(OSError):  # on a full disk the driver still learns the outcome
        attempts.end(scene, job.stage, job.number, outcome)
    return outcome


def _blender(job: Job, scene: SceneFolder) -> Outcome:
    if job.stage == "generate":
        start_over(scene)
    spec = scene.scratch / f"{job.stage}.json"
    write_json(
        spec,
        {
            "stage": job.stage,
            "scene_folder": str(scene.path),
            "generator": job.generator,
            "seed": job.seed,
            "settings": job.settings,
            "threads": job.threads,
        },
    )
    return run_job(
        [sys.executable, *job.program.blender, str(spec)],
        attempts.log_path(scene, job.stage, job.number),
        job.limits,
        folder=scene.path,
        env={"OMP_NUM_THREADS": str(job.threads)},
    )


def _annotate(job: Job, scene: SceneFolder) -> Outcome:
    log = attempts.log_path(scene, job.stage, job.number)
    log.write_text("stage: annotate\n")
    started, cpu_before = time.monotonic(), time.process_time()
    reason = detail = ""
    try:
        module, _, function = job.program.annotate.partition(":")
        getattr(importlib.import_module(module), function)(scene, from_json(job.settings))
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        reason, detail = "crashed", f"{type(error).__name__}: {error}".splitlines()[0][:300]
        with open(log, "a") as file:
            traceback.print_exc(file=file)
    return Outcome(
        reason=reason or "ok",
        detail=detail,
        seconds=time.monotonic() - started,
        cpu_seconds=time.process_time() - cpu_before,
        peak_rss=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        log_tail=read_tail(log),
    )


# Our own ledger decides about retries, never Ray.
generate = ray.remote(num_cpus=1, max_retries=0)(attempt)
annotate = ray.remote(num_cpus=1, max_retries=0)(attempt)
render = ray.remote(max_retries=0)(attempt)  # its CPUs and GPU are given when it is submitted


def submit(job: Job, *, gpu: bool) -> ray.ObjectRef[Outcome]:
    """Hand a job to Ray with the resources of its stage."""
    if job.stage == "render":
        return render.options(num_cpus=job.threads, num_gpus=int(gpu)).remote(job)
    return (generate if job.stage == "generate" else annotate).remote(job)


def lost(error: Exception) -> Outcome:
    """The outcome of a task that Ray lost, by Ray's error."""
    if isinstance(error, TaskCancelledError):
        return Outcome("interrupted", "cancelled")
    if isinstance(error, OutOfMemoryError):
        return Outcome("memory", "Ray ended its worker, the machine ran out of memory")
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return Outcome("crashed", f"{type(error).__name__}: {lines[-1] if lines else ''}"[:300])
