"""Give an order to the loops of InfiniGen v1 that have none, so that a seed decides a scene.

InfiniGen draws random numbers in these loops. Addresses, which differ in every process, order a
set of objects that do not define a hash (classes, functions, vertices of Blender); a file system
orders a folder. Sets of strings and of enumerations are ordered by PYTHONHASHSEED=0. Blender itself
keeps what an extrusion makes in a table that addresses order.
`tests/blender/draws.py` compares two runs draw by draw; it is how such a loop is found.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import bmesh
import bpy
import numpy as np
from infinigen.assets.materials import text
from infinigen.assets.objects.corals import elkhorn
from infinigen.assets.objects.creatures.parts import generic_nurbs
from infinigen.assets.objects.tableware import fruit_container
from infinigen.core.constraints.example_solver import populate
from infinigen.core.constraints.example_solver.room import decorate


class OrderedSet(dict[Any, None]):
    """A set in the order of insertion, with the methods that the loops below need."""

    def __init__(self, items: Iterable[Any] = ()) -> None:
        super().__init__(dict.fromkeys(items))

    def add(self, item: Any) -> None:
        self[item] = None

    def difference(self, other: Iterable[Any]) -> OrderedSet:
        left_out = set(other)
        return OrderedSet(item for item in self if item not in left_out)


EXTRUDING = ("mesh.extrude", "mesh.spin")
"""Operators, or how their names begin, that extrude."""


def fix_iteration_order() -> None:
    """Replace what these modules call `set`, and sort what they list from folders."""
    decorate.set = OrderedSet  # the materials of walls, ceilings and floors
    populate.set = OrderedSet  # objects whose mesh in the solver is replaced
    elkhorn.set = OrderedSet  # vertices of a coral, which take the angle of a neighbour
    fruit_container.subclasses = _kinds_of  # fruits, of which one is drawn
    text.font_names.sort()
    generic_nurbs.NURBS_KEYS.sort()  # parts of creatures
    _order_extrusions()


def _kinds_of(cls: type) -> OrderedSet:
    """Subclasses of a class by name, without the wrappers that InfiniGen makes while it runs."""
    found = OrderedSet(cls.__subclasses__())
    for child in list(found):
        found |= _kinds_of(child)
    named = sorted(found, key=lambda kind: (kind.__module__, kind.__qualname__))
    return OrderedSet(kind for kind in named if "__wrapped__" not in vars(kind))


def _order_extrusions() -> None:
    """Order the faces and edges of a mesh after each extrusion by their vertices."""
    operator: Any = type(bpy.ops.mesh.extrude_edges_move)
    call = operator.__call__
    extruded: list[str] = []

    def ordered_call(self: Any, *args: Any, **options: Any) -> Any:
        result = call(self, *args, **options)
        if self.idname_py().startswith(EXTRUDING):
            mesh = bpy.context.edit_object.data
            sort_by_vertices(bmesh.from_edit_mesh(mesh))
            bmesh.update_edit_mesh(mesh)
            extruded.append(mesh.name)
        elif extruded and bpy.context.mode == "OBJECT":
            for name in extruded:
                if name in bpy.data.meshes:
                    direct_edges(bpy.data.meshes[name])
            extruded.clear()
        return result

    operator.__call__ = ordered_call


def sort_by_vertices(mesh: bmesh.types.BMesh) -> None:
    """Order edges and faces by the sorted numbers of their vertices."""
    mesh.verts.index_update()
    for elements in (mesh.edges, mesh.faces):
        by_vertices = sorted(elements, key=lambda one: sorted(v.index for v in one.verts))
        for index, one in enumerate(by_vertices):
            one.index = index
        elements.sort()


def direct_edges(mesh: bpy.types.Mesh) -> None:
    """Have each edge begin at the vertex with the lower number."""
    ends = np.empty(2 * len(mesh.edges), np.int32)
    mesh.edges.foreach_get("vertices", ends)
    mesh.edges.foreach_set("vertices", np.sort(ends.reshape(-1, 2)).ravel())
    mesh.update()
