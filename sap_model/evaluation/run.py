"""Evaluate methods on all panoramas: what is left to do, and who does it.

Files are the truth: a panorama is evaluated when its file exists (`worker.result_path`), so an
evaluation may be killed at any moment and run again. Ray's processes each hold one model at a time;
panoramas go to them method by method.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.farm.options import FarmSettings
from pipeline.outputs import LEFTOVER, only_process, read_json, write_json
from pipeline.shards.reader import ShardReader
from sap_model.evaluation.settings import EvalSettings, basis
from sap_model.evaluation.worker import Worker, result_path

ATTEMPTS = 3
"""How often a panorama may end its process (out of memory, a crash) before the run stops."""


@dataclass(frozen=True)
class Unit:
    """A method on a panorama."""

    method: str
    index: int
    image_id: str


@dataclass(frozen=True)
class Progress:
    """How an evaluation stands: units done, units in all, and seconds that are left."""

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
    with only_process(folder, "evaluating into"):
        reader = ShardReader(settings.data, settings.split)
        for method in settings.methods:
            _claim(folder, method, basis(settings, method, reader))
        units = list(open_units(settings, folder, reader))
        total = len(settings.methods) * len(chosen(settings, reader))
        done, started = total - len(units), time.monotonic()
        progress(Progress(done, total, None))
        for number, _ in enumerate(_work(settings, folder, units, workers, ray_address), start=1):
            each = (time.monotonic() - started) / number
            progress(Progress(done + number, total, each * (len(units) - number)))
    return len(units)


def chosen(settings: EvalSettings, reader: ShardReader) -> list[int]:
    """Indices of the panoramas: all, or `limit` evenly spaced ones."""
    count, limit = len(reader), settings.limit
    if limit is None or limit >= count:
        return list(range(count))
    return [i * count // limit for i in range(limit)]


def open_units(settings: EvalSettings, folder: Path, reader: ShardReader) -> Iterator[Unit]:
    """What has no result yet, method by method."""
    wanted = set(chosen(settings, reader))
    names = [row["image_id"] for row in reader.annotations(["image_id"])]
    for method in settings.methods:
        for index in sorted(wanted):
            if not result_path(folder, method, names[index]).exists():
                yield Unit(method, index, names[index])


def _claim(folder: Path, method: str, rests_on: dict) -> None:
    """Refuse results of other settings; sweep what a killed process left."""
    path = folder / "results" / method / "method.json"
    if path.exists():
        known = read_json(path)
        differing = sorted(k for k in known.keys() | rests_on if known.get(k) != rests_on.get(k))
        if differing:
            raise UserError(
                f"{path.parent} holds results of other settings ({', '.join(differing)} differ); "
                "choose another EVAL, or delete that folder"
            )
        for leftover in path.parent.iterdir():
            if LEFTOVER.fullmatch(leftover.name):
                leftover.unlink()
    else:
        write_json(path, rests_on)


def _work(
    settings: EvalSettings,
    folder: Path,
    units: list[Unit],
    workers: int | None,
    ray_address: str | None,
) -> Iterator[Unit]:
    """Do the units; yields each when its file is there."""
    if not units:
        return
    import torch

    if not ray_address and (workers or max(1, torch.cuda.device_count())) == 1:
        worker = Worker(settings, folder)
        for unit in units:
            worker.evaluate(unit.method, unit.index)
            yield unit
        return
    from pipeline.farm.cluster import connected

    with connected(FarmSettings(ray_address=ray_address, gpus=torch.cuda.device_count())):
        yield from _in_ray(settings, folder, units, workers)


def _in_ray(
    settings: EvalSettings, folder: Path, units: list[Unit], workers: int | None
) -> Iterator[Unit]:
    """The same on a Ray that is connected: an actor for each GPU, or `workers` of them on CPUs."""
    import ray
    from ray.exceptions import RayActorError, RayTaskError

    total = ray.cluster_resources()
    gpus, cpus = int(total.get("GPU", 0)), int(total.get("CPU", 1))
    count = min(workers or gpus or 1, len(units))
    threads = None if gpus else max(1, cpus // count)
    actor: Any = ray.remote(Worker).options(
        max_restarts=0, num_gpus=min(gpus, 1), num_cpus=threads or 1
    )
    waiting, tried = deque(units), Counter[Unit]()
    running: dict = {}
    idle = [actor.remote(settings, folder.resolve(), threads) for _ in range(count)]
    while waiting or running:
        while waiting and idle:
            unit, handle = waiting.popleft(), idle.pop()
            running[handle.evaluate.remote(unit.method, unit.index)] = unit, handle
        (ended,), _ = ray.wait(list(running), num_returns=1)
        unit, handle = running.pop(ended)
        try:
            ray.get(ended)
        except RayActorError:  # killed, out of memory, its node is gone
            tried[unit] += 1
            if tried[unit] >= ATTEMPTS:
                raise UserError(
                    f"{unit.method} on {unit.image_id} ended its process {ATTEMPTS} times (out of "
                    "memory?); choose a smaller IMAGE_SIZE or fewer WORKERS, and run it again"
                ) from None
            waiting.appendleft(unit)
            idle.append(actor.remote(settings, folder.resolve(), threads))
            continue
        except RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise error.cause from None
            raise
        idle.append(handle)
        yield unit
