"""One InfiniGen v1 Indoors scene, from a seed to a compact .blend, in a fresh process.

InfiniGen's annealing builds the full asset for every proposed object just to measure its box,
deletes it, and builds every accepted object a second time when the scene is populated. Here each
factory makes a few designs per scene, each design is built once, and every object of it is a copy
sharing its mesh. Together with the slow assets left out below, that is most of the speed-up; the
rest is `infinigen_configs/indoors.gin`.
"""

import itertools
import logging
from pathlib import Path

import bpy
import gin
import numpy as np
import threadpoolctl  # type: ignore[import-untyped]
from infinigen.core import init

# Importing InfiniGen would otherwise ask Blender's extension server for add-ons that no indoor
# asset used here needs.
init.require_blender_addon = lambda *_args, **_kwargs: False

import infinigen  # noqa: E402
from infinigen.assets.objects import (  # noqa: E402
    elements,
    small_plants,
    table_decorations,
    tableware,
)
from infinigen.assets.objects.seating import BedFactory  # noqa: E402
from infinigen.assets.scatters import clothes  # noqa: E402
from infinigen.assets.utils import bbox_from_mesh  # noqa: E402
from infinigen.core import tagging  # noqa: E402
from infinigen.core import tags as t  # noqa: E402
from infinigen.core.constraints import reasoning, usage_lookup  # noqa: E402
from infinigen.core.constraints.example_solver.geometry import parse_scene  # noqa: E402
from infinigen.core.constraints.example_solver.moves import addition  # noqa: E402
from infinigen.core.constraints.example_solver.state_def import State  # noqa: E402
from infinigen.core.execute_tasks import group_collections  # noqa: E402
from infinigen.core.placement.factory import AssetFactory  # noqa: E402
from infinigen.core.util import blender as butil  # noqa: E402
from infinigen.core.util.pipeline import RandomStageExecutor  # noqa: E402
from infinigen_examples.constraints import home  # noqa: E402
from infinigen_examples.generate_indoors import compose_indoors  # noqa: E402


class _Design:
    """One asset of one factory: built at most once, placed any number of times."""

    def __init__(self, factory: type[AssetFactory]) -> None:
        generators = addition.GLOBAL_GENERATOR_SINGLETON_CACHE  # one style of plate per home, etc.
        generator = generators.get(factory) or factory(np.random.randint(10**7))
        if usage_lookup.has_usage(factory, t.Semantics.SingleGenerator):
            generators[factory] = generator
        self.factory, self.generator = factory, generator
        self.seed = np.random.randint(10**7)
        self.asset: bpy.types.Object | None = None
        if usage_lookup.has_usage(factory, t.Semantics.RealPlaceholder):
            box = generator.spawn_placeholder(self.seed, loc=(0, 0, 0), rot=(0, 0, 0))
        elif usage_lookup.has_usage(factory, t.Semantics.PlaceholderBBox):
            box = bbox_from_mesh.bbox_mesh_from_hipoly(generator, self.seed, use_pholder=True)
        else:
            self._build()
            box = bbox_from_mesh.box_from_corners(*self.bounds)
        parse_scene.preprocess_obj(box)
        tagging.tag_canonical_surfaces(box)
        self.box = _shelve(box)

    def _build(self) -> None:
        asset = self.factory.spawn_asset(self.generator, self.seed)
        bpy.context.view_layer.update()
        self.bounds = bbox_from_mesh.union_all_bbox(asset)
        self.factory.finalize_assets(self.generator, [asset])
        self.asset = _shelve(asset)

    def placeholder(self, seed: int) -> bpy.types.Object:
        """Returns the box that stands for one object of this design while solving."""
        box = _copy(self.box, own_mesh=True)
        box.name = f"{self.generator!r}.bbox_placeholder({seed})"  # the solver parses the name
        return butil.put_in_collection(box, "placeholders") and box

    def place(self, seed: int, loc, rot) -> bpy.types.Object:
        """Returns one object of this design, in its final place."""
        if self.asset is None:
            self._build()
        # Support furniture is solved against, and cut, mesh by mesh: it needs its own.
        own = usage_lookup.has_usage(self.factory, t.Semantics.AssetPlaceholderForChildren)
        obj = _copy(self.asset, own)
        obj.name = f"{self.generator!r}.spawn_asset({seed})"
        obj.location, obj.rotation_euler = loc, rot
        return obj


def _shelve(root: bpy.types.Object) -> bpy.types.Object:
    """Takes an object tree out of the scene but keeps it alive."""
    for obj in butil.iter_object_tree(root):
        butil.unlink(obj)
        obj.use_fake_user = True
    return root


def _copy(root: bpy.types.Object, own_mesh: bool) -> bpy.types.Object:
    """Copies an object tree into the scene, sharing its meshes unless told otherwise."""
    new = root.copy()
    new.use_fake_user = False
    if own_mesh and root.data is not None:
        new.data = root.data.copy()
    bpy.context.scene.collection.objects.link(new)
    for child in root.children:
        twin = _copy(child, own_mesh)
        twin.parent, twin.matrix_parent_inverse = new, child.matrix_parent_inverse
        if child.name.endswith(".cutter"):
            child.name += "_template"
            twin.name = child.name.removesuffix("_template")  # populate looks for the suffix
    return new


@gin.configurable
class DesignPool:
    """Stands in for `sample_rand_placeholder`: at most a few designs per factory and scene.

    Args:
        per_factory: How many designs of one factory a scene may hold.
        exceptions: Other numbers, by the name of the factory.
    """

    def __init__(self, per_factory: int = 3, exceptions: dict[str, int] | None = None) -> None:
        self.per_factory, self.exceptions = per_factory, exceptions or {}
        self.designs: dict[type, list[_Design]] = {}
        self.placed: dict[tuple[str, int], _Design] = {}

    def sample(self, factory: type[AssetFactory]) -> tuple[bpy.types.Object, AssetFactory]:
        """Returns a new placeholder and the generator that will populate it."""
        designs = self.designs.setdefault(factory, [])
        if len(designs) < self.exceptions.get(factory.__name__, self.per_factory):
            designs.append(_Design(factory))
            self._redirect(designs[-1].generator)
        design = designs[np.random.randint(len(designs))]
        seed = np.random.randint(10**7)
        self.placed[repr(design.generator), seed] = design
        return design.placeholder(seed), design.generator

    def _redirect(self, generator: AssetFactory) -> None:
        """Makes a generator place copies of its designs instead of building assets."""
        name = repr(generator)
        generator.spawn_asset = lambda i, loc, rot: self.placed[name, i].place(i, loc, rot)
        generator.finalize_assets = lambda assets: None  # done to the design

    def clear(self) -> None:
        """Removes the templates; the copies in the scene keep the meshes."""
        designs = itertools.chain.from_iterable(self.designs.values())
        roots = [root for d in designs for root in (d.asset, d.box) if root]
        bpy.data.batch_remove([o for r in roots for o in butil.iter_object_tree(r)])


def _lighten_assets() -> None:
    """Leaves out what costs a minute, millions of faces or an add-on (CPU-s and faces measured)."""
    # Potted plants: monocots 43 s and 4.2 M, mushrooms 80 s, cacti 16 s and 3.9 M.
    small = [small_plants.SucculentFactory, small_plants.SnakePlantFactory]
    tableware.PlantContainerFactory.plant_factories = small
    tableware.LargePlantContainerFactory.plant_factories = small[1:]
    # A bed baked four cloths, 90 to 120 s; the sprung mattress needs none, the others settle early.
    BedFactory.mattress_types = "weighted_choice", (1, "coiled")
    cloth_sim = clothes.cloth_sim
    clothes.cloth_sim = lambda cloth, obj=None, end_frame=50, **kwargs: cloth_sim(
        cloth, obj, min(end_frame, 20), **kwargs, quality=3
    )
    # Fruit bowls: 10 s, up to 9.5 M. Shells, creatures and rocks: 8 to 30 s, 0.5 M, and one kind of
    # rock fails without an add-on; light things take their place on shelves.
    heavy = {tableware.FruitContainerFactory, elements.NatureShelfTrinketsFactory}
    shelf = {table_decorations.VaseFactory, tableware.CupFactory, tableware.JarFactory}
    usage = home.home_asset_usage

    def light_usage():
        used_as = {tag: factories - heavy for tag, factories in usage().items()}
        used_as[t.Semantics.OfficeShelfItem] |= shelf
        return used_as

    home.home_asset_usage = light_usage
    # Balloons 60 s; an aquarium 22 s and 3.9 M; a cocktail table bakes its own cloth.
    sample = home.sample_home_constraint_params
    rare = ("has_birthday_balloons", "has_aquarium_tank", "has_cocktail_tables")
    home.sample_home_constraint_params = lambda: sample() | dict.fromkeys(rare, False)


def _speed_up_solver() -> None:
    """Same results, less work: bounds computed once per problem, deletion without operators."""
    bounds, cache = reasoning.constraint_bounds, {}

    def cached_bounds(node, state=None):
        if state is not None:
            return bounds(node, state)
        if id(node) not in cache:
            cache[id(node)] = node, bounds(node)  # holding the node keeps its id its own
        return list(cache[id(node)][1])

    def delete(objs):
        objs = list(objs) if isinstance(objs, list) else [objs]
        meshes = {o.data for o in objs if o.type == "MESH"}
        bpy.data.batch_remove(objs)
        bpy.data.batch_remove([m for m in meshes if m.users == 0])

    reasoning.constraint_bounds = cached_bounds
    butil.delete = delete


@gin.configurable
def choose_rooms(state: State, count: int = 2) -> None:
    """Closes all but a few rooms to furniture, so that which types are furnished varies by seed."""
    supported = {"bedroom", "living-room", "kitchen", "bathroom", "dining-room"}
    rooms = sorted(k for k in state.objs if k.split("_")[0] in supported)
    chosen = np.random.permutation(rooms)[:count]
    for key in state.objs:
        if t.Semantics.Room in state.objs[key].tags and key not in chosen:
            state.objs[key].tags.add(t.Semantics.NoChildren)
    print(f"furnished rooms: {', '.join(sorted(chosen))}", flush=True)


def _hook_stages() -> None:
    """Prints one line at the start of each of InfiniGen's stages, and chooses the rooms."""
    run_stage = RandomStageExecutor.run_stage

    def hooked(self, name, fn, *args, **kwargs):
        print(f"stage: {name}", flush=True)
        result = run_stage(self, name, fn, *args, **kwargs)
        if name == "solve_rooms":
            choose_rooms(result)
        return result

    RandomStageExecutor.run_stage = hooked


def _purge() -> None:
    """Removes what never renders: placeholders, cutters, pinhole cameras, unused data."""
    hidden = {o for c in bpy.data.collections if c.hide_render for o in c.all_objects}
    hidden |= {o for o in bpy.data.objects if o.hide_render or o.type == "CAMERA"}
    hidden |= {o for o in bpy.data.objects if o.type == "EMPTY" and set(o.children) <= hidden}
    bpy.context.view_layer.update()
    for obj in set(bpy.data.objects) - hidden:
        if obj.parent in hidden:  # doors and windows hang on the cutters of their openings
            world = obj.matrix_world.copy()
            obj.parent = None
            obj.matrix_world = world
    bpy.data.batch_remove(hidden)
    bpy.ops.outliner.orphans_purge(do_local_ids=True, do_linked_ids=True, do_recursive=True)


def generate(seed: int, blend_path: Path, scratch: Path, config: Path) -> None:
    """Builds the scene of a seed in this process and saves it.

    Args:
        seed: The scene; 0 is a seed like any other.
        blend_path: The .blend to write, self-contained and compressed.
        scratch: A folder for the files InfiniGen leaves behind.
        config: The gin file, e.g. `infinigen_configs/indoors.gin`.
    """
    logging.disable(logging.ERROR)  # it tells errors from failures by raising
    for folder in (scratch, blend_path.parent):
        folder.mkdir(parents=True, exist_ok=True)
    scene_seed = init.apply_scene_seed(f"{seed:x}")  # it reads seeds as hexadecimal
    gin.add_config_file_search_path(str(infinigen.module_parent_path() / "infinigen_examples"))
    gin.parse_config_files_and_bindings(
        [str(config.resolve())], [f"OVERALL_SEED = {scene_seed}"], skip_unknown=True
    )
    _hook_stages()
    _lighten_assets()
    _speed_up_solver()
    pool = DesignPool()
    addition.sample_rand_placeholder = pool.sample

    init.configure_blender()
    butil.clear_scene(targets=[bpy.data.objects])
    with threadpoolctl.threadpool_limits(1):  # 4x4 inverses on every core: a fifth of the CPU time
        compose_indoors(scratch, scene_seed)
    group_collections()

    print("stage: save", flush=True)
    pool.clear()
    _purge()
    bpy.ops.file.pack_all()
    bpy.ops.wm.save_as_mainfile(filepath=str(blend_path.resolve()), compress=True)
