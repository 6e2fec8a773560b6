"""One InfiniGen v1 Indoors scene, from a seed to a compact .blend, in a fresh process.

InfiniGen's annealing builds the full asset of every proposed object just to measure its box,
deletes it, and builds every accepted object again to populate the scene. Here a factory makes
a few designs per scene, a design is built once, and every object of it is a copy that shares its
mesh. That and leaving out the slowest assets is most of the speed-up; the rest, and whether these
are used, is in `infinigen_configs/indoors_*.gin`. Start Python with PYTHONHASHSEED=0: InfiniGen
iterates over sets of strings, so a seed means the same scene only under the same hash seed.
"""

import logging
from pathlib import Path
from typing import Any

import bpy
import gin
import numpy as np
import threadpoolctl
from infinigen.core import init
from mathutils import Vector

# Otherwise the imports below ask Blender's extension server for add-ons no asset used here needs.
init.require_blender_addon = lambda *_args, **_kwargs: False

import infinigen  # noqa: E402
from infinigen.assets.objects import (  # noqa: E402
    elements,
    rocks,
    seating,
    shelves,
    small_plants,
    tableware,
)
from infinigen.assets.objects.table_decorations import VaseFactory  # noqa: E402
from infinigen.assets.objects.tableware import plant_container  # noqa: E402
from infinigen.assets.scatters import clothes  # noqa: E402
from infinigen.assets.utils import bbox_from_mesh  # noqa: E402
from infinigen.core import execute_tasks, tagging  # noqa: E402
from infinigen.core import tags as t  # noqa: E402
from infinigen.core.constraints import reasoning, usage_lookup  # noqa: E402
from infinigen.core.constraints.example_solver.geometry import (  # noqa: E402
    parse_scene,
    planes,
    stability,
)
from infinigen.core.constraints.example_solver.moves import addition  # noqa: E402
from infinigen.core.util import blender as butil  # noqa: E402
from infinigen.core.util.pipeline import RandomStageExecutor  # noqa: E402
from infinigen_examples.constraints import home  # noqa: E402
from infinigen_examples.generate_indoors import compose_indoors  # noqa: E402

from pipeline.blender.iteration_order import fix_iteration_order  # noqa: E402

fix_iteration_order()  # before any of InfiniGen's code draws a number


class _Design:
    """One asset of one factory: built at most once, placed any number of times."""

    def __init__(self, factory: Any) -> None:
        styles = addition.GLOBAL_GENERATOR_SINGLETON_CACHE  # one style of plate per home, and so on
        self.factory, self.seed = factory, np.random.randint(10**7)
        self.generator = styles.get(factory) or factory(np.random.randint(10**7))
        self.asset: bpy.types.Object | None = None
        if usage_lookup.has_usage(factory, t.Semantics.SingleGenerator):
            styles[factory] = self.generator
        if usage_lookup.has_usage(factory, t.Semantics.RealPlaceholder):
            box = self.generator.spawn_placeholder(self.seed, loc=(0, 0, 0), rot=(0, 0, 0))
        elif usage_lookup.has_usage(factory, t.Semantics.PlaceholderBBox):
            box = bbox_from_mesh.bbox_mesh_from_hipoly(self.generator, self.seed, use_pholder=True)
        else:
            box = bbox_from_mesh.box_from_corners(*self._build())
        parse_scene.preprocess_obj(box)
        tagging.tag_canonical_surfaces(box)
        self.box = _shelve(box)

    def _build(self) -> Any:
        """Builds the asset and returns the two corners of its box."""
        asset = self.factory.spawn_asset(self.generator, self.seed)
        bpy.context.view_layer.update()
        corners = bbox_from_mesh.union_all_bbox(asset)
        self.factory.finalize_assets(self.generator, [asset])
        self.asset = _shelve(asset)
        return corners

    def placeholder(self, seed: int) -> bpy.types.Object:
        """Returns the box that stands for one object of this design while solving."""
        box = _copy(self.box, own_mesh=True)
        box.name = f"{self.generator!r}.bbox_placeholder({seed})"  # InfiniGen reads this name
        butil.put_in_collection(box, "placeholders")
        return box

    def place(self, seed: int, loc: Any, rot: Any) -> bpy.types.Object:
        """Returns one object of this design, in its final place."""
        if self.asset is None:
            self._build()
        # Shelves are edited when they are solved against, counters when a sink is cut into them.
        edited = (t.Semantics.AssetPlaceholderForChildren, t.Semantics.KitchenCounter)
        own_mesh = any(usage_lookup.has_usage(self.factory, usage) for usage in edited)
        obj = _copy(self.asset, own_mesh)
        obj.name = f"{self.generator!r}.spawn_asset({seed})"
        obj.location, obj.rotation_euler = loc, rot
        return obj


def _shelve(root: bpy.types.Object) -> bpy.types.Object:
    """Takes an object tree out of the scene but keeps it, until `_purge`."""
    for obj in butil.iter_object_tree(root):
        butil.unlink(obj)
        obj.use_fake_user = True
    return root


def _copy(root: Any, own_mesh: bool) -> bpy.types.Object:
    """Copies an object tree into the scene, sharing its meshes unless `own_mesh`."""
    new = root.copy()
    new.use_fake_user = False
    if own_mesh and root.data is not None:
        new.data = root.data.copy()
    bpy.context.scene.collection.objects.link(new)
    for child in root.children:
        twin = _copy(child, own_mesh)
        twin.parent, twin.matrix_parent_inverse = new, child.matrix_parent_inverse
        if ".cutter" in child.name:
            twin.name = f"{new.name}.cutter"  # found by the end of its name
    return new


@gin.configurable
class DesignPool:
    """Stands in for InfiniGen's `sample_rand_placeholder`, with few designs per factory.

    Args:
        per_factory: How many designs of one factory a scene may hold. None: InfiniGen's way, a
            new design for every proposal.
        exceptions: Other numbers, by the name of the factory.
    """

    def __init__(
        self, per_factory: int | None = 3, exceptions: dict[str, int] | None = None
    ) -> None:
        self.per_factory, self.exceptions = per_factory, exceptions or {}
        self.designs: dict[type, list[_Design]] = {}
        self.placed: dict[tuple[str, int], _Design] = {}

    def replace_sampling(self) -> None:
        """Makes InfiniGen's solver draw from this pool."""
        if self.per_factory is not None:
            addition.sample_rand_placeholder = self.sample

    def sample(self, factory: Any) -> tuple[bpy.types.Object, Any]:
        """Returns a new placeholder and the generator that will populate it."""
        designs = self.designs.setdefault(factory, [])
        if len(designs) < self.exceptions.get(factory.__name__, self.per_factory or 1):
            designs.append(_Design(factory))
        design, seed = designs[np.random.randint(len(designs))], np.random.randint(10**7)
        name = repr(design.generator)
        self.placed[name, seed] = design
        # What populates the scene now copies, and the design is already finalised.
        design.generator.spawn_asset = lambda i, loc, rot: self.placed[name, i].place(i, loc, rot)
        design.generator.finalize_assets = lambda assets: None
        return design.placeholder(seed), design.generator


@gin.configurable
def use_light_assets(enabled: bool = True) -> None:
    """Leaves out what costs minutes or millions of faces (CPU-seconds and faces measured)."""
    if not enabled:
        return
    # Potted plants: monocots 43 s and 4.2 M, mushrooms 80 s, cacti 16 s and 3.9 M. Their soil alone
    # was 25 s and 0.5 M: one subdivision instead of three.
    subsurf = plant_container.subsurf
    plant_container.subsurf = lambda obj, levels: subsurf(obj, min(levels, 1))
    pots = [small_plants.SucculentFactory, small_plants.SnakePlantFactory]
    tableware.PlantContainerFactory.plant_factories = pots
    tableware.LargePlantContainerFactory.plant_factories = pots[1:]
    # A bed bakes four cloths, 90 to 120 s; a sprung mattress bakes none, the rest settles early.
    seating.BedFactory.mattress_types = "weighted_choice", (1, "coiled")
    cloth_sim = clothes.cloth_sim
    clothes.cloth_sim = lambda cloth, obj=None, end_frame=50, **kwargs: cloth_sim(
        cloth, obj, min(end_frame, 35), quality=2, **kwargs
    )
    # Fruit bowls: 13 s, 9.5 M. Trinkets: creatures, 8 to 30 s, and a rock that needs an add-on.
    heavy = {tableware.FruitContainerFactory, elements.NatureShelfTrinketsFactory}
    shelf = {VaseFactory, tableware.CupFactory, tableware.JarFactory}
    # Closed cabinets as storage: up to 75,000 faces in every collision test of the things on them,
    # and nothing to see inside. Open shelves store; kitchens still hang cabinets.
    closed = {shelves.KitchenCabinetFactory, shelves.SingleCabinetFactory}
    usage, params = home.home_asset_usage, home.sample_home_constraint_params

    def light_usage() -> dict:
        used_as = {tag: factories - heavy for tag, factories in usage().items()}
        used_as[t.Semantics.OfficeShelfItem] |= shelf
        used_as[t.Semantics.Storage] -= closed
        used_as[t.Semantics.AssetPlaceholderForChildren] -= closed
        return used_as

    home.home_asset_usage = light_usage
    # Balloons 60 s; an aquarium 22 s and 3.9 M; a cocktail table bakes a cloth.
    rare = ("has_birthday_balloons", "has_aquarium_tank", "has_cocktail_tables")
    home.sample_home_constraint_params = lambda: params() | dict.fromkeys(rare, False)


def _speed_up_solver() -> None:
    """Same results, less work: caching, and arrays instead of loops over faces."""
    bounds, known = reasoning.constraint_bounds, {}

    def cached_bounds(problem: Any) -> list:
        if id(problem) not in known:
            known[id(problem)] = problem, bounds(problem)  # kept alive, so its id stays its own
        return list(known[id(problem)][1])

    def delete(objs: Any) -> None:
        objs = objs if isinstance(objs, list) else [objs]
        meshes = {o.data for o in objs if o.type == "MESH"}
        bpy.data.batch_remove(objs)
        bpy.data.batch_remove([m for m in meshes if m.users == 0])

    def read(items: Any, name: str, size: int = 1) -> np.ndarray:
        values = np.empty(len(items) * size, int if size == 1 and name != "area" else float)
        items.foreach_get(name, values)
        return values.reshape(-1, size).squeeze()

    def plane_mask(_: Any, obj: Any, faces: np.ndarray, plane: tuple, tol: float) -> np.ndarray:
        corner = read(obj.data.loops, "vertex_index")[read(obj.data.polygons, "loop_start")]
        world = np.array(obj.matrix_world)
        points = read(obj.data.vertices, "co", 3)[corner] @ world[:3, :3].T
        turn = np.array(obj.matrix_world.to_quaternion().to_matrix())
        normals = read(obj.data.polygons, "normal", 3) @ turn.T
        away = points[plane[1]] - points
        away /= np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-8)
        parallel = np.isclose(normals @ normals[plane[1]], 1, atol=tol)
        return faces & parallel & np.isclose((away * normals).sum(1), 0, atol=tol)

    def random_point(state: Any, obj: Any, faces: np.ndarray, plane: tuple) -> Vector:
        inside = np.flatnonzero(state.planes.tagged_plane_mask(obj, faces, plane))
        areas = read(obj.data.polygons, "area")[inside].cumsum()
        face = obj.data.polygons[int(inside[areas.searchsorted(np.random.rand() * areas[-1])])]
        weights = np.random.rand(3)
        corners = [obj.data.vertices[v].co for v in face.vertices[:3]]
        return obj.matrix_world @ Vector(weights / weights.sum() @ np.array(corners))

    reasoning.constraint_bounds, butil.delete = cached_bounds, delete
    planes.Planes._compute_tagged_plane_mask = plane_mask
    stability.random_sample_point = random_point


@gin.configurable
def choose_rooms(state: Any, count: int | None = 3) -> None:
    """Closes all but `count` rooms to furniture, so that the furnished types vary by seed."""
    if count is None:
        return
    types = {"bedroom", "living-room", "kitchen", "bathroom", "dining-room"}
    rooms = sorted(key for key in state.objs if key.split("_")[0] in types)
    chosen = np.random.permutation(rooms)[:count]
    for key, room in state.objs.items():
        if t.Semantics.Room in room.tags and key not in chosen:
            room.tags.add(t.Semantics.NoChildren)
    print(f"furnished rooms: {', '.join(chosen)}", flush=True)


def _avoid_downloads() -> None:
    """Replaces the one asset that needs an add-on which Blender would download."""
    trinkets = elements.NatureShelfTrinketsFactory
    trinkets.factories = [
        rocks.BoulderFactory if factory is rocks.BlenderRockFactory else factory
        for factory in trinkets.factories
    ]


def _hook_stages() -> None:
    """Prints one line at the start of each of InfiniGen's stages, and chooses the rooms."""
    run_stage = RandomStageExecutor.run_stage

    def hooked(self: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        print(f"stage: {name}", flush=True)
        result = run_stage(self, name, *args, **kwargs)
        if name == "solve_rooms":
            choose_rooms(result)
        return result

    RandomStageExecutor.run_stage = hooked


def _purge() -> None:
    """Removes what never renders: templates, placeholders, cutters, cameras, unused data."""
    hidden = {o for c in bpy.data.collections if c.hide_render for o in c.all_objects}
    hidden |= {o for o in bpy.data.objects if o.hide_render or o.use_fake_user}
    hidden |= {o for o in bpy.data.objects if o.type in ("CAMERA", "EMPTY")}
    bpy.context.view_layer.update()
    for obj in set(bpy.data.objects) - hidden:
        if obj.parent in hidden:  # doors and windows hang on the cutters of their openings
            world = obj.matrix_world.copy()
            obj.parent = None
            obj.matrix_world = world
    bpy.data.batch_remove(hidden)
    bpy.ops.outliner.orphans_purge(do_local_ids=True, do_linked_ids=True, do_recursive=True)


def generate(seed: int, scratch: Path, config: Path) -> None:
    """Builds the scene of a seed in this process, self-contained.

    Args:
        seed: The scene; 0 is a seed like any other.
        scratch: A folder for the files InfiniGen leaves behind.
        config: The gin file, one of `infinigen_configs/indoors_*.gin`.
    """
    logging.disable(logging.ERROR)  # failures raise; the rest is thousands of lines
    scene_seed = init.apply_scene_seed(f"{seed:x}")  # it reads seeds as hexadecimal
    gin.add_config_file_search_path(str(infinigen.module_parent_path() / "infinigen_examples"))
    gin.parse_config_files_and_bindings([str(config.resolve())], [f"OVERALL_SEED = {scene_seed}"])
    _hook_stages()
    _avoid_downloads()
    use_light_assets()
    _speed_up_solver()
    DesignPool().replace_sampling()

    init.configure_blender()
    butil.clear_scene(targets=[bpy.data.objects])
    with threadpoolctl.threadpool_limits(1):  # spinning BLAS threads were a quarter of the CPU time
        compose_indoors(scratch, scene_seed)
    execute_tasks.group_collections()

    _purge()
    bpy.ops.file.pack_all()
