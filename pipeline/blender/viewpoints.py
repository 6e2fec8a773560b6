"""Where to put the panorama camera: free space of furnished rooms, at eye height.

Both InfiniGen generators place a camera for a pinhole view, in a corner, and test clearance only
inside that view. A panorama looks everywhere, so a viewpoint must be free in every direction of
the sphere, inside a room, and see many instances. A place where one wall fills a quarter of the
sphere is only chosen where there is no better one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import bpy
import numpy as np
from mathutils import Vector
from mathutils.bvhtree import BVHTree

from pipeline.blender.instances import Instance, rendered_objects
from pipeline.categories import FIXTURES

EYE_HEIGHT = (1.0, 1.8)
"""Metres above the floor."""

CLEARANCE = 0.35
"""Nothing is closer than this to a viewpoint, in metres, in any direction."""

MIN_DISTANCE = 0.8
"""Two viewpoints of one scene are at least this far apart, in metres."""

CANDIDATES = 600
"""Floor points tried per scene."""

SCORED = 48
"""Free positions whose view is looked at with all rays."""

RAYS = 2000
"""Directions in which a candidate looks: one per 20 square degrees."""

MIN_FURNITURE = 5
"""A room is furnished from this many objects on (without its shell, windows, doors, lamps), and
a place that sees fewer of them is not worth a render."""

MAX_ESCAPED = 0.25
"""Largest share of rays that meet nothing; more means outdoors, or a missing ceiling."""

MAX_BACKFACING = 0.2
"""Largest share of rays that meet a surface of the shell from behind: between walls, or outside."""


MAX_SURFACE = 0.25
"""Share of the sphere that one surface (floor and ceiling aside) should not exceed."""

SURFACE_STEP = 0.1
"""Points of a wall belong to one surface if their planes differ by less: metres, and parts of a
unit normal."""

FURNITURE_DISTANCE = (1.0, 4.0)
"""Metres from which furniture shows best: complete, and not small."""

FURNITURE_SHARE = 0.004
"""Share of the sphere from which an object is well seen: about that of a medium mask."""

OPEN_SPACE = "none"
"""Name of the room of a viewpoint without a floor below."""

WELL_SEEN_WEIGHT = 2
"""How many other instances a well seen piece of furniture is worth, besides itself."""


@dataclass(frozen=True)
class View:
    """What a position sees, by rays (so small instances may be missing).

    Attributes:
        visible: Ids of the instances, without the building's shell.
        well_seen: Those of them that are furniture of a good size at a good distance.
        largest_surface: Share of the sphere that the largest surface fills, in 0 to 1: one plane
            of the shell or one object, floors and ceilings aside.
    """

    visible: frozenset[int]
    well_seen: frozenset[int]
    largest_surface: float


@dataclass(frozen=True)
class Viewpoint:
    """A place for the panorama camera.

    Attributes:
        position: x, y, z in metres, world axes.
        yaw: Heading of the image centre in radians, counter-clockwise from +Y seen from above.
        room: Name of the floor under it.
        view: What it sees.
    """

    position: tuple[float, float, float]
    yaw: float
    room: str
    view: View

    @property
    def rotation_euler(self) -> tuple[float, float, float]:
        """Camera rotation, XYZ Euler angles in radians: the horizon is level."""
        return (float(np.pi / 2), 0.0, self.yaw)


class NoViewpointError(Exception):
    """No place in the scene is fit for a panorama; the message says why."""


def choose_viewpoints(
    instances: Sequence[Instance], count: int, seed: int, anywhere: bool = False
) -> tuple[list[Viewpoint], list[str]]:
    """Choose up to `count` viewpoints of the current scene.

    The first one sees the most, each further one adds the most that was not seen yet and keeps
    `MIN_DISTANCE` to the others; all of them, if possible, without a surface that fills more than
    `MAX_SURFACE` of the sphere. Fewer are returned where a scene has no more.

    Args:
        instances: The scene's instances.
        count: How many are wanted.
        seed: Decides between equally good ones.
        anywhere: Also in scenes without furnished rooms: at eye height above a floor, else
            anywhere within the scene's middle half, wherever an object is seen.

    Returns:
        The viewpoints, and the names of the scene's furnished rooms.

    Raises:
        NoViewpointError: There is no fit place at all.
    """
    rng = np.random.default_rng([seed, 360])
    space = _Space(instances)
    if anywhere and not space.furnished_floors():
        return _greedy(list(_free_views(space, rng)), count, require=True), []
    furnished = space.furnished_floors()
    free: list[tuple[Vector, str]] = []
    refused = {"no free floor below": 0, "too close to something": 0}
    for x, y, height in _floor_points(space, furnished, rng):
        room, floor_z = space.floor_below(Vector((x, y, space.top)))
        position = Vector((x, y, floor_z + height))
        if room is None or not space.stands_on_floor(position):
            refused["no free floor below"] += 1
            continue
        if space.nearest(position) < CLEARANCE:
            refused["too close to something"] += 1
            continue
        free.append((position, room))
        if len(free) == SCORED:
            break
    views = []
    refused |= {"outside or between walls": 0, "sees too little furniture": 0}
    for position, room in free:
        view = space.look(position)
        if view is None:
            refused["outside or between walls"] += 1
        elif len(view.visible & space.furniture) < MIN_FURNITURE:
            refused["sees too little furniture"] += 1
        else:
            yaw = float(rng.uniform(-np.pi, np.pi))
            views.append(Viewpoint(tuple(position), yaw, room, view))
    chosen = _greedy(views, count)
    if not chosen:
        reasons = ", ".join(f"{number} × {reason}" for reason, number in refused.items() if number)
        raise NoViewpointError(f"no viewpoint for a panorama: {reasons or 'no furnished room'}")
    return chosen, sorted(furnished)


def _free_views(space: _Space, rng: np.random.Generator) -> Iterator[Viewpoint]:
    """Free places in a scene that is no furnished room, each of which sees an object."""
    if not space.boxes:
        return
    corners = np.array([corner for box in space.boxes.values() for corner in box])
    low, high = corners.min(axis=0), corners.max(axis=0)
    found = 0
    for share in rng.uniform(0.25, 0.75, (CANDIDATES, 3)):
        position = Vector(low + share * (high - low))
        room, floor_z = space.floor_below(Vector((position.x, position.y, space.top)))
        if room is not None:
            position.z = floor_z + float(rng.uniform(*EYE_HEIGHT))
        if space.nearest(position) < CLEARANCE:
            continue
        view = space.look(position, closed=False)
        if view is None or not view.visible:
            continue
        yaw = float(rng.uniform(-np.pi, np.pi))
        yield Viewpoint(tuple(position), yaw, room or OPEN_SPACE, view)
        found += 1
        if found == SCORED:
            return


def _greedy(views: list[Viewpoint], count: int, require: bool = False) -> list[Viewpoint]:
    if require and not views:
        raise NoViewpointError(
            "no viewpoint for a panorama: no free place from which an object is seen"
        )
    chosen: list[Viewpoint] = []
    visible: frozenset[int] = frozenset()
    well_seen: frozenset[int] = frozenset()

    def rank(viewpoint: Viewpoint) -> tuple[float, int, int]:
        view = viewpoint.view
        excess = max(0.0, view.largest_surface - MAX_SURFACE)
        new = len(view.visible - visible)
        new += WELL_SEEN_WEIGHT * len(view.well_seen - well_seen)
        return -round(excess, 2), new, len(view.visible)

    while len(chosen) < count:
        apart = [
            viewpoint
            for viewpoint in views
            if all(
                np.linalg.norm(np.subtract(viewpoint.position, other.position)) >= MIN_DISTANCE
                for other in chosen
            )
        ]
        if not apart:
            break
        chosen.append(max(apart, key=rank))
        visible |= chosen[-1].view.visible
        well_seen |= chosen[-1].view.well_seen
    return chosen


class _Space:
    """The scene as rays and distances see it."""

    def __init__(self, instances: Sequence[Instance]) -> None:
        self.depsgraph = bpy.context.evaluated_depsgraph_get()
        self.scene = bpy.context.scene
        self.instance_of = {instance.name: instance for instance in instances}
        self.objects = list(rendered_objects())
        self.furniture = {
            instance.id
            for instance in instances
            if not instance.is_structure and instance.category not in FIXTURES
        }
        self.boxes = {obj.name: _world_box(obj) for obj in self.objects}
        self.trees: dict[str, _Tree] = {}
        self.floors = [
            obj for obj in self.objects if self.instance_of[obj.name].category == "floor"
        ]
        self.top = max((self.boxes[floor.name][1][2] for floor in self.floors), default=0.0) + 2.0
        golden = np.arange(RAYS) + 0.5
        z, angle = 1 - 2 * golden / RAYS, np.pi * (1 + 5**0.5) * golden
        ring = np.sqrt(1 - z * z)
        self.directions = [
            Vector(v) for v in np.stack([ring * np.cos(angle), ring * np.sin(angle), z], axis=1)
        ]

    def furnished_floors(self) -> dict[str, int]:
        """Floors of furnished rooms, and how much furniture stands, lies or hangs over each."""
        counts: Counter[str] = Counter()
        for obj in self.objects:
            if self.instance_of[obj.name].id in self.furniture:
                floor, _ = self.floor_below(Vector(np.mean(self.boxes[obj.name], axis=0)))
                if floor is not None:
                    counts[floor] += 1
        return {name: counts[name] for name in sorted(counts) if counts[name] >= MIN_FURNITURE}

    def floor_below(self, start: Vector) -> tuple[str | None, float]:
        """Name and height of the floor under a point, looking through everything above it."""
        best: tuple[str | None, float] = (None, -np.inf)
        for floor in self.floors:
            low, high = self.boxes[floor.name]
            if low[0] <= start.x <= high[0] and low[1] <= start.y <= high[1]:
                height = self._tree(floor).height_below(start)
                if height > best[1]:
                    best = (floor.name, height)
        return best

    def stands_on_floor(self, position: Vector) -> bool:
        """Whether a person could stand here: floor or rug below, not a bed or a table."""
        hit, *_, obj, _ = self.scene.ray_cast(self.depsgraph, position, Vector((0, 0, -1)))
        return hit and self.instance_of[obj.name].category in ("floor", "rug")

    def nearest(self, position: Vector) -> float:
        """Distance in metres to the nearest rendered surface (at least `CLEARANCE` if far)."""
        nearest = np.inf
        point = np.array(position)
        for obj in self.objects:
            low, high = self.boxes[obj.name]
            gap = np.linalg.norm(np.maximum(0, np.maximum(low - point, point - high)))
            if gap < min(nearest, CLEARANCE):
                nearest = min(nearest, self._tree(obj).distance(position))
        return nearest

    def look(self, position: Vector, closed: bool = True) -> View | None:
        """What a position sees; None outside of a room, unless the scene need not be one."""
        escaped = behind = 0
        surfaces: Counter[tuple[int, ...]] = Counter()
        distances: dict[int, list[float]] = {}
        for direction in self.directions:
            hit, point, normal, _, obj, _ = self.scene.ray_cast(self.depsgraph, position, direction)
            if not hit:
                escaped += 1
                continue
            instance = self.instance_of.get(obj.name)
            if instance is None:
                continue
            if not instance.is_structure:
                surfaces[(instance.id,)] += 1
                distances.setdefault(instance.id, []).append((point - position).length)
                continue
            behind += normal.dot(direction) > 0
            if instance.category not in ("floor", "ceiling"):
                plane = *normal, normal.dot(point)
                surfaces[(instance.id, *(round(part / SURFACE_STEP) for part in plane))] += 1
        if closed and (escaped > MAX_ESCAPED * RAYS or behind > MAX_BACKFACING * RAYS):
            return None
        if self._inside_an_object(position):
            return None
        nearest, farthest = FURNITURE_DISTANCE
        well_seen = {
            found
            for found, lengths in distances.items()
            if found in self.furniture
            and len(lengths) >= FURNITURE_SHARE * RAYS
            and nearest <= np.mean(lengths) <= farthest
        }
        largest = max(surfaces.values(), default=0) / RAYS
        return View(frozenset(distances), frozenset(well_seen), largest)

    def _inside_an_object(self, position: Vector) -> bool:
        """Whether all four level ways out of a position first meet the back of an object."""
        for direction in ((1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0)):
            hit, _, normal, _, obj, _ = self.scene.ray_cast(
                self.depsgraph, position, Vector(direction)
            )
            instance = self.instance_of.get(obj.name) if hit else None
            if instance is None or instance.is_structure or normal.dot(Vector(direction)) <= 0:
                return False
        return True

    def _tree(self, obj: bpy.types.Object) -> _Tree:
        """Search tree of an object, kept for the next question."""
        if obj.name not in self.trees:
            self.trees[obj.name] = _Tree(obj, self.depsgraph)
        return self.trees[obj.name]


class _Tree:
    """Triangles of one object in its own coordinates, asked in world coordinates."""

    def __init__(self, obj: bpy.types.Object, depsgraph: bpy.types.Depsgraph) -> None:
        self.to_world = obj.matrix_world.copy()
        self.to_local = self.to_world.inverted_safe()
        # A distance in the object's coordinates times the smallest scale is never more than the
        # distance in the world, so unevenly scaled objects err on the side of clearance.
        self.scale = float(np.linalg.svd(np.array(self.to_world)[:3, :3], compute_uv=False)[-1])
        evaluated = obj.evaluated_get(depsgraph)
        mesh = evaluated.to_mesh()
        empty = mesh is None or not len(mesh.polygons)
        evaluated.to_mesh_clear()
        self.tree = None if empty or self.scale == 0 else BVHTree.FromObject(obj, depsgraph)

    def distance(self, position: Vector) -> float:
        """Metres from a point to the surface, or a little less; infinite for an empty mesh."""
        if self.tree is None:
            return np.inf
        found = self.tree.find_nearest(self.to_local @ position)
        return np.inf if found[3] is None else found[3] * self.scale

    def height_below(self, start: Vector) -> float:
        """World z of the first surface below a point; minus infinity if there is none."""
        if self.tree is None:
            return -np.inf
        down = (self.to_local.to_3x3() @ Vector((0, 0, -1))).normalized()
        hit = self.tree.ray_cast(self.to_local @ start, down)[0]
        return -np.inf if hit is None else (self.to_world @ hit).z


def _floor_points(
    space: _Space, furnished: dict[str, int], rng: np.random.Generator
) -> list[tuple[float, float, float]]:
    """Random x, y over the floors of furnished rooms, and heights above them, in metres.

    A room is drawn as often as it has furniture.
    """
    if not furnished:
        return []
    names, counts = list(furnished), np.array(list(furnished.values()))
    points = []
    for name in rng.choice(names, size=CANDIDATES, p=counts / counts.sum()):
        low, high = (corner[:2] for corner in space.boxes[str(name)])
        low = low + CLEARANCE
        x, y = rng.uniform(low, np.maximum(high - CLEARANCE, low))
        points.append((float(x), float(y), float(rng.uniform(*EYE_HEIGHT))))
    return points


def _world_box(obj: bpy.types.Object) -> tuple[np.ndarray, np.ndarray]:
    corners = np.array([obj.matrix_world @ Vector(corner) for corner in obj.bound_box])
    return corners.min(axis=0), corners.max(axis=0)
