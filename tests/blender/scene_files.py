"""Make a scene in every format, load each as `GENERATOR=files` does, and say what came of it.

`python -m tests.blender.scene_files FOLDER` writes FOLDER/loaded.json. Run from the root of the
checkout.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import bpy

from pipeline.blender import instances, render, scene_file, viewpoints
from pipeline.blender.spheres import add_room, add_sphere
from pipeline.run_settings import make_settings


def main(folder: Path) -> None:
    """Make the files, load them, render the first view of each."""
    make_files(folder)
    loaded: dict[str, Any] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix in (".csv", ".mtl", ".bin", ".txt"):
            continue
        try:
            loaded[path.name] = load(path)
        except (instances.RejectedSceneError, viewpoints.NoViewpointError) as reason:
            loaded[path.name] = {"rejected": str(reason)}
    (folder / "loaded.json").write_text(json.dumps(loaded))


def make_files(folder: Path) -> None:
    """The same room in all formats, and files that are unfit in one way each."""
    _room()
    _register_script(folder / "script-has-run.txt")
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "room.blend"), copy=True)
    bpy.ops.export_scene.gltf(filepath=str(folder / "room.glb"), export_extras=True)
    bpy.ops.export_scene.gltf(
        filepath=str(folder / "room.gltf"), export_format="GLTF_SEPARATE", export_extras=True
    )
    bpy.ops.wm.usd_export(filepath=str(folder / "room.usdc"))
    bpy.ops.wm.usd_export(filepath=str(folder / "room.usdz"))
    bpy.ops.export_scene.fbx(filepath=str(folder / "room.fbx"))
    bpy.ops.wm.obj_export(filepath=str(folder / "room.obj"))
    (folder / "room.obj.csv").write_text("name,category\nCube_7,refrigerator\n")

    _empty()
    add_sphere("statue", (0, 0, 0), 0.4, (0.5, 0.5, 0.5))
    add_sphere("apple", (3, 2, 1), 0.4, (0.5, 0.1, 0.1))
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "open.blend"), copy=True)
    bpy.context.scene.unit_settings.scale_length = 0.001
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "tiny.blend"), copy=True)
    _empty()
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "empty.blend"), copy=True)
    (folder / "broken.glb").write_bytes(b"glTF and then nothing")


def _empty() -> None:
    bpy.ops.wm.read_factory_settings(use_empty=True)


def _room() -> None:
    _empty()
    add_room()
    for index, (name, material) in enumerate(
        [
            ("Couch", "fabric"),
            ("Cube_7", "wood"),
            ("Object_3", "coffee table"),
            ("Lamp", "glass"),
            ("half_a", "china"),
            ("half_b", "china"),
        ]
    ):
        ball = add_sphere(name, (-2.5 + index, 2.0, 0.5), 0.4, (0.6, 0.4, 0.2), segments=16)
        ball.data.materials[0].name = material
        if name.startswith("half"):
            ball["instance"], ball["category"] = "teapot", "Tea Pot"


def _register_script(marker: Path) -> None:
    text = bpy.data.texts.new("evil.py")
    text.write(f"open({str(marker)!r}, 'w').write('run')")
    text.use_module = True


def load(path: Path) -> dict[str, Any]:
    """What `generate` does with a file, and a small render."""
    scene_file.generate(0, path.parent, path)
    found, _ = instances.number_instances(scene_file.categories())
    chosen, rooms = viewpoints.choose_viewpoints(found, 2, seed=0, anywhere=True)
    settings = make_settings(profile="draft", width=64, samples=1, generator="spheres")
    render.configure(settings, threads=1)
    view = {"position": chosen[0].position, "rotation_euler": chosen[0].rotation_euler}
    passes = path.parent / "passes"
    passes.mkdir(exist_ok=True)
    bpy.context.scene.camera.location = view["position"]
    bpy.context.scene.camera.rotation_euler = view["rotation_euler"]
    layers = render._render_passes(passes)
    passes.rmdir()
    return {
        "instances": {each.name: [each.category, each.is_structure] for each in found},
        "rooms": rooms,
        "views": len(chosen),
        "seen": len(set(layers["IndexOB"].astype(int).ravel().tolist()) - {0}),
        "brightness": float(layers["Image"][..., :3].mean()),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    sys.stdout.flush()
    os._exit(0)  # Blender's own clean-up at exit can crash after the work is done
