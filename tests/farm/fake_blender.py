"""Stands in for `python -m pipeline.blender`: the same files in a fraction of a second, and faults.

Faults are asked for in `faults.json` beside OUT: {"generate:3": "crash"} for every attempt,
{"generate:3": "crash 2"} for the first two; {"*": …} for everything. The time a stage takes is
{"seconds": 0.1}; {"defects": {"3:0": ["black"]}} makes panorama 0 of seed 3 unfit.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from pipeline.farm.child import die_with_parent
from pipeline.layout import SceneFolder, write_json
from pipeline.run_settings import RunSettings

VIEWPOINTS = 2
SICK = "SAP_TEST_SICK"
"""In the environment of a node on which everything fails."""


def main(spec_path: str) -> None:
    die_with_parent()
    spec = json.loads(Path(spec_path).read_text())
    scene, stage = SceneFolder(Path(spec["scene_folder"])), spec["stage"]
    plan = faults(scene)
    print(f"stage: {stage}")
    misbehave(scene, plan, stage, spec["seed"], spec["device"])
    time.sleep(plan.get("seconds", 0.05))
    if stage == "generate":
        scene.blend.write_bytes(b"blend" * plan.get("blend_bytes", 10))
        write_json(scene.generated, {"seed": spec["seed"], "viewpoints": [{}] * VIEWPOINTS})
        return
    for index in range(VIEWPOINTS):
        if scene.rendered(index).exists() or scene.panorama(index).exists():
            continue
        print(f"stage: render {index + 1}/{VIEWPOINTS}")
        misbehave(scene, plan, f"render{index}", spec["seed"])
        half_made = scene.scratch / f"render-{index}"
        half_made.mkdir(parents=True)
        (half_made / "image.txt").write_text(f"{spec['seed']} {index}")
        write_json(half_made / "render.json", {})
        scene.rendered(index).parent.mkdir(exist_ok=True)
        half_made.rename(scene.rendered(index))


def annotate_scene(scene: SceneFolder, settings: RunSettings) -> None:
    """Stands in for `pipeline.annotations.stage.annotate_scene`."""
    seed = json.loads(scene.generated.read_text())["seed"]
    plan = faults(scene)
    misbehave(scene, plan, "annotate", seed)
    for index in range(VIEWPOINTS):
        if not scene.panorama(index).exists():
            text = (scene.rendered(index) / "image.txt").read_text()
            if text != f"{seed} {index}":
                shutil.rmtree(scene.rendered(index))  # the next attempt renders it again
                raise ValueError(f"image.txt of panorama {index} is damaged")
            defects = plan.get("defects", {}).get(f"{seed}:{index}", [])
            half_made = scene.scratch / f"panorama-{index}"
            write_json(half_made / "row.json", {"text": text, "summary": {"defects": defects}})
            scene.panorama(index).parent.mkdir(exist_ok=True)
            half_made.rename(scene.panorama(index))


def faults(scene: SceneFolder) -> dict:
    path = plan_folder(scene) / "faults.json"
    return json.loads(path.read_text()) if path.exists() else {}


def plan_folder(scene: SceneFolder) -> Path:
    """The folder beside OUT: a scene is made in OUT/scratch/<attempt>/scenes/<scene_id>."""
    return scene.path.parents[4]


def misbehave(scene: SceneFolder, plan: dict, stage: str, seed: int, device: str = "") -> None:
    """Do the fault that is planned for this stage and seed, as often as planned."""
    if os.environ.get(SICK):
        sys.exit("the driver of this machine's GPU is broken")
    fault, _, times = plan.get(f"{stage}:{seed}", plan.get("*", "")).partition(" ")
    if not fault:
        return
    made = plan_folder(scene) / f"{stage}-{seed}.faults"
    count = len(made.read_text()) if made.exists() else 0
    if times and count >= int(times):
        return
    made.write_text("x" * (count + 1))
    if fault == "crash":
        raise RuntimeError(f"seed {seed} always crashes")
    if fault == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if fault == "reject":
        print("rejected: no free viewpoint")
        sys.exit(3)
    if fault == "damaged":
        scene.blend.unlink()
        scene.generated.unlink()
        print(f"damaged: {scene.blend}")
        sys.exit(4)
    if fault == "nothing":
        sys.exit(0)
    if fault == "hang":
        time.sleep(1000)
    if fault == "grandchild":
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
        time.sleep(1000)
    if fault == "damage":
        (scene.rendered(1) / "image.txt").write_text("?")
    if fault == "fill":
        with open(scene.scratch / "large", "wb") as file:
            while True:
                file.write(bytes(1 << 20))
    if fault == "kill-worker":
        os.kill(os.getpid() if stage == "annotate" else os.getppid(), signal.SIGKILL)
        time.sleep(1000)
    if fault == "kill-node":  # Blender's parent is the worker, and the worker's is the raylet
        worker = os.getpid() if stage == "annotate" else os.getppid()
        with open(f"/proc/{worker}/stat") as file:
            raylet = int(file.read().rpartition(")")[2].split()[1])
        os.kill(raylet, signal.SIGKILL)
        time.sleep(1000)
    if fault == "wait":  # until the test says so
        while not (plan_folder(scene) / "go").exists():
            time.sleep(0.1)
    if fault == "eat":
        eaten = bytearray(os.urandom(1 << 20)) * 400
        time.sleep(2)
        del eaten
    if fault == "gpu-memory" and device.startswith("gpu"):
        print("CUDA error: Out of memory in cuMemAlloc_v2(&device_pointer, size)")
        sys.exit(1)
    if fault == "stubborn":  # ignores SIGTERM
        ctypes.CDLL(None).signal(signal.SIGTERM, 1)
        time.sleep(1000)


if __name__ == "__main__":
    main(sys.argv[1])
