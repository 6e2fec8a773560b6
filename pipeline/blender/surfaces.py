"""Where the objects of a scene are, and how much of each a viewpoint sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import bpy
import numpy as np
from mathutils import Vector

from pipeline.blender.instances import Instance
from pipeline.geometry import UprightBox, upright_box
from pipeline.shards.schema import SEEN_POINTS

HIT_DISTANCE = 1e-3
"""A ray sees a point if it ends this close to it: metres, and parts of the distance."""

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Surface:
    """The surface of an object in world axes.

    Attributes:
        vertices: (N, 3) metres.
        triangles: (M, 3) indices of vertices.
    """

    vertices: Array
    triangles: Array

    def points(self, count: int, rng: np.random.Generator) -> Array:
        """Points (count, 3) evenly over the area; empty for a surface without area."""
        corners = self.vertices[self.triangles]
        edges = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
        areas = np.linalg.norm(np.cross(*edges), axis=1)
        total = areas.sum()
        if not total > 0:
            return np.zeros((0, 3))
        places = (np.arange(count) + rng.random(count)) / count * total  # one in each equal part
        chosen = np.searchsorted(np.cumsum(areas), places).clip(0, len(areas) - 1)
        a, b = rng.random((2, count, 1))
        a, b = np.where(a + b > 1, 1 - a, a), np.where(a + b > 1, 1 - b, b)
        return corners[chosen, 0] + a * edges[0][chosen] + b * edges[1][chosen]


def surface_of(obj: bpy.types.Object, depsgraph: bpy.types.Depsgraph) -> Surface | None:
    """The surface of an object with its modifiers; None if it has no triangles."""
    evaluated = obj.evaluated_get(depsgraph)
    mesh = evaluated.to_mesh()
    try:
        if mesh is None:
            return None
        mesh.calc_loop_triangles()
        vertices = np.empty(3 * len(mesh.vertices), np.float32)
        triangles = np.empty(3 * len(mesh.loop_triangles), np.int32)
        if not len(triangles):
            return None
        mesh.vertices.foreach_get("co", vertices)
        mesh.loop_triangles.foreach_get("vertices", triangles)
    finally:
        evaluated.to_mesh_clear()
    matrix = np.array(obj.matrix_world, np.float64)
    world = vertices.reshape(-1, 3).astype(np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
    return Surface(world, triangles.reshape(-1, 3))


def measure_surfaces(
    instances: Sequence[Instance], positions: Sequence[Sequence[float]], seed: int
) -> tuple[dict[int, UprightBox], list[dict[int, float]]]:
    """The box of each instance of the current scene, and what each position sees of it.

    Args:
        instances: The scene's instances.
        positions: Where panoramas are taken.
        seed: Decides which points of the surfaces are looked at.

    Returns:
        boxes: Box by instance id.
        seen: For each position, the share in 0 to 1 of an instance's surface that it sees, by
            id: of `SEEN_POINTS` points, those that a ray reaches. Instances without a surface,
            such as hair, have none.
    """
    depsgraph = bpy.context.evaluated_depsgraph_get()
    boxes: dict[int, UprightBox] = {}
    seen: list[dict[int, float]] = [{} for _ in positions]
    for instance in instances:
        obj = bpy.context.scene.objects[instance.name]
        surface = surface_of(obj, depsgraph)
        if surface is None:
            corners = [obj.matrix_world @ Vector(corner) for corner in obj.bound_box]
            boxes[instance.id] = upright_box(corners)
            continue
        boxes[instance.id] = upright_box(surface.vertices[np.unique(surface.triangles)])
        points = surface.points(SEEN_POINTS, np.random.default_rng([seed, instance.id]))
        for position, shares in zip(positions, seen, strict=True):
            if len(points):
                hits = sum(_sees(depsgraph, position, point, instance.name) for point in points)
                shares[instance.id] = hits / SEEN_POINTS
    return boxes, seen


def _sees(
    depsgraph: bpy.types.Depsgraph, position: Sequence[float], point: Array, name: str
) -> bool:
    """Whether a ray from a position reaches a point of the object `name` first."""
    start = Vector(position)
    way = Vector(point) - start
    reach = way.length * (1 + HIT_DISTANCE) + HIT_DISTANCE
    hit, place, _, _, obj, _ = bpy.context.scene.ray_cast(depsgraph, start, way, distance=reach)
    return hit and obj.name == name and (place - start).length > 2 * way.length - reach
