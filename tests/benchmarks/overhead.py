"""What the farm adds to a plain loop that makes the same scenes on the same cores, in one run.

    python -m tests.benchmarks.overhead [--generator rooms] [--scenes 4] [--seed 0] [--panos 1]

The loop: as many workers as there are CPUs, each takes the next seed and starts Blender for
generate, Blender for render, Python for annotate, and nothing else: no ledger, no limits, no Ray.
The farm: a Ray cluster of one node for each CPU, and the driver. Compared are CPU-seconds of
everything, Ray's own processes included, and wall-clock time from the first attempt to the last
end; what Ray takes to start is stated apart.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from pipeline.farm.attempt import read_attempts
from pipeline.layout import RunFolder, SceneFolder, write_json
from pipeline.run_settings import RunSettings, make_settings, scene_id, to_json

ANNOTATE = """
import sys
from pathlib import Path
from pipeline.annotations.stage import annotate_scene
from pipeline.layout import SceneFolder, read_json
from pipeline.run_settings import from_json
annotate_scene(SceneFolder(Path(sys.argv[1])), from_json(read_json(Path(sys.argv[2]))["settings"]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--generator", default="rooms")
    parser.add_argument("--scenes", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--panos", type=int, default=1)
    parser.add_argument("--width", type=int, default=1024)
    options = parser.parse_args()
    settings = make_settings(
        generator=options.generator,
        profile="draft",
        width=options.width,
        panos=options.panos,
        seed=options.seed,
    )
    cpus = os.cpu_count() or 1
    folder = Path(tempfile.mkdtemp())
    try:
        loop_wall, loop_cpu = plain_loop(settings, options.scenes, cpus, folder / "loop")
        print(f"loop: {loop_wall:.0f} s, {loop_cpu:.0f} CPU-s", flush=True)
        wall, cpu, own, whole = farm(settings, options.scenes, cpus, folder / "farm")
        print(f"farm: {wall:.0f} s, {cpu:.0f} CPU-s, of which {own:.1f} outside attempts")
        print(f"farm against loop: wall {wall / loop_wall:.3f}, CPU {cpu / loop_cpu:.3f}")
        print(f"starting and ending Ray and the driver, once: {whole - wall:.0f} s")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def plain_loop(
    settings: RunSettings, scenes: int, workers: int, folder: Path
) -> tuple[float, float]:
    """Wall-clock and CPU seconds."""
    before, started = children_cpu(), time.monotonic()
    seeds = range(settings.seed, settings.seed + scenes)
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda seed: one_scene(settings, seed, folder), seeds))
    return time.monotonic() - started, children_cpu() - before


def one_scene(settings: RunSettings, seed: int, folder: Path) -> None:
    name = scene_id(settings, seed)
    scene = SceneFolder(folder / name)
    python, env = sys.executable, {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    with open(folder.parent / f"{name}.log", "wb") as log:
        for stage in ("generate", "render"):
            spec = scene.scratch / f"{stage}.json"
            write_json(
                spec,
                {
                    "stage": stage,
                    "scene_folder": str(scene.path),
                    "generator": name.rpartition("-")[0],
                    "seed": seed,
                    "settings": to_json(settings),
                    "threads": 1,
                },
            )
            argv = [python, "-m", "pipeline.blender", str(spec)]
            subprocess.run(argv, env=env, stdout=log, stderr=log, check=True)
        argv = [python, "-c", ANNOTATE, str(scene.path), str(spec)]
        subprocess.run(argv, env=env, stdout=log, stderr=log, check=True)


def farm(
    settings: RunSettings, scenes: int, cpus: int, folder: Path
) -> tuple[float, float, float, float]:
    """Seconds on the clock at work, CPU-seconds, those outside attempts, on the clock in all."""
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # else no cluster on the loopback
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])  # of the workers
    from ray.cluster_utils import Cluster

    node = {"object_store_memory": 80 * 2**20}
    started = time.monotonic()
    cluster = Cluster(
        initialize_head=True, head_node_args={**node, "num_cpus": 0, "include_dashboard": False}
    )
    for _ in range(cpus):
        cluster.add_node(num_cpus=1, **node)
    code = (
        "import sys; from pathlib import Path; from pipeline.farm.driver import render_run; "
        "from pipeline.farm.farm_settings import FarmSettings; "
        "from pipeline.layout import RunFolder; "
        "from pipeline.run_settings import from_json; import json; "
        "render_run(RunFolder(Path(sys.argv[1])), from_json(json.loads(sys.argv[2])), "
        "int(sys.argv[3]), FarmSettings(ray_address=sys.argv[4], render_cpus=1))"
    )
    before = children_cpu()
    argv = [str(folder), json.dumps(to_json(settings)), str(scenes), cluster.address]
    subprocess.run([sys.executable, "-c", code, *argv], check=True, stdout=subprocess.DEVNULL)
    driver = children_cpu() - before
    ray = sum(own_cpu(one) for one in psutil.Process().children(recursive=True))
    cluster.shutdown()
    whole = time.monotonic() - started
    run = RunFolder(folder)
    seeds = range(settings.seed, settings.seed + scenes)
    tried = [a for s in seeds for a in read_attempts(run.scene(scene_id(settings, s)))]
    blender = sum(one.cpu_seconds for one in tried if one.stage != "annotate")
    annotate = sum(one.cpu_seconds for one in tried if one.stage == "annotate")
    wall = max(one.ended or 0 for one in tried) - min(one.started for one in tried)
    return wall, blender + driver + ray, driver + ray - annotate, whole


def own_cpu(process: psutil.Process) -> float:
    try:
        return float(sum(process.cpu_times()[:2]))
    except psutil.Error:
        return 0.0


def children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
