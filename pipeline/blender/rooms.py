"""InfiniGen v2 scenes (`rooms` and `house`): a seed becomes the scene in this Blender process."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import bpy
import numpy as np


def generate(seed: int, scratch: Path, config: Path) -> None:
    """Make one v2 scene in this (fresh) process.

    Args:
        seed: Scene seed; the same seed gives the same scene.
        scratch: Unused: v2 writes no files.
        config: TOML file with the weights of `[scenes]` and `[skies]`.

    Raises:
        KeyError: The config names a generator that InfiniGen does not have.
    """
    import procfunc as pf
    from infinigen2 import GENERATORS_MANIFEST
    from infinigen2.exporters.realize_mesh import bake_shared_modifier_prefixes
    from infinigen2.objects import boulder

    # InfiniGen's rocks call an add-on that Blender would download while generating; a scene must
    # not depend on a download, so a bowl is put where a rock was drawn.
    from infinigen2.objects.bowl import bowl_rand
    from procfunc.util.manifest import import_item

    boulder.rock_rand = bowl_rand

    settings = tomllib.loads(config.read_text())
    scene_rng, sky_rng, draw_rng = np.random.default_rng(seed).spawn(3)
    scene_name = _draw(settings["scenes"], draw_rng)
    sky_name = _draw(settings["skies"], draw_rng)

    pf.ops.object.clear_scene()
    print(f"stage: {scene_name}", flush=True)
    scene = import_item(_path_of(scene_name, GENERATORS_MANIFEST))(scene_rng)
    print(f"stage: {sky_name}", flush=True)
    sky = import_item(_path_of(sky_name, GENERATORS_MANIFEST))(sky_rng)
    bpy.context.scene.world = sky.environment.item()

    bake_shared_modifier_prefixes(scene.all_objects)
    _hide_all_but([*scene.all_objects, *scene.lights, *sky.lights])


def _draw(weights: dict[str, float], rng: np.random.Generator) -> str:
    names = sorted(weights)
    shares = np.array([weights[name] for name in names])
    return str(rng.choice(names, p=shares / shares.sum()))


def _path_of(name: str, manifest: Any) -> str:
    """Dotted import path of a generator, from InfiniGen's own manifest (a pandas table)."""
    paths = [path for path in manifest["name"] if path.rpartition(".")[2] == name]
    if len(paths) != 1:
        raise KeyError(
            f"infinigen2 has {len(paths)} generators called {name}; see infinigen_configs"
        )
    return str(paths[0])


def _hide_all_but(kept: list[Any]) -> None:
    """Hide from the render what the scene made but did not return (instancing sources, cutters)."""
    roots = [wrapped.item() for wrapped in kept]
    shown = {child for root in roots for child in (root, *root.children_recursive)}
    for obj in bpy.data.objects:
        obj.hide_render = obj not in shown
