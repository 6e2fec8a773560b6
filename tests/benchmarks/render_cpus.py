"""Many small renders beside each other, or one large one? `placement.render_threads` rests on it.

    python -m tests.benchmarks.render_cpus [--generator rooms] [--seed 0] [--width 1024] [--panos 2]

Generates a scene once. Then the same panoramas are rendered on all CPUs by as many processes with
one thread each, by half as many with two, … by one with all: panoramas an hour, and the memory that
the processes have at most together. All in one run, for the machine is noisy; read the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from pipeline.layout import SceneFolder, write_json
from pipeline.run_settings import make_settings, scene_id, to_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--generator", default="rooms")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--profile", default="draft")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--panos", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    settings = make_settings(
        generator=options.generator,
        profile=options.profile,
        width=options.width,
        panos=options.panos,
    )
    cpus = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spec = {
            "generator": options.generator,
            "seed": options.seed,
            "settings": to_json(settings),
            "device": "",
        }
        made = SceneFolder(folder / "made" / scene_id(settings, options.seed))
        spec_path = folder / "generate.json"
        write_json(
            spec_path, {**spec, "stage": "generate", "scene_folder": str(made.path), "threads": 1}
        )
        blender(spec_path).wait()
        views = len(json.loads(made.generated.read_text())["viewpoints"])
        print(
            f"{cpus} CPUs; {made.scene_id}, {views} panoramas of {settings.width} pixels a process"
        )
        base = 0.0
        for threads in [n for n in (1, 2, 4, 8, 16, 32) if n <= cpus]:
            rates, peak = [], 0.0
            for round_ in range(options.rounds):
                processes = []
                for one in range(cpus // threads):
                    scene = SceneFolder(folder / f"{threads}-{round_}-{one}" / made.scene_id)
                    scene.path.mkdir(parents=True)
                    shutil.copy(made.generated, scene.generated)
                    scene.blend.symlink_to(made.blend)
                    path = scene.path / "render.json"
                    write_json(
                        path,
                        {
                            **spec,
                            "stage": "render",
                            "scene_folder": str(scene.path),
                            "threads": threads,
                        },
                    )
                    processes.append((scene, path))
                started = time.monotonic()
                children = [blender(path, threads) for _, path in processes]
                while any(child.poll() is None for child in children):
                    peak = max(peak, sum(map(resident, children)))
                    time.sleep(0.2)
                hours = (time.monotonic() - started) / 3600
                done = sum(scene.is_rendered(k) for scene, _ in processes for k in range(views))
                assert done == views * len(processes), "a render failed"
                rates.append(done / hours)
            best = max(rates)
            base = base or best
            print(
                f"{cpus // threads:3d} × {threads} threads: {best:7.1f} panoramas an hour "
                f"({best / base:.2f}), {peak / 2**30:.1f} GiB"
            )


def blender(spec: Path, threads: int = 1) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline.blender", str(spec)],
        env={**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONHASHSEED": "0"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def resident(child: subprocess.Popen[bytes]) -> int:
    try:
        return int(psutil.Process(child.pid).memory_info().rss)
    except psutil.Error:
        return 0


if __name__ == "__main__":
    main()
