"""One stage of one scene in one fresh Blender process: `python -m pipeline.blender SPEC.json`.

SPEC.json: {"stage": "generate" | "render", "scene_folder", "generator", "seed", "settings",
"threads", "device"}. The process prints `stage: NAME` when it enters a stage. It ends with status 0
after its last file is in place, with status 3 after `rejected: REASON` where the scene itself is
unfit (trying again would give the same scene), with status 4 after `damaged: REASON` where its
input cannot be read, and with a traceback otherwise.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline import layout
from pipeline.farm.child import (
    DAMAGED_PREFIX,
    DAMAGED_STATUS,
    REJECTED_PREFIX,
    REJECTED_STATUS,
    die_with_parent,
)
from pipeline.layout import SceneFolder
from pipeline.run_settings import (
    FILES,
    RunSettings,
    config_of,
    from_json,
    lighting_of_seed,
    settings_hash,
    versions,
)

MODULES = {  # each has generate(seed, scratch, config)
    "indoors": "pipeline.blender.indoors",
    "rooms": "pipeline.blender.rooms",
    "house": "pipeline.blender.rooms",
    "spheres": "pipeline.blender.spheres",
    "files": "pipeline.blender.scene_file",
}


def main(spec_path: Path) -> int:
    """Run one stage; returns the exit status."""
    die_with_parent()
    spec = layout.read_json(spec_path)
    scene = SceneFolder(Path(spec["scene_folder"]))
    settings = from_json(spec["settings"])
    if spec["stage"] == "generate":
        return generate(scene, settings, spec["generator"], spec["seed"])
    return render(scene, settings, spec["threads"], spec.get("device", ""))


def generate(scene: SceneFolder, settings: RunSettings, generator: str, seed: int) -> int:
    """Seed → scene.blend with numbered instances, and scene.json with its viewpoints."""
    import bpy

    from pipeline.blender.instances import RejectedSceneError, number_instances
    from pipeline.blender.lighting import light_scene
    from pipeline.blender.room_layout import room_layout
    from pipeline.blender.surfaces import measure_surfaces
    from pipeline.blender.viewpoints import NoViewpointError, choose_viewpoints

    start, start_cpu = time.monotonic(), time.process_time()
    scene.scratch.mkdir(parents=True, exist_ok=True)
    module = importlib.import_module(MODULES[generator])
    try:
        config = Path(settings.pattern or config_of(generator, settings.detail))
        module.generate(seed, scene.scratch, config)
    except RejectedSceneError as reason:
        print(f"{REJECTED_PREFIX}{reason}", flush=True)
        return REJECTED_STATUS
    made, made_cpu = time.monotonic(), time.process_time()

    print("stage: instances", flush=True)
    categories = getattr(module, "categories", None)  # files name their categories
    instances, unknown = number_instances(categories() if categories else {})
    print("stage: viewpoints", flush=True)
    try:
        anywhere = generator == FILES
        viewpoints, furnished = choose_viewpoints(instances, settings.panos, seed, anywhere)
    except NoViewpointError as reason:
        print(f"{REJECTED_PREFIX}{reason}", flush=True)
        return REJECTED_STATUS
    print("stage: geometry", flush=True)
    positions = [viewpoint.position for viewpoint in viewpoints]
    boxes, seen = measure_surfaces(instances, positions, seed)
    lighting = light_scene(lighting_of_seed(settings, seed), instances, viewpoints)
    print("stage: save", flush=True)
    temporary = scene.scratch / "scene.blend"
    bpy.ops.wm.save_as_mainfile(filepath=str(temporary), compress=True)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())  # the marker below must not outlive the scene in a power cut
    os.replace(temporary, scene.blend)
    layout.write_json(
        scene.generated,
        {
            "scene_id": scene.scene_id,
            "generator": generator,
            "seed": seed,
            "instances": [
                {**asdict(instance), "box3d": boxes[instance.id].to_json()}
                for instance in instances
            ],
            "unknown_categories": unknown,
            "viewpoints": [
                {
                    "position": list(viewpoint.position),
                    "rotation_euler": list(viewpoint.rotation_euler),
                    "room": viewpoint.room,
                    "layout": room_layout(instances, viewpoint.position, viewpoint.room),
                    "seen": {str(label): share for label, share in shares.items()},
                }
                for viewpoint, shares in zip(viewpoints, seen, strict=True)
            ],
            "furnished_rooms": furnished,
            "lighting": lighting,
            "versions": versions(),
            "settings_hash": settings_hash(settings),
            "scene_seconds": round(time.monotonic() - start, 2),
            "scene_cpu_seconds": round(time.process_time() - start_cpu, 2),
            "infinigen_seconds": round(made - start, 2),
            "infinigen_cpu_seconds": round(made_cpu - start_cpu, 2),
        },
    )
    return 0


def render(scene: SceneFolder, settings: RunSettings, threads: int, device: str) -> int:
    """scene.blend → the panoramas that are still missing."""
    import bpy

    from pipeline.blender.render import render_missing

    print("stage: load scene", flush=True)
    viewpoints: list[dict[str, Any]] = layout.read_json(scene.generated)["viewpoints"]
    # use_scripts=False: a .blend file may carry Python; none is run.
    try:
        bpy.ops.wm.open_mainfile(filepath=str(scene.blend), load_ui=False, use_scripts=False)
    except RuntimeError:  # trying again would read the same file
        scene.blend.unlink(missing_ok=True)
        scene.generated.unlink(missing_ok=True)
        print(f"{DAMAGED_PREFIX}{scene.blend}", flush=True)
        return DAMAGED_STATUS
    render_missing(scene, viewpoints, settings, threads, device)
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {Path(sys.executable).name} -m pipeline.blender SPEC.json")
    status = main(Path(sys.argv[1]))
    sys.stdout.flush()
    # Blender's own clean-up at exit can crash after the work is done; every file is in place.
    os._exit(status)
