"""The command that estimates a run before it starts: plan."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace

from pipeline.config import Plan
from pipeline.farm.plan_estimate import Cluster, Estimate, Interval, estimate
from pipeline.mix import format_mix
from pipeline.run_settings import RunSettings, read_run_settings
from pipeline.storage import open_path
from pipeline.units import GIB, format_bytes

PAPER_PANORAMAS, PAPER_GPU_HOURS = 183_440, 40_000


def plan(options: Plan) -> None:
    """Estimate hours, storage and price of a run."""
    runs = list(dict.fromkeys(options.runs))
    if runs and "profile" not in options.run.values:
        settings = replace(read_run_settings(open_path(runs[0]), "RUNS")[0], **options.run.values)
    else:
        profile = options.run.values.get("profile", "farm" if options.gpus else "cpu")
        settings = options.run.build(profile=profile)
    prices = (options.price_cpu_hour, options.price_gpu_hour, options.price_gib_month)
    cluster = Cluster(
        options.cpus, options.gpus, round(options.waiting_gib * GIB), *(p or 0.0 for p in prices)
    )
    result = estimate(options.scenes, settings, cluster, runs=runs, gpu_speed=options.gpu_speed)
    if options.json:
        print(json.dumps({**asdict(result), "settings": asdict(settings)}, indent=1))
    else:
        print("\n".join(_lines(result, options.scenes, settings, cluster)))


def _lines(found: Estimate, scenes: int, settings: RunSettings, cluster: Cluster) -> Iterator[str]:
    """The estimate as text, with the paper's dataset for comparison."""
    gpus = f" and {cluster.gpus:,} GPUs" if cluster.gpus else ""
    yield (
        f"{scenes:,} scenes of {format_mix(settings.generators)}, up to {settings.panos} "
        f"panoramas each, PROFILE={settings.profile} WIDTH={settings.width}, "
        f"on {cluster.cpus:,} CPUs{gpus}"
    )
    yield "(90 % intervals in brackets; they do not cover assumptions)"
    yield ""
    yield f"panoramas    {_interval(found.panoramas, 0)}"
    yield f"hours        {_interval(found.hours)}, limited by the {found.bottleneck}"
    yield f"CPU-hours    {_interval(found.cpu_hours)}"
    if cluster.gpus:
        yield f"GPU-hours    {_interval(found.gpu_hours)}"
    if found.seeds - scenes >= 0.5:
        yield f"quarantined  {found.seeds - scenes:,.0f} seeds, included above"
    yield f"shards       {format_bytes(found.shard_bytes.value)}"
    yield f"OUT          {format_bytes(found.out_bytes)} with shards, panoramas, records and logs"
    yield f"scratch      at most {format_bytes(found.scratch_bytes)} of scene files and raw renders"
    yield f"memory       up to {format_bytes(found.memory_bytes)} per attempt, one attempt per CPU"
    if found.price.value:
        yield f"price        {_interval(found.price)} for all machines, and OUT for a month"
    yield ""
    yield from found.notes
    yield "not included: installing, packing, preview, verifying, publishing"
    yield ""
    scale = PAPER_PANORAMAS / found.panoramas.value
    gpu = f" and {found.gpu_hours.value * scale:,.0f} GPU-hours" if cluster.gpus else ""
    yield (
        f"The paper's {PAPER_PANORAMAS:,} panoramas, 4096 wide, took {PAPER_GPU_HOURS:,} GPU-hours "
        f"({PAPER_GPU_HOURS * 3600 / PAPER_PANORAMAS:,.0f} GPU-seconds each)."
    )
    yield (
        f"As many of this plan, {settings.width} wide, would take "
        f"{found.cpu_hours.value * scale:,.0f} CPU-hours{gpu}."
    )


def _interval(found: Interval, digits: int = 1) -> str:
    """
    >>> _interval(Interval(1234.5, 1000, 1500)), _interval(Interval(20, 20, 20), 0)
    ('1,234.5 [1,000.0, 1,500.0]', '20')
    """
    digits += digits > 0 and found.high < 10
    value, low, high = (f"{number:,.{digits}f}" for number in found)
    return value if low == high else f"{value} [{low}, {high}]"
