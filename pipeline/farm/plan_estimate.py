"""Estimate a run before it starts: hours, CPU- and GPU-hours, storage and price (`make plan`).

Costs per scene come from the records of earlier runs, or from plan_reference.json. The hours
are a closed formula: the work for each resource divided by its capacity, of which the largest
quotient is the bottleneck, plus the start and the end of the run, when machines are partly idle.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline import storage
from pipeline.errors import UserError
from pipeline.farm.farm_settings import FarmSettings
from pipeline.farm.records import Cost, Done, Failed, names_of, read_all_done, read_failed
from pipeline.farm.scheduler import MAX_RENDER_CPUS
from pipeline.layout import STAGES, RunFolder
from pipeline.run_settings import PROFILES, RunSettings, read_run_settings
from pipeline.units import GIB

ASSUMED_GPU_SPEED = 50.0
"""CPU cores that render as fast as one GPU; an assumption, because no GPU was measured."""


@dataclass(frozen=True)
class SceneCost:
    """The measured cost of a scene or of a quarantined seed. Times are seconds, sizes bytes.

    Attributes:
        panoramas: Panoramas rendered.
        requested: PANOS of its run; a scene with fewer panoramas has no more viewpoints.
        good: Panoramas kept; a quarantined seed keeps none.
        generate: Time on one CPU; `annotate` too, of all panoramas.
        serial: CPU time of the render in one thread, however many there are; 0 beside a GPU.
        parallel: The rest of the render's CPU time, of all panoramas.
        gpu: GPU time of all panoramas; None if they were rendered on CPUs.
        slowdown: Wall-clock time per CPU time in its run; more than 1 on a busy machine.
        scene_bytes: Scene file; `raw_bytes`, raw renders; `kept_bytes`, stored panoramas.
        memory: Peak of its processes.
    """

    generator: str
    panoramas: int
    requested: int
    good: int
    generate: float
    serial: float
    parallel: float
    annotate: float
    gpu: float | None = None
    slowdown: float = 1.0
    scene_bytes: float = 0.0
    raw_bytes: float = 0.0
    kept_bytes: float = 0.0
    memory: float = 0.0


@cache
def reference() -> dict[str, Any]:
    """The measurements that ship with the project, each with its source."""
    return json.loads(Path(__file__).with_name("plan_reference.json").read_text("utf-8"))


def measured_costs(runs: Sequence[str], wanted: RunSettings) -> tuple[list[SceneCost], list[str]]:
    """The costs of earlier runs, or of the reference measurements, scaled to a run's settings.

    Returns:
        The costs, and notes on their sources and on what was assumed.

    Raises:
        UserError: A folder holds no run, or one with other settings than a CPU profile needs.
    """
    costs: list[SceneCost] = []
    notes: list[str] = []
    details = set()
    for folder in runs:
        made, _ = read_run_settings(storage.open_path(folder), "RUNS")
        if wanted.profile != "farm" and _resolution(made) != _resolution(wanted):
            raise UserError(
                f"RUNS={folder} has PROFILE={made.profile} WIDTH={made.width} "
                f"SAMPLES={made.samples}; estimate with these settings, or leave RUNS out"
            )
        found = read_costs(RunFolder(storage.open_path(folder)), made.panos)
        notes.append(f"from: {folder}: {len(found)} finished scenes and quarantined seeds")
        costs += _rescale(found, made, wanted, notes)
        details.add(made.detail)
    if not runs:
        data = reference()
        notes.append(f"from: reference measurements: {data['scenes_source']}; {data['machine']}")
        made = replace(wanted, **data["settings"])
        costs = _rescale([SceneCost(**row) for row in data["scenes"]], made, wanted, notes)
        details.add(made.detail)
        notes.append("assumed: the CPUs are as fast as the reference's, and have no other work")
    if "indoors" in dict(wanted.generators) and details != {wanted.detail}:
        notes.append(
            f"assumed: a scene of DETAIL={wanted.detail} takes as long as one of DETAIL="
            f"{', '.join(sorted(details))}, which was measured; give RUNS of DETAIL={wanted.detail}"
        )
    return costs, list(dict.fromkeys(notes))


def read_costs(
    run: RunFolder, requested: int, only: Collection[str] | None = None
) -> list[SceneCost]:
    """The costs of a run's finished scenes and quarantined seeds, retries included.

    Args:
        run: The run.
        requested: Its PANOS.
        only: Names of the scenes to read; None reads all.
    """
    done, failed = (
        sorted(name for name in names_of(folder) if only is None or name in only)
        for folder in (run.done_folder, run.failed_folder)
    )
    records: list[Done | Failed] = [*read_all_done(run, done)]
    records += [read_failed(run, name) for name in failed]
    generated = [record.costs.get("generate", Cost()) for record in records]
    cpu = sum(cost.cpu_seconds for cost in generated)
    slowdown = max(1.0, sum(cost.seconds for cost in generated) / cpu) if cpu else 1.0
    return [_scene_cost(record, requested, slowdown) for record in records]


def _scene_cost(record: Done | Failed, requested: int, slowdown: float) -> SceneCost:
    generate, render, annotate = (record.costs.get(stage, Cost()) for stage in STAGES)
    serial = min(reference()["render_serial"]["value"], render.cpu_seconds / 2)
    serial = 0.0 if render.gpu_seconds else serial
    good, unfit, sizes = 0, 0, dict[str, int]()
    if isinstance(record, Done):
        good, unfit, sizes = len(record.panoramas), len(record.unfit), record.bytes
    return SceneCost(
        generator=record.generator,
        panoramas=good + unfit or requested,
        requested=requested,
        good=good,
        generate=generate.seconds,
        serial=serial,
        parallel=render.cpu_seconds - serial,
        annotate=annotate.seconds,
        gpu=render.gpu_seconds or None,
        slowdown=slowdown,
        scene_bytes=sizes.get("scene", 0),
        raw_bytes=sizes.get("rendered", 0),
        kept_bytes=sizes.get("panoramas", 0),
        memory=max((cost.peak_rss for cost in record.costs.values()), default=0),
    )


def _resolution(settings: RunSettings) -> tuple[str, int, int]:
    return settings.profile, settings.width, settings.samples


def _rescale(
    costs: Sequence[SceneCost], made: RunSettings, wanted: RunSettings, notes: list[str]
) -> list[SceneCost]:
    """Scale costs to another profile, width and number of samples; note what is assumed."""
    costs = [cost for cost in costs if cost.generator in dict(wanted.generators)]
    if _resolution(made) == _resolution(wanted):
        return costs
    data, pixels = reference(), (wanted.width / made.width) ** 2
    work = {cost.generator: pixels * wanted.samples / made.samples for cost in costs}
    for name in sorted(work) if made.profile == "draft" != wanted.profile else ():
        # to 4K with PROFILE=cpu by measurement, and from there by pixels and samples
        each = np.mean([c.parallel / c.panoramas for c in costs if c.generator == name])
        measured = data["render_4k"].get(name, {"factor": 4, "source": "by pixels alone"})
        factor = measured.get("factor") or measured["value"] / float(each)
        cpu, draft = PROFILES["cpu"], PROFILES["draft"]
        work[name] *= factor / ((cpu.width / draft.width) ** 2 * cpu.samples / draft.samples)
        notes.append(f"assumed: {name} renders at 4K: {measured['source']}")
    if wanted.profile == "farm" != made.profile:
        work = {name: value * data["full_light"]["factor"] for name, value in work.items()}
        notes.append(f"assumed: full light paths: {data['full_light']['source']}")
    notes.append(
        f"assumed: renders scale with pixels and samples from PROFILE={made.profile} "
        f"WIDTH={made.width} SAMPLES={made.samples}"
    )
    sizes = data["panorama_bytes"]  # by pixels, from the nearer of two measured widths
    old, new = (
        sizes["4k" if width > 2048 else "draft"] * (width / (4096 if width > 2048 else 1024)) ** 2
        for width in (made.width, wanted.width)
    )
    least = data["memory_4k"]["value"] if wanted.width >= 4096 > made.width else 0
    return [
        replace(
            cost,
            parallel=cost.parallel * work[cost.generator],
            gpu=cost.gpu and cost.gpu * work[cost.generator],
            annotate=cost.annotate * pixels,
            raw_bytes=cost.raw_bytes * new / old,
            kept_bytes=cost.kept_bytes * new / old,
            memory=max(least, cost.memory),
        )
        for cost in costs
    ]


@dataclass(frozen=True)
class Cluster:
    """The machines of a run, and their prices in any currency.

    Attributes:
        cpus, gpus: Of all nodes together.
        waiting_bytes: Space for scene files, as `FarmSettings.waiting_bytes`.
        cpu_hour, gpu_hour, gib_month: Prices. All machines cost for all hours.
    """

    cpus: int
    gpus: int = 0
    waiting_bytes: int = FarmSettings().waiting_bytes
    cpu_hour: float = 0.0
    gpu_hour: float = 0.0
    gib_month: float = 0.0


class Interval(NamedTuple):
    """An expected value with its 90 % interval."""

    value: float
    low: float
    high: float

    def scaled(self, factor: float, offset: float = 0.0) -> Interval:
        return Interval(*(offset + factor * x for x in self))


@dataclass(frozen=True)
class Estimate:
    """The expected cost of a run, retries and quarantined seeds included.

    Attributes:
        hours: Wall-clock time; `bottleneck`, the resource that limits it.
        cpu_hours: CPU time of the processes; `gpu_hours`, time in which GPUs are reserved.
        seeds: Number of seeds, quarantined ones included.
        shard_bytes: Size of the shards; `out_bytes`, of everything that stays in OUT.
        scratch_bytes: Upper bound of scene files and raw renders at any time.
        memory_bytes: Memory that one attempt needs.
        price: Of all machines for all hours, and of OUT for a month.
        notes: Sources, assumptions and warnings, one per line.
    """

    hours: Interval
    bottleneck: str
    cpu_hours: Interval
    gpu_hours: Interval
    panoramas: Interval
    seeds: float
    shard_bytes: Interval
    out_bytes: float
    scratch_bytes: float
    memory_bytes: float
    price: Interval
    notes: tuple[str, ...]


class _Load(NamedTuple):
    """What a scene takes on a cluster, or all scenes together; times are seconds."""

    good: Any
    panoramas: Any
    cpu_seconds: Any  # CPU time
    cpu: Any  # time in which CPUs are reserved
    gpu: Any  # time in which GPUs are reserved
    kept_bytes: Any
    scratch_bytes: Any
    time: Any  # from its start to its end


def estimate(
    scenes: int,
    settings: RunSettings,
    cluster: Cluster,
    *,
    runs: Sequence[str] = (),
    gpu_speed: float | None = None,
    costs: Sequence[SceneCost] | None = None,
) -> Estimate:
    """Estimate a run. Equal arguments give equal estimates.

    Args:
        scenes: Finished scenes wanted.
        settings: The settings of the run.
        cluster: Its machines and their prices.
        runs: OUT folders of earlier runs; none uses the reference measurements.
        gpu_speed: CPU cores that render as fast as one GPU, for costs measured without GPU.
        costs: Measured costs, instead of those of `runs` or the reference.

    Raises:
        UserError: Profile and machines do not fit, or a generator was not measured.
    """
    on_gpu = PROFILES[settings.profile].gpu
    notes: list[str] = []
    if on_gpu != bool(cluster.gpus) or cluster.gpus > cluster.cpus:
        raise UserError(
            f"PROFILE={settings.profile} does not fit CPUS={cluster.cpus} GPUS={cluster.gpus}; use "
            "GPUS with PROFILE=farm only, with at least one CPU per GPU"
        )
    if costs is None:
        costs, notes = measured_costs(runs, settings)
    if on_gpu and not all(cost.gpu for cost in costs if cost.good):
        source = "set by GPU_SPEED" if gpu_speed else "ASSUMED, not measured; set GPU_SPEED"
        gpu_speed = gpu_speed or ASSUMED_GPU_SPEED
        notes.append(f"assumed: one GPU renders like {gpu_speed:g} CPU cores, {source}")
    threads = max(1, min(MAX_RENDER_CPUS, cluster.cpus // scenes))  # as the scheduler
    rows: list[_Load] = []
    shares: list[float] = []
    for name, share in settings.generators:
        pool = [cost for cost in costs if cost.generator == name]
        good = sum(cost.good > 0 for cost in pool)
        if not good:
            raise UserError(
                f"GENERATOR={name} has no measured scene; render some, and give their OUT as RUNS"
            )
        if good < 3:
            notes.append(f"warning: the intervals are too narrow: {good} measured scenes of {name}")
        rows += [_load(cost, settings, cluster, threads, gpu_speed) for cost in pool]
        shares += [share / len(pool)] * len(pool)
    loads, weights = np.array(rows), np.array(shares)
    seeds = scenes / float(weights @ loads[:, 0])
    mean = seeds * (weights @ loads)
    residuals = loads - np.outer(loads[:, 0], mean / scenes)
    # the spread of the scenes to come, and the uncertainty of the measured mean; 90 % of a normal
    # distribution are within 1.645 standard deviations
    margin = 1.645 * np.sqrt((seeds * weights + (seeds * weights) ** 2) @ residuals**2)
    total = _Load(*(Interval(*row) for row in np.stack([mean, mean - margin, mean + margin], 1)))
    # the time of the longest of the scenes that run at once: median, and 90 % interval
    order = np.argsort(loads[:, -1])
    levels = np.array([0.5, 0.05, 0.95]) ** (1 / min(scenes, cluster.cpus))
    places = np.searchsorted(np.cumsum(weights[order]), levels).clip(max=len(order) - 1)
    longest = Interval(*loads[order, -1][places])
    hours, bottleneck = _hours(total, longest, scenes, cluster)
    out_bytes = 2 * total.kept_bytes.value + seeds * reference()["record_bytes"]["value"]
    hourly = cluster.cpus * cluster.cpu_hour + cluster.gpus * cluster.gpu_hour
    at_once = min(scenes, cluster.cpus + (cluster.gpus or cluster.cpus) + 1)  # as the scheduler
    return Estimate(
        hours=hours,
        bottleneck=bottleneck,
        cpu_hours=total.cpu_seconds.scaled(1 / 3600),
        gpu_hours=total.gpu.scaled(1 / 3600),
        panoramas=total.panoramas,
        seeds=seeds,
        shard_bytes=total.kept_bytes,
        out_bytes=out_bytes,
        scratch_bytes=min(at_once * total.scratch_bytes.value / scenes, cluster.waiting_bytes),
        memory_bytes=max(cost.memory for cost in costs),
        price=hours.scaled(hourly, out_bytes / GIB * cluster.gib_month),
        notes=tuple(notes),
    )


def _load(
    cost: SceneCost, settings: RunSettings, cluster: Cluster, threads: int, gpu_speed: float | None
) -> _Load:
    count = settings.panos
    if cost.panoramas < cost.requested:
        count = min(count, cost.panoramas)
    share, good = count / cost.panoramas, cost.good / cost.panoramas
    parallel = cost.parallel * share
    cpu = cost.generate + cost.annotate * share
    cpu_seconds = cpu / cost.slowdown + cost.serial + parallel
    gpu = 0.0
    if cluster.gpus:
        render = gpu = cost.gpu * share if cost.gpu else cost.serial + parallel / (gpu_speed or 1.0)
        cpu_seconds -= 0.0 if cost.gpu else parallel
    else:
        render = cost.slowdown * (cost.serial + parallel / threads)
    return _Load(
        good=float(cost.good > 0),
        panoramas=count * good,
        cpu_seconds=cpu_seconds,
        cpu=cpu if cluster.gpus else cpu + threads * render,
        gpu=gpu,
        kept_bytes=cost.kept_bytes * share * good,
        scratch_bytes=cost.scene_bytes + cost.raw_bytes * share,
        time=cpu + render,
    )


def _hours(total: _Load, longest: Interval, scenes: int, cluster: Cluster) -> tuple[Interval, str]:
    """Wall-clock hours, and the resource that limits them."""
    cpus = cluster.cpus - min(cluster.gpus, cluster.cpus // 2)  # without one per GPU
    work, bottleneck = total.cpu.scaled(1 / cpus), "CPUs"
    # at the end, machines wait for the last scenes
    idle = longest.value / 2 * (1 - 1 / cpus) * (1 - 1 / -(-scenes // cpus))
    if cluster.gpus:
        idle = total.gpu.value / scenes
        gpu_work = total.gpu.scaled(1 / cluster.gpus)
        if gpu_work.value > work.value:  # GPUs also wait for the first scenes
            work, bottleneck = gpu_work, "GPUs"
            idle = (total.time.value - total.gpu.value / 2) / scenes
    bounds = zip(work, longest, strict=True)
    return Interval(*(max(time + idle, scene) / 3600 for time, scene in bounds)), bottleneck
