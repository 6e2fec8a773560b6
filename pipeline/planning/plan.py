"""What a run would take: hours, CPU- and GPU-hours, storage, price, from what scenes took before.

Scenes are drawn from the measured ones, the farm is simulated with them (`simulate`), and the draw
is repeated for an interval. `plan_text.py` says it in words.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any

from pipeline.errors import UserError
from pipeline.farm.child import GIB
from pipeline.planning.ledgers import from_ledgers
from pipeline.planning.machines import Cluster, Rates
from pipeline.planning.measured import ASSUMED_GPU_SPEED, Measured, Sample, from_reference
from pipeline.planning.simulate import Simulated, simulate
from pipeline.settings import PROFILES, RunSettings, generator_of_seed

PAPER_PANORAMAS, PAPER_GPU_HOURS = 183_440, 40_000

FEW_SCENES = 3
"""Finished scenes of a generator below which a plan warns."""

SIMULATED, MOST_SIMULATED = 2_000, 20_000
"""Scenes that are simulated of a larger run; more where the cluster takes so many to be filled."""

DRAWS = 100
"""Repetitions for an interval, which holds 90 % of them."""

ALL_DRAWS_SIMULATED = 100
"""Scenes up to which each of them is simulated; beyond, hours spread as the work does."""


@dataclass(frozen=True)
class Spread:
    """A number, and the 90 % interval of the draws."""

    value: float
    low: float
    high: float

    def map(self, function: Callable[[float], float]) -> Spread:
        return Spread(function(self.value), function(self.low), function(self.high))


@dataclass(frozen=True)
class Plan:
    """What a run is expected to take.

    Attributes:
        panoramas: Good ones; `failed`, seeds that are given up on the way.
        hours: From the start to the end; `cpu_hours`, CPU time of the processes, and `gpu_hours`,
            time in which a GPU is held, retries and given-up seeds included in all of them.
        shard_bytes, panorama_bytes, ledger_bytes: What OUT keeps: shards, annotated panoramas,
            records and logs.
        waiting_bytes, waiting_scenes: The most that scenes take, or are expected to, which are
            generated, wait for a render or are rendered.
        scratch_bytes: The most that scene files and raw renders take at once.
        cpu_busy, gpu_busy: Shares in the steady state; None where the run is too short for one.
        simulated: Scenes that were simulated; of a larger run the rest is counted on.
        price: In the currency of the rates; None without rates.
        sources: What it rests on; `assumptions`, what was not measured; `warnings`, what makes it
            uncertain.
    """

    scenes: int
    panos: int
    generator: str
    profile: str
    width: int
    cluster: Cluster
    panoramas: Spread
    failed: float
    hours: Spread
    cpu_hours: Spread
    gpu_hours: Spread
    shard_bytes: Spread
    panorama_bytes: Spread
    ledger_bytes: float
    waiting_bytes: int
    waiting_scenes: int
    scratch_bytes: int
    cpu_busy: float | None
    gpu_busy: float | None
    simulated: int
    price: Spread | None
    sources: tuple[str, ...]
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self)

    @property
    def cpu_seconds_each(self) -> float:
        """CPU-seconds of each panorama; `gpu_seconds_each`, GPU-seconds."""
        return self.cpu_hours.value * 3600 / self.panoramas.value if self.panoramas.value else 0.0

    @property
    def gpu_seconds_each(self) -> float:
        return self.gpu_hours.value * 3600 / self.panoramas.value if self.panoramas.value else 0.0


@dataclass(frozen=True)
class _Model:
    """How samples become a run on a cluster."""

    settings: RunSettings
    cluster: Cluster
    pools: Mapping[str, Sequence[Sample]]
    gpu_speed: float | None

    @property
    def on_gpu(self) -> bool:
        return PROFILES[self.settings.profile].gpu

    def draw(self, rng: random.Random, size: int, *, resampled: bool = False) -> list[Sample]:
        """A scene for each seed, of its generator, until so many are good ones."""
        pools = {
            name: _resample(rng, pool) if resampled else pool for name, pool in self.pools.items()
        }
        drawn: list[Sample] = []
        while size:
            generator = generator_of_seed(self.settings, self.settings.seed + len(drawn))
            drawn.append(rng.choice(pools[generator]))
            size -= drawn[-1].good > 0
        return drawn

    def run(self, drawn: Sequence[Sample]) -> Simulated:
        times = [one.times(self.settings.panos, self.gpu_speed) for one in drawn]
        return simulate(self.cluster.nodes(), times, on_gpu=self.on_gpu, disk=self.cluster.disk)

    def sums(self, drawn: Sequence[Sample]) -> dict[str, float]:
        """Good panoramas, seeds given up, CPU and GPU seconds, bytes kept, least seconds."""
        panos = self.settings.panos
        times = [one.times(panos, self.gpu_speed) for one in drawn]
        good = [one.views_with(panos) * one.good / one.views for one in drawn]
        gpu = sum(one.render_gpu for one in times) if self.on_gpu else 0.0
        renders = gpu or sum(one.render_serial + one.render_parallel for one in times)
        held = renders + sum(one.generate + one.annotate for one in times)
        gpus = self.cluster.gpus
        return {
            "panoramas": sum(good),
            "failed": sum(not one.good for one in drawn),
            "cpu_hours": sum(one.cpu_seconds(panos, self.on_gpu) for one in drawn) / 3600,
            "gpu_hours": gpu / 3600,
            "kept": sum(one.kept_bytes * count for one, count in zip(drawn, good, strict=True)),
            "least": max(held / self.cluster.cpus, gpu / gpus if gpus else 0.0),
        }


def plan(
    scenes: int,
    settings: RunSettings,
    cluster: Cluster,
    *,
    ledgers: Sequence[str] = (),
    gpu_speed: float | None = None,
    rates: Rates | None = None,
    measured: Measured | None = None,
    seed: int = 0,
) -> Plan:
    """What a run would take. Equal arguments give equal plans.

    Args:
        scenes: Good scenes wanted.
        ledgers: OUT folders of earlier runs; none takes the reference measurements.
        gpu_speed: CPU cores that one GPU is worth at rendering, where no GPU was measured.
        measured: Samples instead of those of `ledgers` or the reference.

    Raises:
        UserError: A setting that no plan can be made for.
    """
    _check(scenes, settings, cluster, gpu_speed)
    if measured is None:
        measured = from_ledgers(ledgers, settings) if ledgers else from_reference(settings)
    assumptions = list(measured.assumptions)
    if PROFILES[settings.profile].gpu and any(
        one.gpu is None and one.good for one in measured.samples
    ):
        told = "as GPU_SPEED says" if gpu_speed else "ASSUMED, not measured; GPU_SPEED= says better"
        gpu_speed = gpu_speed or ASSUMED_GPU_SPEED
        assumptions.insert(0, f"one GPU renders like {gpu_speed:g} CPU cores: {told}")
    pools = {
        name: [one for one in measured.samples if one.generator == name]
        for name, _ in settings.generators
    }
    for name, pool in pools.items():
        if not any(one.good for one in pool):
            raise UserError(f"there is no finished scene of GENERATOR={name} to plan by")
    model = _Model(settings, cluster, pools, gpu_speed)
    size = min(scenes, MOST_SIMULATED, max(SIMULATED, 4 * (cluster.cpus + cluster.gpus)))
    drawn = model.draw(random.Random(seed), size)  # noqa: S311 - not for secrets
    whole = model.run(drawn)
    seconds = whole.seconds
    if scenes > size:  # the rest takes the pace of the second half
        half = model.run(drawn[: len(drawn) // 2])
        share = 1 - (len(drawn) // 2) / len(drawn)
        seconds += (seconds - half.seconds) / share * (scenes / size - 1)
    total = {name: value * scenes / size for name, value in model.sums(drawn).items()}
    total["hours"] = seconds / 3600
    repeats = [_repeat(model, f"{seed} {number}", scenes, total) for number in range(DRAWS)]
    if scenes <= ALL_DRAWS_SIMULATED:  # few scenes: one draw of them may be far from the mean
        total = {name: mean(one[name] for one in repeats) for name in total}
    spread = {name: _spread(total[name], [one[name] for one in repeats]) for name in total}
    records = measured.ledger_bytes * (scenes + total["failed"])
    kept = 2 * spread["kept"].value + records  # panoramas in the scenes' folders, and in shards
    price = None
    if rates:
        price = spread["hours"].map(lambda hours: rates.price(hours, cluster, kept))
    return Plan(
        scenes=scenes,
        panos=settings.panos,
        generator=",".join(f"{name}:{share:g}" for name, share in settings.generators),
        profile=settings.profile,
        width=settings.width,
        cluster=cluster,
        panoramas=spread["panoramas"],
        failed=total["failed"],
        hours=spread["hours"],
        cpu_hours=spread["cpu_hours"],
        gpu_hours=spread["gpu_hours"],
        shard_bytes=spread["kept"],
        panorama_bytes=spread["kept"],
        ledger_bytes=records,
        waiting_bytes=whole.peak_waiting_bytes,
        waiting_scenes=whole.peak_waiting_scenes,
        scratch_bytes=whole.peak_scratch,
        cpu_busy=whole.cpu_busy,
        gpu_busy=whole.gpu_busy,
        simulated=size,
        price=price,
        sources=measured.sources,
        assumptions=tuple(assumptions),
        warnings=(*_warnings(pools), *_memory_warnings(measured.samples, cluster)),
    )


def _repeat(model: _Model, seed: str, scenes: int, total: Mapping[str, float]) -> dict[str, float]:
    """The totals of another draw: other scenes might have been measured, and others might come."""
    rng = random.Random(seed)  # noqa: S311 - not for secrets
    simulated = scenes <= ALL_DRAWS_SIMULATED
    size = min(scenes, SIMULATED)
    drawn = model.draw(rng, size, resampled=True)
    found = {name: value * scenes / size for name, value in model.sums(drawn).items()}
    if simulated:
        found["hours"] = model.run(drawn).seconds / 3600
    else:
        found["hours"] = total["hours"] * found["least"] / total["least"]
    return found


def _resample(rng: random.Random, pool: Sequence[Sample]) -> Sequence[Sample]:
    """As many samples, some of them several times; all of them if none would be good."""
    again = rng.choices(pool, k=len(pool))
    return again if any(one.good for one in again) else pool


def _spread(value: float, repeats: Sequence[float]) -> Spread:
    ordered = sorted(repeats)
    margin = round(0.05 * len(ordered))
    return Spread(value, min(value, ordered[margin]), max(value, ordered[-1 - margin]))


def _memory_warnings(samples: Iterable[Sample], cluster: Cluster) -> list[str]:
    """Where a node has less memory than an attempt needs."""
    most = max((size for one in samples for size in one.memory.values()), default=0)
    if cluster.node_memory is None or most <= cluster.node_memory:
        return []
    has = cluster.node_memory / GIB
    return [
        f"an attempt used up to {most / GIB:.1f} GiB, and a node has {has:.1f} (NODE_MEMORY_GIB): "
        "it would run out of memory"
    ]


def _warnings(pools: Mapping[str, Sequence[Sample]]) -> list[str]:
    counts = {name: sum(one.good > 0 for one in pool) for name, pool in pools.items()}
    return [
        f"only {count} finished scenes of {name} to plan by; the intervals are too narrow"
        for name, count in counts.items()
        if count < FEW_SCENES
    ]


def _check(scenes: int, settings: RunSettings, cluster: Cluster, gpu_speed: float | None) -> None:
    on_gpu = PROFILES[settings.profile].gpu
    if scenes < 1:
        raise UserError(f"SCENES must be at least 1, not {scenes}")
    if gpu_speed is not None and not 0 < gpu_speed < float("inf"):
        raise UserError(f"GPU_SPEED must be a positive number of CPU cores, not {gpu_speed}")
    if on_gpu and not cluster.gpus:
        raise UserError(
            f"PROFILE={settings.profile} renders on GPUs; say how many with GPUS=, or plan with "
            "PROFILE=cpu"
        )
    if cluster.gpus and not on_gpu:
        raise UserError(
            f"PROFILE={settings.profile} renders on CPUs and would leave GPUS={cluster.gpus} idle; "
            "plan with PROFILE=farm, or with GPUS=0"
        )
