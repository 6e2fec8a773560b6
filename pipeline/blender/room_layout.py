"""The room around a viewpoint: name, outline of its floor, height of its ceiling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import bpy
import numpy as np
import shapely
from mathutils import Vector

from pipeline.blender.instances import Instance
from pipeline.blender.surfaces import Surface, surface_of
from pipeline.categories import room_of_floor
from pipeline.geometry import in_polygon

ROOM_TYPE = "sap_room_type"
"""Property of a scene that is a single room: what kind of room the generator made."""

LEVEL = 0.99
"""Least z of a unit normal of the faces that one walks on."""

GAP = 1e-3
"""Metres between faces of one floor that are taken for rounding."""

GRID = 7
"""Rows and columns of the places at which the ceiling's height is looked up."""

MOST_SURFACES = 64
"""Surfaces that a ray to the ceiling passes before it is taken for lost."""


def room_layout(
    instances: Sequence[Instance], position: Sequence[float], floor: str
) -> dict[str, Any] | None:
    """The room that a position is in, as `room` in the schema; None if its outline is unknown.

    Args:
        instances: The scene's instances.
        position: A viewpoint.
        floor: Name of the floor object under it.
    """
    depsgraph = bpy.context.evaluated_depsgraph_get()
    if floor not in bpy.context.scene.objects:
        return None
    surface = surface_of(bpy.context.scene.objects[floor], depsgraph)
    if surface is None:
        return None
    found = floor_outline(surface, position)
    ceilings = {instance.name for instance in instances if instance.category == "ceiling"}
    if found is None:
        return None
    outline, level = found
    tops = [
        top
        for x, y in _grid(outline)
        if (top := _ceiling_above(depsgraph, (x, y, position[2]), ceilings)) is not None
    ]
    if not tops:
        return None
    name, kind = room_of_floor(floor)
    return {
        "name": name,
        "kind": kind or bpy.context.scene.get(ROOM_TYPE),
        "polygon": outline,
        "floor": level,
        "height": round(float(np.median(tops)) - level, 4),
    }


def floor_outline(
    surface: Surface, position: Sequence[float]
) -> tuple[list[list[float]], float] | None:
    """Outline of the floor under a position, and its height; None if it stands on no level face.

    Returns:
        The corners [x, y] in metres, counter-clockwise seen from above, and z.
    """
    corners = surface.vertices[surface.triangles]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    lengths = np.linalg.norm(normals, axis=1)
    # also faces that look down: some floors are a single plane, turned over
    level = (lengths > 0) & (np.abs(normals[:, 2]) > LEVEL * lengths)
    if not level.any():
        return None
    below = corners[level][..., 2].max(axis=1)
    below = below[below < position[2]]
    if not below.size:
        return None
    height = float(below.max())
    top = corners[level & (np.abs(corners[..., 2] - height) < 0.01).all(axis=1)][..., :2]
    parts = shapely.union_all(shapely.buffer(shapely.polygons(top), GAP, join_style="mitre"))
    parts = shapely.buffer(parts, -GAP, join_style="mitre").simplify(GAP)
    here = shapely.Point(position[0], position[1])
    for part in getattr(parts, "geoms", [parts]):
        if part.geom_type == "Polygon" and part.buffer(GAP).contains(here):
            ring = shapely.geometry.polygon.orient(part).exterior.coords[:-1]
            return [[round(x, 4), round(y, 4)] for x, y in ring], round(height, 4)
    return None


def _grid(outline: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    """Places over the complete floor."""
    corners = np.array(outline)
    low, high = corners.min(axis=0), corners.max(axis=0)
    steps = (np.arange(GRID) + 0.5) / GRID
    x, y = np.meshgrid(*(low[:, None] + (high - low)[:, None] * steps))
    places = np.stack([x.ravel(), y.ravel()], axis=1)
    return [tuple(place) for place in places[in_polygon(places, corners)].tolist()]


def _ceiling_above(
    depsgraph: bpy.types.Depsgraph, position: Sequence[float], ceilings: set[str]
) -> float | None:
    """World z of the ceiling above a position, seen through lamps and the like."""
    start = Vector(position)
    for _ in range(MOST_SURFACES):
        hit, place, _, _, obj, _ = bpy.context.scene.ray_cast(depsgraph, start, Vector((0, 0, 1)))
        if not hit:
            return None
        if obj.name in ceilings:
            return float(place.z)
        start = place + Vector((0, 0, 1e-4))
    return None
