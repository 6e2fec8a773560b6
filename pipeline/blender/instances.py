"""Give every rendered object an id, a category and a pass index: what one instance is.

Cycles writes an object's `pass_index` into the object-index pass at the centre of each pixel, so
the id map is exact. Two things would break "one object, one id" and are fixed here before the
scene is saved: copies that Blender makes while rendering share the index of their source, and the
pass holds at most 32,767.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import bpy

from pipeline.annotations import instance_ids
from pipeline.categories import STRUCTURE, Category, category_of

RENDERED_TYPES = {"MESH", "CURVE", "SURFACE", "FONT", "META", "CURVES", "POINTCLOUD", "VOLUME"}

HELPERS = re.compile(r"placeholder|cutter|_COLLIDE|_FAILED|_OBSTRUCTED|affordance|clearance")
"""Names of objects that generators use to place others; they must never be seen."""


@dataclass(frozen=True)
class Instance:
    """One rendered object of a scene.

    Attributes:
        id: 1, 2, …, in the order of object names; the same in every panorama of the scene.
        name: The generator's name of the object.
        category: See `pipeline.categories`.
        is_structure: Part of the building's shell (walls, floors, ceilings, …).
    """

    id: int
    name: str
    category: str
    is_structure: bool


class RejectedSceneError(Exception):
    """A scene is unfit, and would be every time; the message says why."""


def number_instances(
    categories: Mapping[str, str] | None = None,
) -> tuple[list[Instance], dict[str, int]]:
    """Give every rendered object of the current scene its id, in `obj["instance_id"]`.

    Args:
        categories: Categories by the names of objects, where these do not follow from the names.

    Returns:
        The instances by id, and how many objects each category that is not in the table has.

    Raises:
        OverflowError: More objects than a 16-bit id map can tell apart.
    """
    _show_what_renders()
    _make_copies_distinct()
    _show_what_renders()
    objects = sorted(rendered_objects(), key=lambda obj: obj.name)
    if len(objects) > instance_ids.MAX_INSTANCES:
        most = instance_ids.MAX_INSTANCES
        raise OverflowError(f"{len(objects)} objects, more than {most} ids of 16 bits")
    instances = []
    unknown: Counter[str] = Counter()
    for number, obj in enumerate(objects, start=1):
        given = (categories or {}).get(obj.name)
        category = Category(given, given in STRUCTURE, True) if given else category_of(obj.name)
        if not category.in_table:
            unknown[category.name] += 1
        obj["instance_id"] = number
        obj.pass_index = instance_ids.digits_of(number)[0]
        instances.append(Instance(number, obj.name, category.name, category.is_structure))
    return instances, dict(unknown)


def rendered_objects() -> Iterator[bpy.types.Object]:
    """Objects of the current scene that Cycles draws (lamps have no surface and no id)."""
    drawn = _drawn_collections()
    for obj in bpy.context.scene.objects:
        if (
            obj.type in RENDERED_TYPES
            and not obj.hide_render
            and any(collection in drawn for collection in obj.users_collection)
        ):
            yield obj


def _drawn_collections() -> set[bpy.types.Collection]:
    drawn = set()

    def visit(layer: bpy.types.LayerCollection) -> None:
        if not layer.exclude and not layer.collection.hide_render:
            drawn.add(layer.collection)
            for child in layer.children:
                visit(child)

    visit(bpy.context.view_layer.layer_collection)
    return drawn


def _show_what_renders() -> None:
    """Make the viewport show exactly what the render shows, so that ray casts hit what is rendered.

    Helpers are hidden from both; lamps are hidden from the camera, because a visible lamp would
    be drawn without having an id.
    """
    for obj in bpy.context.scene.objects:
        if HELPERS.search(obj.name):
            obj.hide_render = True
        if obj.type == "LIGHT":
            obj.visible_camera = False
    rendered = set(rendered_objects())

    def visit(layer: bpy.types.LayerCollection) -> None:
        layer.hide_viewport = False
        layer.collection.hide_viewport = layer.collection.hide_render
        for child in layer.children:
            visit(child)

    visit(bpy.context.view_layer.layer_collection)
    for obj in bpy.context.scene.objects:
        if obj.type in RENDERED_TYPES:
            obj.hide_viewport = obj not in rendered
            if obj in rendered:
                obj.hide_set(False)
    bpy.context.view_layer.update()


def _make_copies_distinct() -> None:
    """Turn copies that exist only while rendering into objects or into part of their owner.

    What a collection instance, a particle system or instancing on vertices or faces repeats
    becomes an object for each copy. What geometry nodes scatter belongs to the object whose
    nodes they are (the leaves of a plant, the books of a stack).

    Raises:
        RuntimeError: Copies are left that Cycles would give the id of their source.
    """
    for name in sorted(_owners_of_copies()):
        owner = bpy.data.objects[name]
        if any(modifier.type == "NODES" for modifier in owner.modifiers):
            _realize(owner)
        if owner.instance_type != "NONE" or owner.particle_systems:
            _make_real(owner)
    bpy.context.view_layer.update()
    if left := _owners_of_copies():
        raise RuntimeError(f"copies made by {', '.join(sorted(left))} share the id of their source")


def _owners_of_copies() -> set[str]:
    """Names of the objects that repeat others while rendering."""
    depsgraph = bpy.context.evaluated_depsgraph_get()
    return {
        copy.parent.original.name
        for copy in depsgraph.object_instances
        if copy.is_instance and copy.parent is not None and copy.object.type in RENDERED_TYPES
    }


def _realize(owner: bpy.types.Object) -> None:
    """Append a geometry-nodes modifier that turns the owner's instances into its own mesh."""
    group = bpy.data.node_groups.new("realize_instances", "GeometryNodeTree")
    group.interface.new_socket("Geometry", in_out="INPUT", socket_type="NodeSocketGeometry")
    group.interface.new_socket("Geometry", in_out="OUTPUT", socket_type="NodeSocketGeometry")
    source = group.nodes.new("NodeGroupInput")
    realize = group.nodes.new("GeometryNodeRealizeInstances")
    sink = group.nodes.new("NodeGroupOutput")
    group.links.new(source.outputs[0], realize.inputs[0])
    group.links.new(realize.outputs[0], sink.inputs[0])
    owner.modifiers.new("realize_instances", "NODES").node_group = group


def _make_real(owner: bpy.types.Object) -> None:
    """Replace an instancer's copies by objects, and stop it from instancing."""
    before = set(bpy.context.scene.objects)
    # What was there only to be repeated was not drawn itself, and must not be from now on.
    if owner.instance_type in ("VERTS", "FACES"):
        for source in owner.children:
            source.hide_render = True
    with bpy.context.temp_override(
        object=owner,
        active_object=owner,
        selected_objects=[owner],
        selected_editable_objects=[owner],
    ):
        bpy.ops.object.duplicates_make_real()
    for copy in set(bpy.context.scene.objects) - before:
        copy.hide_render = False  # a hidden source has copies that are drawn
    if not owner.show_instancer_for_render:
        owner.hide_render = True
    owner.instance_type = "NONE"
    for modifier in [m for m in owner.modifiers if m.type == "PARTICLE_SYSTEM"]:
        owner.modifiers.remove(modifier)
