"""How many CPUs keep GPUs busy: the scheduler in virtual time, on two shapes of cluster.

    python -m tests.benchmarks.farm_gpus [--out OUT] [--gpu-speed CORES …]

Scenes are drawn from the reference measurements, or from the records of OUT, with PROFILE=farm and
PANOS=2. The speed of a GPU was not measured by this project, so there is a table for each of
several speeds. Enough CPUs are the fewest with which GPUs are idle for less than 5 % of the steady
state.

    mixed   GPU nodes of 8 GPUs and at most 16 CPUs, and nodes of 64 CPUs
    single  nodes of 1 GPU, with equal shares of the CPUs
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence

from pipeline.farm.plan_estimate import ASSUMED_GPU_SPEED, SceneCost, measured_costs
from pipeline.farm.scheduler import Node
from pipeline.run_settings import RunSettings, make_settings
from tests.farm.simulation import WAITING_BYTES, SceneTimes, Simulated, simulate, times_of

MAX_IDLE = 0.05
SPEEDS = (ASSUMED_GPU_SPEED, 500.0)
GPUS = (1, 8, 64)
SHAPES = ("mixed", "single")
CPUS_PER_GPU = 2  # of a GPU node of the mixed cluster
SETTINGS = make_settings(profile="farm", panos=2)
SLOW_DRIVER = 0.1  # seconds per start; a Ray on one machine takes a few milliseconds


def nodes_of(shape: str, gpus: int, cpus: int) -> list[Node]:
    """A cluster with these numbers of GPUs and CPUs, and at least a CPU per GPU."""
    if shape == "single":
        return [Node(f"g{i}", _share(cpus, gpus, i), 1) for i in range(gpus)]
    count, beside = -(-gpus // 8), min(cpus, CPUS_PER_GPU * gpus)
    nodes = [Node(f"g{i}", _share(beside, count, i), _share(gpus, count, i)) for i in range(count)]
    rest = range(0, cpus - beside, 64)
    return nodes + [Node(f"c{start}", min(64, cpus - beside - start)) for start in rest]


def _share(total: int, parts: int, index: int) -> int:
    """Part `index` of a total that is divided evenly."""
    return total // parts + (index < total % parts)


def reference_costs(settings: RunSettings = SETTINGS) -> list[SceneCost]:
    return measured_costs((), settings)[0]


def draw_scenes(
    costs: Sequence[SceneCost], count: int, gpu_speed: float, seed: int = 0
) -> list[SceneTimes]:
    """Scenes drawn from measured ones, with their spread."""
    drawn = random.Random(seed).choices(costs, k=count)
    return [times_of(cost, SETTINGS.panos, gpu_speed) for cost in drawn]


def run(
    shape: str, gpus: int, cpus: int, scenes: Sequence[SceneTimes], latency: float = 0.0
) -> Simulated:
    return simulate(nodes_of(shape, gpus, cpus), scenes, on_gpu=True, latency=latency)


def idle(result: Simulated) -> float:
    return 1 - result.gpu_busy


def enough(shape: str, gpus: int, scenes: Sequence[SceneTimes]) -> int:
    """The fewest CPUs with which GPUs are idle for less than `MAX_IDLE`."""
    low, high = gpus, 2 * gpus  # too few, perhaps enough
    while idle(run(shape, gpus, high, scenes)) >= MAX_IDLE:
        low, high = high, 2 * high
    while high - low > max(1, high // 50):
        middle = (low + high) // 2
        if idle(run(shape, gpus, middle, scenes)) < MAX_IDLE:
            high = middle
        else:
            low = middle
    return high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", help="a finished run whose records are used")
    parser.add_argument("--gpu-speed", type=float, nargs="*", default=SPEEDS)
    options = parser.parse_args()
    costs, notes = measured_costs([options.out] if options.out else [], SETTINGS)
    for note in notes:
        print(f"- {note}")
    for speed in options.gpu_speed:
        table(costs, speed)


def table(costs: Sequence[SceneCost], speed: float) -> None:
    scenes = draw_scenes(costs, 10_000, speed)
    generate, render = (
        sum(getattr(scene, stage) for scene in scenes) / len(scenes)
        for stage in ("generate", "gpu")
    )
    print(
        f"\nOne GPU renders like {speed:g} CPU cores: a scene takes {generate:.0f} s to generate "
    )
    print(f"and {render:.0f} s to render, {generate / render:.2f} generators for each GPU.\n")
    print("| GPUs | nodes | CPUs that are enough | per GPU | GPUs idle | CPUs busy | ", end="")
    print("backlog | with half as many CPUs more than GPUs: GPUs idle |")
    print("|---|---|---|---|---|---|---|---|")
    for gpus in GPUS:
        for shape in SHAPES:
            some = scenes[: 500 + 50 * gpus]  # a steady state longer than the start and the end
            cpus = enough(shape, gpus, some)
            good = run(shape, gpus, cpus, some)
            fewer = run(shape, gpus, gpus + (cpus - gpus) // 2, some)
            print(
                f"| {gpus} | {shape} | {cpus} | {cpus / gpus:.1f} | {idle(good):.1%} | "
                f"{good.cpu_busy:.0%} | {good.backlog_scenes} scenes | {idle(fewer):.1%} |"
            )
    slow = run(shape, gpus, cpus, some, latency=SLOW_DRIVER)
    print(
        f"\nThe last row with a driver that takes {SLOW_DRIVER} s for each start: GPUs idle "
        f"{idle(slow):.1%}. The backlog counts as {good.backlog_bytes / 2**30:.1f} GiB of "
        f"{WAITING_BYTES / 2**30:.1f} GiB"
    )


if __name__ == "__main__":
    main()
