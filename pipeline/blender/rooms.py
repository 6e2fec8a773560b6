"""InfiniGen v2 scenes (`rooms` and `house`): a seed becomes the scene in this Blender process."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bpy
import numpy as np

from pipeline.blender.room_layout import ROOM_TYPE

ROOM_TYPES = {
    "room_livingroom_rand": "living_room",
    "room_kitchen_rand": "kitchen",
    "room_bedroom_rand": "bedroom",
    "room_diningroom_rand": "dining_room",
    "room_bathroom_rand": "bathroom",
}
"""The kinds of the rooms that generators of single rooms make."""


def generate(seed: int, scratch: Path, config: Path) -> None:
    """Make one v2 scene in this (fresh) process.

    Args:
        seed: Scene seed; the same seed gives the same scene.
        scratch: Unused: v2 writes no files.
        config: TOML file with the weights of `[scenes]`, `[skies]` and `[decorations]`.

    Raises:
        KeyError: The config names a generator that InfiniGen does not have.
    """
    import procfunc as pf
    from infinigen2.exporters.realize_mesh import bake_shared_modifier_prefixes

    settings = tomllib.loads(config.read_text())
    scene_rng, sky_rng, draw_rng = np.random.default_rng(seed).spawn(3)
    scene_name = _draw(settings["scenes"], draw_rng)
    sky_name = _draw(settings["skies"], draw_rng)
    _choose_decorations(settings["decorations"])

    pf.ops.object.clear_scene()
    print(f"stage: {scene_name}", flush=True)
    scene = _generator(scene_name)(scene_rng)
    print(f"stage: {sky_name}", flush=True)
    sky = _generator(sky_name)(sky_rng)
    bpy.context.scene.world = sky.environment.item()
    if kind := ROOM_TYPES.get(scene_name):
        bpy.context.scene[ROOM_TYPE] = kind

    bake_shared_modifier_prefixes(scene.all_objects)
    _hide_all_but([*scene.all_objects, *scene.lights, *sky.lights])


def _draw(weights: dict[str, float], rng: np.random.Generator) -> str:
    names = sorted(weights)
    shares = np.array([weights[name] for name in names])
    return str(rng.choice(names, p=shares / shares.sum()))


def _choose_decorations(weights: dict[str, float]) -> None:
    """Strew these objects on furniture and floors, by weight.

    InfiniGen strews random primitives: cones, rings and twisted cubes. Its rocks call an add-on
    that Blender would download while generating, on which a scene must not depend; bowls take
    their place.
    """
    import procfunc as pf
    from infinigen2.objects import boulder, bowl
    from infinigen2.scenes.room import decoration_objects

    choices = [(_generator(name), weight) for name, weight in weights.items()]

    def decoration_rand(rng: np.random.Generator) -> Any:
        choice_rng, object_rng = rng.spawn(2)
        return pf.control.choice(choice_rng, choices)(object_rng)

    decoration_objects._decoration_primitive_rand = decoration_rand
    boulder.rock_rand = bowl.bowl_rand


def _generator(name: str) -> Callable[[np.random.Generator], Any]:
    """A generator of InfiniGen v2 by its name in InfiniGen's manifest (a pandas table)."""
    from infinigen2 import GENERATORS_MANIFEST
    from procfunc.util.manifest import import_item

    paths = [path for path in GENERATORS_MANIFEST["name"] if path.rpartition(".")[2] == name]
    if len(paths) != 1:
        raise KeyError(
            f"infinigen2 has {len(paths)} generators called {name}; see infinigen_configs"
        )
    return import_item(str(paths[0]))


def _hide_all_but(kept: list[Any]) -> None:
    """Hide from the render what the scene made but did not return (instancing sources, cutters)."""
    roots = [wrapped.item() for wrapped in kept]
    shown = {child for root in roots for child in (root, *root.children_recursive)}
    for obj in bpy.data.objects:
        obj.hide_render = obj not in shown
