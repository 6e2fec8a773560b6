"""A small analytic scene without InfiniGen: coloured spheres in a room, made in a second.

Everything that works on it works on InfiniGen's scenes by the same code, so it serves tests, and
trying out a cluster (`make render GENERATOR=spheres PROFILE=draft`).
"""

from __future__ import annotations

from pathlib import Path

import bpy
import numpy as np

ROOM = 8.0
"""Edge of the square room in metres; it is 3 m high and centred on the origin."""


def generate(seed: int, scratch: Path, config: Path) -> None:
    """Make a room with 8 to 24 spheres on its floor in this (fresh) process."""
    rng = np.random.default_rng(seed)
    print("stage: spheres", flush=True)
    bpy.ops.wm.read_factory_settings(use_empty=True)
    add_room()
    for index in range(int(rng.integers(8, 25))):
        radius = float(rng.uniform(0.15, 0.5))
        distance, angle = rng.uniform(1.6, ROOM / 2 - 0.6), rng.uniform(0, 2 * np.pi)
        centre = (distance * np.cos(angle), distance * np.sin(angle), radius)
        add_sphere(f"sphere_{index:02d}", centre, radius, tuple(rng.uniform(0.05, 0.9, 3)))
    add_lamp((0, 0, 2.6))


def add_room() -> None:
    """Floor, ceiling and four walls, their fronts to the inside."""
    half, height = ROOM / 2, 3.0
    corners = [(-half, -half), (half, -half), (half, half), (-half, half)]
    _add_mesh("room_floor", [(x, y, 0) for x, y in corners], [(0, 1, 2, 3)], (0.5, 0.4, 0.3))
    _add_mesh("room_ceiling", [(x, y, height) for x, y in corners], [(3, 2, 1, 0)], (0.9,) * 3)
    for index in range(4):
        (x0, y0), (x1, y1) = corners[index], corners[(index + 1) % 4]
        vertices = [(x0, y0, 0), (x0, y0, height), (x1, y1, height), (x1, y1, 0)]
        _add_mesh(f"room_wall_{index:02d}", vertices, [(0, 1, 2, 3)], (0.6, 0.65, 0.7))


def add_sphere(
    name: str,
    centre: tuple[float, float, float],
    radius: float,
    colour: tuple[float, ...],
    segments: int = 64,
) -> bpy.types.Object:
    """A sphere mesh, fine enough to be round at 4K."""
    vertices, faces = _sphere(radius, segments)
    mesh = bpy.data.meshes.new(name)
    mesh.from_pydata(vertices, [], faces)
    mesh.materials.append(_material(name, colour))
    mesh.shade_smooth()
    obj = bpy.data.objects.new(name, mesh)
    obj.location = centre
    bpy.context.scene.collection.objects.link(obj)
    return obj


def _sphere(
    radius: float, segments: int
) -> tuple[list[tuple[float, float, float]], list[tuple[int, ...]]]:
    """Vertices and faces of a sphere around the origin, in metres.

    Blender's own primitive orders them otherwise in every process, which changes normals in the
    last bit, and so pixels: a seed must always give the same picture.
    """
    rings = segments // 2
    turn, rise = 2 * np.pi / segments, np.pi / rings
    vertices = [(0.0, 0.0, radius)]
    for i in range(1, rings):
        z, r = radius * np.cos(i * rise), radius * np.sin(i * rise)
        vertices += [(r * np.cos(j * turn), r * np.sin(j * turn), z) for j in range(segments)]
    vertices.append((0.0, 0.0, -radius))
    last = len(vertices) - 1
    faces: list[tuple[int, ...]] = []
    for j in range(segments):
        k = (j + 1) % segments
        faces.append((0, 1 + j, 1 + k))
        for i in range(rings - 2):
            top = 1 + i * segments
            low = top + segments
            faces.append((top + j, low + j, low + k, top + k))
        top = 1 + (rings - 2) * segments
        faces.append((top + j, last, top + k))
    return vertices, faces


def add_lamp(location: tuple[float, float, float]) -> None:
    """A point lamp of 300 W."""
    lamp = bpy.data.objects.new("lamp", bpy.data.lights.new("lamp", "POINT"))
    lamp.data.energy, lamp.data.shadow_soft_size = 300.0, 0.2
    lamp.location = location
    bpy.context.scene.collection.objects.link(lamp)


def _add_mesh(
    name: str,
    vertices: list[tuple[float, float, float]],
    faces: list[tuple[int, ...]],
    colour: tuple[float, ...],
) -> None:
    mesh = bpy.data.meshes.new(name)
    mesh.from_pydata(vertices, [], faces)
    mesh.materials.append(_material(name, colour))
    bpy.context.scene.collection.objects.link(bpy.data.objects.new(name, mesh))


def _material(name: str, colour: tuple[float, ...]) -> bpy.types.Material:
    material = bpy.data.materials.new(name)
    material.use_nodes = True
    material.node_tree.nodes["Principled BSDF"].inputs["Base Color"].default_value = (*colour, 1.0)
    return material
