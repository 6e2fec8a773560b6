"""How many CPUs keep GPUs busy: the farm simulated with measured scenes, on two shapes of cluster.

python -m tests.benchmarks.farm_gpus [--out OUT] [--gpu-speed CORES …]

Scenes are drawn from the reference measurements, or from the ledger of OUT, with PROFILE=farm and
PANOS=2. How fast a GPU renders was not measured by this project: the table is made for several
speeds. Enough are the fewest CPUs with which GPUs are idle for less than 5 % of the steady state.

    mixed   GPU nodes of 8 GPUs and at most 16 CPUs, and nodes of 64 CPUs
    single  nodes of 1 GPU, with equal shares of the CPUs
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence

from pipeline.farm.scheduler import Node
from pipeline.planning.ledgers import from_ledgers
from pipeline.planning.measured import ASSUMED_GPU_SPEED, Measured, from_reference
from pipeline.planning.simulate import WAITING_BYTES, SceneTimes, Simulated, simulate
from pipeline.settings import make_settings

MOST_IDLE = 0.05
SPEEDS = (ASSUMED_GPU_SPEED, 500.0)
GPUS = (1, 8, 64)
SHAPES = ("mixed", "single")
CPUS_BESIDE = 2  # of a GPU node of the mixed cluster, for each GPU
SETTINGS = make_settings(profile="farm", panos=2)


def nodes_of(shape: str, gpus: int, cpus: int) -> list[Node]:
    """A cluster with so many GPUs and CPUs in all; at least a CPU for each GPU."""
    if shape == "single":
        return [Node(f"g{i}", cpus // gpus + (i < cpus % gpus), 1) for i in range(gpus)]
    count = -(-gpus // 8)
    beside = min(cpus, CPUS_BESIDE * gpus)
    nodes = [
        Node(
            f"g{i}",
            beside // count + (i < beside % count),
            gpus // count + (i < gpus % count),
        )
        for i in range(count)
    ]
    rest = cpus - beside
    while rest > 0:
        nodes.append(Node(f"c{len(nodes)}", min(64, rest)))
        rest -= 64
    return nodes


def scenes_of(measured: Measured, count: int, gpu_speed: float, seed: int = 0) -> list[SceneTimes]:
    """So many scenes, drawn from the measured ones with their spread."""
    rng = random.Random(seed)
    drawn = rng.choices(measured.samples, k=count)
    return [one.times(SETTINGS.panos, gpu_speed) for one in drawn]


def run(
    shape: str,
    gpus: int,
    cpus: int,
    scenes: Sequence[SceneTimes],
    *,
    disk: int = WAITING_BYTES,
    latency: float = 0.0,
) -> Simulated:
    nodes = nodes_of(shape, gpus, cpus)
    return simulate(nodes, scenes, on_gpu=True, disk=disk, latency=latency)


def idle(result: Simulated) -> float:
    return 1.0 if result.gpu_busy is None else 1 - result.gpu_busy


def enough(shape: str, gpus: int, scenes: Sequence[SceneTimes]) -> int:
    """The fewest CPUs with which GPUs are idle for less than `MOST_IDLE`."""
    low, high = gpus, 2 * gpus  # too few, perhaps enough
    while idle(run(shape, gpus, high, scenes)) >= MOST_IDLE:
        low, high = high, 2 * high
    while high - low > max(1, high // 50):
        middle = (low + high) // 2
        if idle(run(shape, gpus, middle, scenes)) < MOST_IDLE:
            high = middle
        else:
            low = middle
    return high


def count_for(gpus: int) -> int:
    """Scenes that make a steady state much longer than filling and draining."""
    return 500 + 50 * gpus


SLOW_DRIVER = 0.1  # seconds for each start; a Ray on one machine takes a few milliseconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", help="a finished run whose ledger is taken")
    parser.add_argument("--gpu-speed", type=float, nargs="*", default=SPEEDS)
    options = parser.parse_args()
    measured = from_ledgers([options.out], SETTINGS) if options.out else from_reference(SETTINGS)
    for line in (*measured.sources, *measured.assumptions):
        print(f"- {line}")
    for speed in options.gpu_speed:
        table(measured, speed)


def table(measured: Measured, speed: float) -> None:
    scenes = scenes_of(measured, 10_000, speed)
    generate = sum(one.generate for one in scenes) / len(scenes)
    render = sum(one.render_gpu for one in scenes) / len(scenes)
    print(
        f"\nOne GPU renders like {speed:g} CPU cores: a scene takes {generate:.0f} s to generate "
    )
    print(f"and {render:.0f} s to render, {generate / render:.2f} generators for each GPU.\n")
    print("| GPUs | nodes | CPUs that are enough | for each GPU | GPUs idle | CPUs busy |", end="")
    print(" most scene files | with half as many CPUs more than GPUs: GPUs idle |")
    print("|---|---|---|---|---|---|---|---|")
    for gpus in GPUS:
        for shape in SHAPES:
            some = scenes[: count_for(gpus)]
            cpus = enough(shape, gpus, some)
            good = run(shape, gpus, cpus, some)
            fewer = run(shape, gpus, gpus + (cpus - gpus) // 2, some)
            print(
                f"| {gpus} | {shape} | {cpus} | {cpus / gpus:.1f} | {idle(good):.1%} | "
                f"{good.cpu_busy or 0:.0%} | {good.peak_scratch / 1e9:.1f} GB, "
                f"{good.peak_waiting_scenes} scenes | {idle(fewer):.1%} |"
            )
    slow = run(shape, gpus, cpus, some, latency=SLOW_DRIVER)
    print(
        f"\nThe last row again with a driver that takes {SLOW_DRIVER} s for each start: GPUs idle "
        f"{idle(slow):.1%}. Scenes ahead were counted as {good.peak_waiting_bytes / 1e9:.1f} GB "
        f"of {WAITING_BYTES / 1e9:.1f} GB that they may take"
    )


if __name__ == "__main__":
    main()
