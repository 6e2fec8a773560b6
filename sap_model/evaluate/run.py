"""Evaluate methods on all panoramas: what is left to do, and who does it.

Files are the truth (`jobs`), so an evaluation may be killed at any moment and run again. Ray's
processes each hold one model at a time; panoramas go to them method by method.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.farm.farm_settings import FarmSettings
from pipeline.shards.reader import ShardReader
from pipeline.storage import exclusive_lock
from sap_model.evaluate.eval_settings import EvalSettings, provenance
from sap_model.evaluate.jobs import Job, check_provenance, panoramas, pending_jobs
from sap_model.evaluate.worker import Worker

RECENT = 6
"""Panoramas whose time says how long the rest will take."""

ATTEMPTS = 3
"""How often a panorama may end its process (out of memory, a crash) before the run stops."""


@dataclass(frozen=True)
class Progress:
    """How an evaluation stands: jobs done, jobs in all, and seconds that are left."""

    done: int
    total: int
    seconds_left: float | None


def evaluate(
    settings: EvalSettings,
    folder: Path,
    *,
    workers: int | None = None,
    ray_address: str | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> int:
    """Evaluate what is not evaluated yet.

    Args:
        settings: What to evaluate.
        folder: EVAL; on a cluster every node must have it under this path.
        workers: Processes; by default one for each GPU, or one where there is none.
        ray_address: A Ray cluster instead of this machine. One worker on this machine needs no
            Ray at all.
        progress: Called after each panorama.

    Returns:
        How many (method, panorama) pairs were evaluated by this call.

    Raises:
        UserError: The folder holds results of other settings, another process evaluates into it,
            weights cannot be had or do not fit, or a panorama keeps ending its process.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"EVAL={folder} is a file; choose a folder")
    with exclusive_lock(folder / ".lock", "evaluating into"):
        wanted = panoramas(settings, ShardReader(settings.data, settings.split))
        for method in settings.methods:
            check_provenance(folder, settings, method, provenance(settings, method))
        jobs = list(pending_jobs(settings, folder, wanted))
        total = len(settings.methods) * len(wanted)
        done, times = total - len(jobs), deque([time.monotonic()], maxlen=RECENT)
        progress(Progress(done, total, None))
        for number, _ in enumerate(_work(settings, folder, jobs, workers, ray_address), start=1):
            times.append(time.monotonic())  # of the last few alone: methods differ a hundredfold
            each = (times[-1] - times[0]) / (len(times) - 1)
            progress(Progress(done + number, total, each * (len(jobs) - number)))
    return len(jobs)


def _work(
    settings: EvalSettings,
    folder: Path,
    jobs: list[Job],
    workers: int | None,
    ray_address: str | None,
) -> Iterator[Job]:
    """Do the jobs; yields each when its file is there."""
    if not jobs:
        return
    import torch

    if not ray_address and (workers or max(1, torch.cuda.device_count())) == 1:
        worker = Worker(settings, folder)
        for job in jobs:
            worker.evaluate(job)
            yield job
        return
    from pipeline.farm.cluster import connected

    with connected(FarmSettings(ray_address=ray_address, gpus=torch.cuda.device_count())):
        yield from _in_ray(settings, folder, jobs, workers)


def _in_ray(
    settings: EvalSettings, folder: Path, jobs: list[Job], workers: int | None
) -> Iterator[Job]:
    """The same on a Ray that is connected: an actor for each GPU, or `workers` of them on CPUs."""
    import ray
    from ray.exceptions import RayActorError, RayTaskError

    total = ray.cluster_resources()
    gpus, cpus = int(total.get("GPU", 0)), int(total.get("CPU", 1))
    # no more than Ray can place, or those that wait for a place would keep their panoramas
    count = min(workers or gpus or 1, gpus or cpus, len(jobs))
    threads = max(1, cpus // count)
    actor: Any = ray.remote(Worker).options(max_restarts=0, num_gpus=min(gpus, 1), num_cpus=1)
    waiting, tried = deque(jobs), Counter[Job]()
    running: dict = {}
    idle = [actor.remote(settings, folder.resolve(), threads) for _ in range(count)]
    while waiting or running:
        while waiting and idle:
            job, handle = waiting.popleft(), idle.pop()
            running[handle.evaluate.remote(job)] = job, handle
        (ended,), _ = ray.wait(list(running), num_returns=1)
        job, handle = running.pop(ended)
        try:
            ray.get(ended)
        except RayActorError:  # killed, out of memory, its node is gone
            tried[job] += 1
            if tried[job] >= ATTEMPTS:
                raise UserError(
                    f"{job.method} on {job.panorama.image_id} ended its process {ATTEMPTS} times "
                    "(out of memory?); choose a smaller IMAGE_SIZE or fewer WORKERS and run again"
                ) from None
            waiting.appendleft(job)
            idle.append(actor.remote(settings, folder.resolve(), threads))
            continue
        except RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise error.cause from None
            raise
        idle.append(handle)
        yield job
