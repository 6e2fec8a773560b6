"""Scenes with a known answer, made and rendered in a separate Blender process by the real code.

`python -m tests.blender.analytic NAME FOLDER` builds the scene NAME, and writes into FOLDER
whatever the tests of tests/blender look at. Run from the root of the checkout.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import bpy

from pipeline.annotations import instance_ids
from pipeline.blender import instances, lighting, render, room_layout, surfaces, viewpoints
from pipeline.blender import spheres as spheres_scene
from pipeline.blender.spheres import add_lamp, add_sphere
from pipeline.run_settings import make_settings
from tests.blender.truth import (
    CAMERA,
    DISTANCE,
    GEOMETRY_SPHERES,
    GEOMETRY_VIEWS,
    SPHERES,
    WIDTH,
)


def spheres(folder: Path) -> None:
    """Spheres around the camera: ids, depth and normals of one render."""
    _empty_scene()
    for name, (lon, lat, radius) in SPHERES.items():
        lon, lat = math.radians(lon), math.radians(lat)
        direction = (math.cos(lat) * math.sin(lon), math.cos(lat) * math.cos(lon), math.sin(lat))
        centre = tuple(DISTANCE * axis for axis in direction)
        add_sphere(name, centre, radius, (0.8, 0.3, 0.2), segments=256)
    _render(folder)


def many(folder: Path) -> None:
    """The same spheres, with an object-index pass that holds only four."""
    instance_ids.MAX_PASS_INDEX = 4
    spheres(folder)


def copies(folder: Path) -> None:
    """Copies made in every way Blender knows, a helper and something hidden."""
    _empty_scene()
    add_sphere("front", (0, 4, 0), 0.5, (0.8, 0.8, 0.8))

    source = bpy.data.collections.new("source")  # not linked to the scene: only its instances show
    twin = add_sphere("twin", (0, 0, 0), 0.5, (0.2, 0.4, 0.8))
    bpy.context.scene.collection.objects.unlink(twin)
    source.objects.link(twin)
    for x in (-4, 4):
        empty = bpy.data.objects.new(f"empty{x}", None)
        empty.instance_type, empty.instance_collection = "COLLECTION", source
        empty.location = (x, 0, 0)
        bpy.context.scene.collection.objects.link(empty)

    leaf = add_sphere("leaf", (0, 0, 50), 0.2, (0.2, 0.8, 0.2))
    leaf.hide_render = True
    _scatter("bush", leaf, [(-0.6, -4, 0), (0.0, -4, 0), (0.6, -4, 0)])

    for kind, x in (("VERTS", -1.5), ("FACES", 1.5)):
        bpy.ops.mesh.primitive_plane_add(size=0.3, location=(x, -4, 1.5))
        owner = bpy.context.object
        owner.name, owner.instance_type = f"on_{kind.lower()}", kind
        owner.show_instancer_for_render = False
        ball = add_sphere(f"ball_{kind.lower()}", (x, -4, 1.5), 0.1, (0.9, 0.9, 0.1))
        ball.parent = owner
        ball.matrix_parent_inverse = owner.matrix_world.inverted()

    bpy.ops.mesh.primitive_plane_add(size=1.0, location=(0, -4, -2))
    emitter = bpy.context.object
    emitter.name = "emitter"
    emitter.show_instancer_for_render = False
    particles = emitter.modifiers.new("seeds", "PARTICLE_SYSTEM").particle_system.settings
    particles.type, particles.count, particles.render_type = "HAIR", 3, "OBJECT"
    particles.instance_object, particles.particle_size = leaf, 0.5
    particles.use_advanced_hair, particles.hair_length = True, 1.0

    add_sphere("front_COLLIDE", (2, 2, 0), 0.5, (1, 0, 0))
    add_sphere("ghost", (-2, 2, 0), 0.5, (1, 0, 0)).hide_render = True
    _render(folder)


def glass(folder: Path) -> None:
    """A sphere behind a pane that lets four of five rays through."""
    _empty_scene()
    add_sphere("front", (0, 4, 0), 0.5, (0.8, 0.8, 0.8))
    bpy.ops.mesh.primitive_plane_add(size=2, location=(0, 2, 0), rotation=(math.pi / 2, 0, 0))
    pane = bpy.context.object
    pane.name = "pane"
    material = bpy.data.materials.new("pane")
    material.use_nodes = True
    nodes, links = material.node_tree.nodes, material.node_tree.links
    nodes.clear()
    mix, output = nodes.new("ShaderNodeMixShader"), nodes.new("ShaderNodeOutputMaterial")
    mix.inputs["Fac"].default_value = 0.2
    links.new(nodes.new("ShaderNodeBsdfTransparent").outputs[0], mix.inputs[1])
    links.new(nodes.new("ShaderNodeBsdfGlass").outputs[0], mix.inputs[2])
    links.new(mix.outputs[0], output.inputs["Surface"])
    pane.data.materials.append(material)
    _render(folder)


def furnished(folder: Path) -> None:
    """Viewpoints of the room with spheres that `GENERATOR=spheres` makes of seed 7."""
    spheres_scene.generate(7, folder, folder)
    _choose(folder, count=4)


def empty(folder: Path) -> None:
    """A room with nothing in it."""
    _empty_scene()
    spheres_scene.add_room()
    _choose(folder, count=1)


def crowded(folder: Path) -> None:
    """A room so full of spheres that there is no free place to stand."""
    _empty_scene()
    spheres_scene.add_room()
    half = spheres_scene.ROOM / 2
    for x in range(9):
        for y in range(9):
            place = (x / 8 * 2 * half - half, y / 8 * 2 * half - half, 1.4)
            add_sphere(f"sphere_{x}{y}", place, 0.6, (0.5, 0.5, 0.5))
    _choose(folder, count=1)


def lit(folder: Path) -> None:
    """A glowing sphere under a bright sky, lit in each way, with and without a window in view."""
    result = {}
    for name in ("day", "evening", "lamps_off", "lamps_off without a window"):
        _empty_scene()
        lamp = add_sphere("lamp_desk", (0, 4, 0), 1.0, (0, 0, 0))
        pane = add_sphere("window", (0, -4, 0), 0.1, (0, 0, 0))
        _glow(lamp.active_material.node_tree, strength=5.0)
        world = bpy.data.worlds.new("sky")
        world.use_nodes = True
        world.node_tree.nodes["Background"].inputs["Color"].default_value = (1, 1, 1, 1)
        bpy.context.scene.world = world
        found, _ = instances.number_instances()
        visible = {i.id for i in found if i.name == pane.name and "without" not in name}
        view = viewpoints.View(frozenset(visible), frozenset(), 0.0)
        place = viewpoints.Viewpoint((0.0, 0.0, 0.0), 0.0, "room", view)
        used = lighting.light_scene(name.split()[0], found, [place])
        settings = make_settings(profile="draft", width=WIDTH, samples=1, generator="spheres")
        render.configure(settings, threads=2)
        bpy.context.scene.cycles.use_denoising = False
        camera = bpy.context.scene.camera
        camera.location, camera.rotation_euler = CAMERA["position"], CAMERA["rotation_euler"]
        image = render._render_passes(folder)["Image"]
        height, width = image.shape[:2]
        result[name] = {
            "used": used,
            "lamp": float(image[height // 2, width // 2, 0]),
            "sky": float(image[0, 0, 0]),
        }
    (folder / "lit.json").write_text(json.dumps(result))


def _glow(tree: bpy.types.NodeTree, strength: float) -> None:
    """Make a material give light and reflect none."""
    emission = tree.nodes.new("ShaderNodeEmission")
    emission.inputs["Strength"].default_value = strength
    output = next(node for node in tree.nodes if node.type == "OUTPUT_MATERIAL")
    tree.links.new(emission.outputs[0], output.inputs["Surface"])


def geometry(folder: Path) -> None:
    """Boxes, seen shares, the room and three panoramas of a room with three spheres."""
    _empty_scene()
    spheres_scene.add_room()
    for name, (place, radius) in GEOMETRY_SPHERES.items():
        add_sphere(name, place, radius, (0.7, 0.3, 0.2), segments=128)
    found, _ = instances.number_instances()
    positions = [view["position"] for view in GEOMETRY_VIEWS]
    boxes, seen = surfaces.measure_surfaces(found, positions, seed=0)
    settings = make_settings(
        profile="draft", width=256, samples=1, passes=("albedo", "depth"), generator="spheres"
    )
    layouts = [room_layout.room_layout(found, place, "room_floor") for place in positions]
    render.configure(settings, threads=1)
    for number, view in enumerate(GEOMETRY_VIEWS):
        (folder / str(number)).mkdir()
        render.render_panorama(view, settings, folder / str(number))
    result = {
        "ids": {instance.name: instance.id for instance in found},
        "boxes": {str(label): box.to_json() for label, box in boxes.items()},
        "seen": seen,
        "layouts": layouts,
    }
    (folder / "geometry.json").write_text(json.dumps(result))


def _choose(folder: Path, count: int) -> None:
    found, _ = instances.number_instances()
    balls = [
        [*obj.matrix_world.translation, obj.dimensions.x / 2]
        for obj in instances.rendered_objects()
        if obj.name.startswith("sphere")
    ]
    try:
        chosen, rooms = viewpoints.choose_viewpoints(found, count, seed=0)
    except viewpoints.NoViewpointError as error:
        result: dict[str, object] = {"refused": str(error)}
    else:
        result = {
            "positions": [view.position for view in chosen],
            "rotations": [view.rotation_euler for view in chosen],
            "rooms": rooms,
            "half_room": spheres_scene.ROOM / 2,
            "clearance": viewpoints.CLEARANCE,
            "eye_height": viewpoints.EYE_HEIGHT,
            "min_distance": viewpoints.MIN_DISTANCE,
            "balls": balls,
        }
    (folder / "viewpoints.json").write_text(json.dumps(result))


def _scatter(name: str, leaf: bpy.types.Object, points: list[tuple[float, ...]]) -> None:
    """An object whose geometry nodes put a copy of `leaf` on each of its vertices."""
    mesh = bpy.data.meshes.new(name)
    mesh.from_pydata(points, [], [])
    owner = bpy.data.objects.new(name, mesh)
    bpy.context.scene.collection.objects.link(owner)
    group = bpy.data.node_groups.new(name, "GeometryNodeTree")
    group.interface.new_socket("Geometry", in_out="INPUT", socket_type="NodeSocketGeometry")
    group.interface.new_socket("Geometry", in_out="OUTPUT", socket_type="NodeSocketGeometry")
    start, end = group.nodes.new("NodeGroupInput"), group.nodes.new("NodeGroupOutput")
    info = group.nodes.new("GeometryNodeObjectInfo")
    info.inputs["Object"].default_value, info.inputs["As Instance"].default_value = leaf, True
    scatter = group.nodes.new("GeometryNodeInstanceOnPoints")
    group.links.new(start.outputs[0], scatter.inputs["Points"])
    group.links.new(info.outputs["Geometry"], scatter.inputs["Instance"])
    group.links.new(scatter.outputs[0], end.inputs[0])
    owner.modifiers.new(name, "NODES").node_group = group


def _empty_scene() -> None:
    bpy.ops.wm.read_factory_settings(use_empty=True)
    add_lamp((0, 0, 0))


def _render(folder: Path) -> None:
    settings = make_settings(
        profile="draft", width=WIDTH, samples=1, passes=("depth", "normal"), generator="spheres"
    )
    found, unknown = instances.number_instances()
    render.configure(settings, threads=2)
    render.render_panorama(CAMERA, settings, folder)
    data = {"instances": [asdict(instance) for instance in found], "unknown": unknown}
    (folder / "scene.json").write_text(json.dumps(data))


SCENES: dict[str, Callable[[Path], None]] = {
    function.__name__: function
    for function in (spheres, many, copies, glass, lit, furnished, empty, crowded, geometry)
}

if __name__ == "__main__":
    SCENES[sys.argv[1]](Path(sys.argv[2]))
