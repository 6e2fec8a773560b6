"""Record every random decision of a scene: `python -m tests.blender.draws WHAT SEED OUT [JITTER]`.

Runs one generator (`indoors`, `rooms`, `house`, `spheres`) in this process, or only the materials
of InfiniGen v1's walls, ceilings and floors, a jar and a cup (`surfaces`, seconds). OUT receives
one JSON line per stage: how many random numbers were drawn, and a digest of them, each with the
place in the code that drew it. The last line holds a digest of every object of the scene.
OUT.draws.gz lists all draws, so that `diff` shows where two runs part.

Two runs of one seed must write equal files for every JITTER, which moves the addresses of Python's
objects: they decide the order of a set of objects that do not define a hash.
"""

from __future__ import annotations

import builtins
import gzip
import hashlib
import importlib
import json
import random
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

MAX_ALLOCATED = 2048
"""Bytes of the largest block that `jitter_addresses` allocates; a class takes about 1,000."""

NOT_DRAWS = {"seed", "spawn", "bit_generator", "get_state", "set_state"}
GLOBAL_FUNCTIONS = ("random", "uniform", "randint", "choice", "choices", "sample", "shuffle")
"""Functions of the module `random` that are recorded."""


def jitter_addresses(seed: int) -> None:
    """Make this process allocate at other addresses than a process with another seed.

    The kernel randomises addresses by whole pages only, and a small set is ordered by lower bits.
    """
    rng, kept = random.Random(seed), []
    blocks = [bytes(rng.randrange(1, MAX_ALLOCATED)) for _ in range(200_000)]
    kept.append([block for block in blocks if rng.random() < 0.5])
    del blocks  # which leaves holes of all sizes
    build = builtins.__build_class__

    def build_class(*args: Any, **kwargs: Any) -> Any:
        kept.append([bytes(rng.randrange(1, MAX_ALLOCATED)) for _ in range(rng.randrange(5))])
        return build(*args, **kwargs)

    builtins.__build_class__ = build_class


class Recorder:
    """Digest of the random numbers that were drawn since the stage began."""

    def __init__(self, out: Path) -> None:
        self.out = out.open("w")
        self.log = gzip.open(f"{out}.draws.gz", "wt", compresslevel=1)  # noqa: SIM115
        self.begin("imports")

    def begin(self, stage: str) -> None:
        """Start counting for a stage."""
        print(f"== {stage}", file=self.log)
        self.stage, self.count, self.digest = stage, 0, hashlib.sha256()

    def end(self, **more: Any) -> None:
        """Write the line of the stage; importing is none of the scene's decisions."""
        if self.stage != "imports":
            line = {"stage": self.stage, "draws": self.count, "digest": self.digest.hexdigest()}
            print(json.dumps(line | more), file=self.out, flush=True)

    def recorded(self, draw: Callable[..., Any], name: str, skip: int = 0) -> Callable[..., Any]:
        """Return `draw`, which from now on is recorded; its values follow `skip` arguments."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            result = draw(*args, **kwargs)
            caller = sys._getframe(1)
            path = "/".join(caller.f_code.co_filename.rsplit("/", 3)[1:])
            value = _text_of(args[skip] if name == "shuffle" else result)
            text = f"{name} {path}:{caller.f_lineno} {value}\n"
            self.count += 1
            self.digest.update(text.encode())
            self.log.write(text)
            return result

        return wrapped

    def record_all(self) -> None:
        """Record `random`, NumPy's global functions, and every generator of `default_rng`."""
        for name in GLOBAL_FUNCTIONS:
            setattr(random, name, self.recorded(getattr(random, name), name))
        for name in _draws_of(np.random.RandomState):
            setattr(np.random, name, self.recorded(getattr(np.random, name), name))
        methods = {
            name: self.recorded(getattr(np.random.Generator, name), name, skip=1)
            for name in _draws_of(np.random.Generator)
        }
        recorded = type("Generator", (np.random.Generator,), methods)
        default_rng = np.random.default_rng
        np.random.default_rng = lambda seed=None: recorded(default_rng(seed).bit_generator)


def _draws_of(kind: type) -> list[str]:
    names = [name for name in dir(kind) if name not in NOT_DRAWS and not name.startswith("_")]
    return names if kind is np.random.Generator else [n for n in names if hasattr(np.random, n)]


def _text_of(value: Any) -> str:
    """A drawn value without addresses."""
    if isinstance(value, np.ndarray) and value.dtype != object and value.size > 16:
        return hashlib.sha256(value.tobytes()).hexdigest()[:12]
    if isinstance(value, list | tuple | np.ndarray):
        return f"[{' '.join(map(_text_of, value))}]"
    if isinstance(value, str | bytes | int | float | np.generic | None):
        return repr(value)
    return getattr(value, "__name__", type(value).__name__)


def scene_digests() -> dict[str, str]:
    """Digest of each object by name: its place, its faces, and its materials' values."""
    import bpy

    objects = sorted(bpy.data.objects, key=lambda obj: obj.name)
    return {obj.name: _digest_of(obj) for obj in objects}


def _digest_of(obj: Any) -> str:
    digest = hashlib.sha256(np.array(obj.matrix_world, np.float32).tobytes())
    if obj.type == "MESH":
        vertices = np.empty(len(obj.data.vertices) * 3, np.float32)
        obj.data.vertices.foreach_get("co", vertices)
        corners = np.empty(len(obj.data.loops), np.int32)
        obj.data.loops.foreach_get("vertex_index", corners)
        digest.update(vertices.tobytes() + corners.tobytes())
        for material in obj.data.materials:
            digest.update(_text_of_material(material).encode())
    return digest.hexdigest()[:16]


def _text_of_material(material: Any) -> str:
    if material is None or not material.use_nodes:
        return "none"
    lines = [material.name]
    for node in sorted(material.node_tree.nodes, key=lambda node: node.name):
        for socket in node.inputs:
            value = getattr(socket, "default_value", None)
            value = list(value) if hasattr(value, "__len__") else value
            lines.append(f"{node.name} {socket.name} {value}")
    return "\n".join(lines)


def make_surfaces(seed: int) -> None:
    """Give walls, ceilings and floors of five rooms their materials, by InfiniGen's own code, and
    make two things that are extruded."""
    from pipeline.blender import indoors  # noqa: F401  # which fixes the order of iterations

    import bpy  # isort: skip
    from infinigen.assets.objects.tableware import CupFactory, JarFactory
    from infinigen.core.constraints.example_solver.room import decorate
    from infinigen.core.util import blender as butil

    print("stage: surfaces")
    butil.clear_scene(targets=[bpy.data.objects])
    random.seed(seed)
    np.random.seed(seed)
    planes: dict[str, list[Any]] = {"wall": [], "ceiling": [], "floor": []}
    for kind, made in planes.items():
        for number, room in enumerate(("living-room", "bedroom", "kitchen", "bathroom", "office")):
            bpy.ops.mesh.primitive_plane_add(location=(3 * number, 0, 0))
            bpy.context.object.name = f"{room}_0/0.{kind}"
            made.append(bpy.context.object)
    decorate.room_walls(planes["wall"], types.SimpleNamespace(wall_height=2.7, wall_thickness=0.2))
    decorate.room_ceilings(planes["ceiling"])
    decorate.room_floors(planes["floor"])
    for factory in (JarFactory, CupFactory):
        factory(seed).spawn_asset(seed)


def make_scene(generator: str, seed: int) -> None:
    """Run a generator as the pipeline does."""
    from pipeline.blender.__main__ import MODULES
    from pipeline.run_settings import config_of

    module = importlib.import_module(MODULES[generator])
    with tempfile.TemporaryDirectory() as scratch:
        module.generate(seed, Path(scratch), config_of(generator, "fast"))


def main(what: str, seed: int, out: Path, jitter: int = 0) -> None:
    """Make the scene of a seed and write its decisions."""
    jitter_addresses(jitter)
    recorder = Recorder(out)
    recorder.record_all()
    write = builtins.print

    def watched(*args: Any, **kwargs: Any) -> None:
        if args and str(args[0]).startswith("stage: "):
            recorder.end()
            recorder.begin(str(args[0]).removeprefix("stage: "))
        write(*args, **kwargs)

    builtins.print = watched
    if what == "surfaces":
        make_surfaces(seed)
    else:
        make_scene(what, seed)
    recorder.end(objects=scene_digests())
    recorder.log.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), *map(int, sys.argv[4:5]))
