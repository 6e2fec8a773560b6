"""Time of day: light a finished scene by day, in the evening, or by daylight alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import bpy

from pipeline.blender.instances import Instance, rendered_objects
from pipeline.blender.viewpoints import Viewpoint

EVENING_SKY = 0.002
"""What the sky is multiplied by in the evening: moonlight and the glow of a town beside lamps."""

LAMPS = ("ceiling_light", "desk_lamp", "floor_lamp")
"""Categories whose shades and bulbs glow when lamps are on."""


def light_scene(
    lighting: str, instances: Sequence[Instance], viewpoints: Sequence[Viewpoint]
) -> str:
    """Light the current scene, which was generated for daylight with its lamps on.

    Args:
        lighting: `day`, `evening` or `lamps_off`; see `pipeline.run_settings.LIGHTINGS`.
        instances: The scene's instances.
        viewpoints: Its viewpoints.

    Returns:
        How it is lit: `day` instead of `lamps_off` if a viewpoint sees no window.
    """
    windows = {instance.id for instance in instances if instance.category == "window"}
    if lighting == "lamps_off" and not all(place.view.visible & windows for place in viewpoints):
        lighting = "day"
    if lighting == "evening":
        _darken_sky()
    if lighting == "lamps_off":
        _switch_off_lamps({i.name for i in instances if i.category in LAMPS})
    return lighting


def _darken_sky() -> None:
    world = bpy.context.scene.world
    if world is not None and world.use_nodes:
        for node in list(world.node_tree.nodes):
            if node.type == "BACKGROUND":
                _multiply(world.node_tree, node.inputs["Strength"], EVENING_SKY)
    for obj in bpy.context.scene.objects:
        if obj.type == "LIGHT" and obj.data.type == "SUN":
            obj.hide_render = True


def _switch_off_lamps(names: set[str]) -> None:
    """Hide every lamp but the sun and the portals of windows, and what glows on the objects."""
    for obj in bpy.context.scene.objects:
        if obj.type == "LIGHT" and obj.data.type != "SUN" and not obj.data.cycles.is_portal:
            obj.hide_render = True
    trees = [
        slot.material.node_tree
        for obj in rendered_objects()
        if obj.name in names
        for slot in obj.material_slots
        if slot.material is not None and slot.material.use_nodes
    ]
    darkened = set()
    while trees:
        tree = trees.pop()
        if tree in darkened:
            continue
        darkened.add(tree)
        for node in list(tree.nodes):
            if node.type == "GROUP" and node.node_tree is not None:
                trees.append(node.node_tree)
            for socket in _strengths(node):
                _multiply(tree, socket, 0.0)


def _strengths(node: Any) -> Iterator[Any]:
    """The sockets that say how strongly a shader node glows."""
    if node.type == "EMISSION":
        yield node.inputs["Strength"]
    elif node.type == "BSDF_PRINCIPLED":
        yield node.inputs["Emission Strength"]


def _multiply(tree: Any, socket: Any, factor: float) -> None:
    """Multiply the value that a socket receives, whether it is linked or not."""
    if not socket.is_linked:
        socket.default_value *= factor
        return
    source = socket.links[0].from_socket
    product = tree.nodes.new("ShaderNodeMath")
    product.operation = "MULTIPLY"
    product.inputs[1].default_value = factor
    tree.links.new(source, product.inputs[0])
    tree.links.new(product.outputs[0], socket)
