"""Scenes of one's own: a file becomes the scene in this Blender process.

Every mesh object is an instance; objects with one value of the custom property `instance` are one.
Its category is, in this order: that of the CSV beside the file (`scene.glb.csv`, columns name and
category), the custom property `category`, what the table or another taxonomy knows of the object's
name, or of its material's name; else the name without its number. Scripts in .blend files never
run.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bpy
import numpy as np
from mathutils import Matrix, Vector

from pipeline.blender.instances import RejectedSceneError, rendered_objects
from pipeline.categories import STRUCTURE, base_name, category_of
from pipeline.run_settings import scene_files
from pipeline.taxonomy import category_named

SIZES = (0.5, 1000.0)
"""Metres from corner to corner of a scene; outside of this its unit is wrong."""

SKY = 1.0
"""Strength of the white sky that lights a scene without any light."""

CATEGORY, INSTANCE = "category", "instance"
"""Custom properties."""

_given: dict[str, str] = {}
"""Categories of the file that this process has loaded, by object."""


def generate(seed: int, scratch: Path, config: Path) -> None:
    """Load the file of a seed into this (fresh) process.

    Args:
        seed: Number of the file among those that the pattern matches.
        scratch: Unused.
        config: The pattern.

    Raises:
        RejectedSceneError: The file cannot be read, or holds no scene to render.
    """
    _given.clear()
    files = scene_files(str(config))
    if seed >= len(files):
        raise RejectedSceneError(f"{config} matches {len(files)} files; there is none for {seed}")
    path = files[seed]
    print(f"stage: load {path.name}", flush=True)
    _load(path)
    for camera in [obj for obj in bpy.data.objects if obj.type == "CAMERA"]:
        bpy.data.objects.remove(camera)
    _to_metres()
    _join_instances()
    if not any(True for _ in rendered_objects()):
        raise RejectedSceneError(f"{path.name} holds no object to render")
    _check_size(path)
    _given.update(_categories(path))
    if not _is_lit():
        print("stage: no light in the file, a white sky is added", flush=True)
        _add_sky()


def categories() -> dict[str, str]:
    """The categories of the loaded file, by the name of the object."""
    return _given


def _load(path: Path) -> None:
    """Read a file of any of the formats.

    Raises:
        RejectedSceneError: Blender cannot read it, or a file that it links is missing.
    """
    readers: dict[str, Callable[..., Any]] = {
        ".glb": bpy.ops.import_scene.gltf,
        ".gltf": bpy.ops.import_scene.gltf,
        ".fbx": bpy.ops.import_scene.fbx,
        ".obj": bpy.ops.wm.obj_import,
    }
    suffix = path.suffix.lower()
    try:
        if suffix == ".blend":
            bpy.ops.wm.open_mainfile(filepath=str(path), load_ui=False, use_scripts=False)
        else:
            bpy.ops.wm.read_factory_settings(use_empty=True)
            readers.get(suffix, bpy.ops.wm.usd_import)(filepath=str(path))
    except Exception as error:  # importers are programs of others, and raise what they like
        reason = " ".join(str(error).split())[:200]
        raise RejectedSceneError(f"{path.name} cannot be read: {reason}") from error
    for library in bpy.data.libraries:
        if not Path(bpy.path.abspath(library.filepath)).exists():
            raise RejectedSceneError(f"{path.name} links {library.filepath}, which is missing")


def _to_metres() -> None:
    """Scale the scene if its unit is not a metre."""
    scale = bpy.context.scene.unit_settings.scale_length
    if abs(scale - 1) > 1e-6:
        for obj in bpy.context.scene.objects:
            if obj.parent is None:
                obj.matrix_world = Matrix.Scale(scale, 4) @ obj.matrix_world
        bpy.context.scene.unit_settings.scale_length = 1.0
        bpy.context.view_layer.update()


def _join_instances() -> None:
    """Make one object of the meshes that have one value of the property `instance`."""
    groups: defaultdict[str, list[bpy.types.Object]] = defaultdict(list)
    for obj in rendered_objects():
        if obj.type == "MESH" and obj.get(INSTANCE) is not None:
            groups[str(obj[INSTANCE])].append(obj)
    for name, members in groups.items():
        if len(members) > 1:
            for obj in members:
                obj.data = obj.data.copy()  # joining changes the mesh of all its users
            with bpy.context.temp_override(
                object=members[0],
                active_object=members[0],
                selected_objects=members,
                selected_editable_objects=members,
            ):
                bpy.ops.object.join()
        members[0].name = name


def _check_size(path: Path) -> None:
    corners = [
        obj.matrix_world @ Vector(corner) for obj in rendered_objects() for corner in obj.bound_box
    ]
    size = float(np.linalg.norm(np.ptp(np.array(corners), axis=0)))
    if not SIZES[0] <= size <= SIZES[1]:
        raise RejectedSceneError(
            f"{path.name} is {size:.3g} m from corner to corner, not {SIZES[0]:g} to {SIZES[1]:g}; "
            "correct its unit"
        )


def _categories(path: Path) -> dict[str, str]:
    """The category of each object, by its name."""
    table = path.with_name(f"{path.name}.csv")
    listed = {}
    if table.exists():
        with open(table, newline="", encoding="utf-8") as file:
            listed = {row.get("name"): row.get("category") for row in csv.DictReader(file)}
    found = {}
    for obj in rendered_objects():
        given = listed.get(obj.name) or obj.get(CATEGORY) or (obj.data and obj.data.get(CATEGORY))
        found[obj.name] = _word(str(given)) if given else _from_names(obj)
    return found


def _from_names(obj: bpy.types.Object) -> str:
    """The category that the names of an object or of its materials mean."""
    materials = [slot.material.name for slot in obj.material_slots if slot.material]
    for name in (obj.name, *materials):
        known = category_of(name)
        if known.in_table:
            return known.name
        if label := category_named(base_name(name)):
            return label
    return base_name(obj.name)


def _word(given: str) -> str:
    """A category as given: one of ours, somebody else's name for it, or a new one."""
    word = re.sub(r"[^a-z0-9]+", "_", given.lower()).strip("_") or "object"
    known = category_of(word)
    if known.in_table or word in STRUCTURE:
        return known.name
    return category_named(given) or word


def _is_lit() -> bool:
    """Whether anything gives light: a lamp, the world, or a material."""
    if any(obj.type == "LIGHT" and not obj.hide_render for obj in bpy.context.scene.objects):
        return True
    world = bpy.context.scene.world
    if world is not None and world.use_nodes:
        for node in world.node_tree.nodes:
            if node.type == "BACKGROUND" and node.inputs["Strength"].default_value > 0:
                colour = node.inputs["Color"]
                if colour.is_linked or max(colour.default_value[:3]) > 0.01:
                    return True
    used = {slot.material for obj in rendered_objects() for slot in obj.material_slots}
    for material in used - {None}:
        for node in material.node_tree.nodes if material.use_nodes else ():
            if node.type == "EMISSION":
                return True
            if node.type == "BSDF_PRINCIPLED":
                strength = node.inputs["Emission Strength"].default_value
                if strength and max(node.inputs["Emission Color"].default_value[:3]) > 0:
                    return True
    return False


def _add_sky() -> None:
    world = bpy.data.worlds.new("sky")
    world.use_nodes = True
    background = world.node_tree.nodes["Background"]
    background.inputs["Color"].default_value = (1.0, 1.0, 1.0, 1.0)
    background.inputs["Strength"].default_value = SKY
    bpy.context.scene.world = world
