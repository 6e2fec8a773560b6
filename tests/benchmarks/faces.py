"""One panorama with its ids, against six pinhole faces with a separate ground-truth pass.

    python -m tests.benchmarks.faces OUT/scenes/SCENE_ID [--width 4096]

The scene must still have its scene.blend (`make render KEEP_SCENES=1`). Both sides see the whole
sphere with the same number of samples: six faces of L² pixels with 6·L² = W·H. The faces are made
as InfiniGen's manager does it: a fresh process for each camera and task, `shortrender` with the
picture, then `blendergt` with flat materials and the object-index pass. They are rendered twice:
with our integrator settings, so that only the way of rendering differs, and with Blender's
defaults (12 bounces, light tree), which InfiniGen leaves as they are.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from pipeline.layout import SceneFolder, read_json
from pipeline.run_settings import make_settings

FACES = {
    # name: rotation of the camera in degrees (XYZ Euler): four around, up, down
    "front": (90, 0, 0),
    "right": (90, 0, -90),
    "back": (90, 0, 180),
    "left": (90, 0, 90),
    "up": (180, 0, 0),
    "down": (0, 0, 0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("scene", type=Path)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--job", help=argparse.SUPPRESS)  # what a child process renders
    options = parser.parse_args()
    if options.job:
        _job(options)
        return
    common = [str(options.scene), "--width", str(options.width), "--threads", str(options.threads)]
    panorama = _measure([*common, "--job", "panorama"], "panorama with ids")
    totals = {}
    for integrator in ("ours", "blender"):
        jobs = [f"{kind}:{face}:{integrator}" for face in FACES for kind in ("picture", "truth")]
        costs = [_measure([*common, "--job", job], job) for job in jobs]
        totals[integrator] = tuple(map(sum, zip(*costs, strict=True)))
    print(f"\n| {options.width} wide | CPU-seconds | wall seconds | times the panorama |")
    print("|---|---|---|---|")
    print(f"| one panorama, colour and ids | {panorama[0]:.0f} | {panorama[1]:.0f} | 1 |")
    for name, (cpu, wall) in totals.items():
        label = {"ours": "our integrator settings", "blender": "Blender's, as InfiniGen uses"}
        ratio = cpu / panorama[0]
        print(
            f"| six faces and ground truth, {label[name]} | {cpu:.0f} | {wall:.0f} | {ratio:.2f} |"
        )


def _measure(arguments: list[str], label: str) -> tuple[float, float]:
    """CPU- and wall-seconds of one child process, loading the scene included."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.faces", *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - start
    cpu = (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)
    print(f"{label}: {cpu:.0f} CPU-s, {wall:.0f} s", flush=True)
    return cpu, wall


def _job(options: argparse.Namespace) -> None:
    """Render one thing in this process; pictures go to a folder that is thrown away."""
    import tempfile

    import bpy

    from pipeline.blender import render

    scene = SceneFolder(options.scene)
    viewpoint = read_json(scene.generated)["viewpoints"][0]
    settings = make_settings(profile="cpu", width=options.width)
    bpy.ops.wm.open_mainfile(filepath=str(scene.blend), load_ui=False, use_scripts=False)
    render.configure(settings, options.threads)
    with tempfile.TemporaryDirectory() as folder:
        if options.job == "panorama":
            render.render_panorama(viewpoint, settings, Path(folder))
            return
        kind, face, integrator = options.job.split(":")
        _pinhole(settings.width, face)
        cycles = bpy.context.scene.cycles
        if integrator == "blender":
            cycles.use_fast_gi, cycles.use_light_tree = False, True
            cycles.max_bounces, cycles.diffuse_bounces, cycles.glossy_bounces = 12, 4, 4
            cycles.transmission_bounces = 12
        if kind == "truth":
            cycles.samples, cycles.use_denoising = 1, False
            _flat_materials()
        pose = {**viewpoint, "rotation_euler": [math.radians(angle) for angle in FACES[face]]}
        render.render_panorama(pose, settings, Path(folder))


def _pinhole(width: int, face: str) -> None:
    """A 90° × 90° camera whose six faces have as many pixels as the panorama."""
    import bpy

    scene = bpy.context.scene
    edge = round(width / math.sqrt(12))
    scene.render.resolution_x = scene.render.resolution_y = edge
    scene.camera.data.type = "PERSP"
    scene.camera.data.angle = math.pi / 2


def _flat_materials() -> None:
    """One emission shader per material, as InfiniGen's ground-truth task has."""
    import bpy

    for material in bpy.data.materials:
        if material.use_nodes:
            material.node_tree.nodes.clear()
            output = material.node_tree.nodes.new("ShaderNodeOutputMaterial")
            emission = material.node_tree.nodes.new("ShaderNodeEmission")
            material.node_tree.links.new(emission.outputs[0], output.inputs["Surface"])


if __name__ == "__main__":
    main()
