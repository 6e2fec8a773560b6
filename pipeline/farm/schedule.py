"""What a scene needs next, by its files, and what may start now, by counting. No I/O but stat."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.outputs import SceneFolder, read_json

FINISH = "finish"  # every panorama is annotated, only done.json is missing


@dataclass(frozen=True)
class Slots:
    """What the cluster has for us.

    Attributes:
        cpus: CPUs of all nodes.
        gpus: GPUs of all nodes; renders run there if `render_on_gpu`.
        render_cpus: CPUs that one render takes; 1 beside a GPU.
        nodes: CPUs of each node, for a render must fit on one; () for a single node.
    """

    cpus: int
    gpus: int = 0
    render_cpus: int = 1
    render_on_gpu: bool = False
    nodes: tuple[int, ...] = ()

    @property
    def renders(self) -> int:
        """Renders that can run at once."""
        if self.render_on_gpu:
            return self.gpus
        return max(1, sum(cpus // self.render_cpus for cpus in self.nodes or (self.cpus,)))

    @property
    def generators(self) -> int:
        """Scenes that may be generated at once.

        A GPU's render must find a CPU beside it, so one for each GPU is kept free of generators;
        half of the CPUs at most, for without scenes the GPUs have nothing to do.
        """
        return self.cpus - (min(self.gpus, self.cpus // 2) if self.render_on_gpu else 0)

    @property
    def max_ahead(self) -> int:
        """Scenes generating or waiting for a render, at most: bounds the disk for scene files.

        Generating ones are part of the count, so that a slow renderer lowers the number of
        generators step by step; a limit on the waiting ones alone would swing between all
        generators and none.
        """
        return self.cpus + self.renders + 1

    def cpus_of(self, stage: str) -> int:
        return self.render_cpus if stage == "render" else 1


def choose(ready: Mapping[str, int], running: Mapping[str, int], slots: Slots) -> str | None:
    """The stage to start next; None to wait.

    Later stages go first: they free disk, and finish scenes. Nothing is ever handed to Ray
    that cannot start, because Ray would let single-CPU generators overtake a render that waits for
    several CPUs for ever.

    Args:
        ready: Scenes that could start, by stage.
        running: Scenes at work, by stage.
        slots: What the cluster has.

    Example:
        >>> choose({"generate": 5, "render": 1}, {"generate": 1}, Slots(cpus=2, render_cpus=2))

        >>> choose({"generate": 5, "render": 1}, {}, Slots(cpus=2, render_cpus=2))
        'render'
    """
    free = slots.cpus - sum(count * slots.cpus_of(stage) for stage, count in running.items())
    # A GPU must not wait for the CPU that an annotation took; without one, finishing goes first.
    order = ("render", "annotate") if slots.render_on_gpu else ("annotate", "render")
    for stage in order:
        fits = stage != "render" or running.get("render", 0) < slots.renders
        if ready.get(stage) and fits:
            return stage if free >= slots.cpus_of(stage) else None
    generating = running.get("generate", 0)
    has_slot = free >= 1 and generating < slots.generators
    bounded = generating + ready.get("render", 0) < slots.max_ahead
    return "generate" if ready.get("generate") and has_slot and bounded else None


def next_stage(scene: SceneFolder) -> str | None:
    """What a scene needs next, by its files alone; None for a finished or quarantined one."""
    if scene.done.exists() or scene.failed.exists():
        return None
    count = viewpoint_count(scene)
    if count is None:
        return "generate"
    open_views = [index for index in range(count) if not scene.panorama(index).exists()]
    if not open_views:
        return FINISH
    if all(scene.rendered(index).exists() for index in open_views):
        return "annotate"
    return "render" if scene.blend.exists() else "generate"


def missing(scene: SceneFolder, stage: str) -> str | None:
    """The marker that a stage should have left and did not; None if it is all there."""
    count = viewpoint_count(scene)
    if count is None:
        return scene.generated.name
    if stage == "generate":
        return None if scene.blend.exists() else scene.blend.name
    for index in range(count):
        if scene.panorama(index).exists():
            continue
        if stage == "annotate":
            return f"panoramas/{index}"
        if not scene.rendered(index).exists():
            return f"rendered/{index}"
    return None


def open_panoramas(scene: SceneFolder, stage: str) -> int:
    """Panoramas that a stage still has to make."""
    return sum(
        not scene.panorama(index).exists()
        and (stage == "annotate" or not scene.rendered(index).exists())
        for index in range(viewpoint_count(scene) or 0)
    )


def viewpoint_count(scene: SceneFolder) -> int | None:
    """Viewpoints of a generated scene; None if it is not generated, or its scene.json is bad."""
    try:
        return len(read_json(scene.generated)["viewpoints"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def start_over(scene: SceneFolder) -> None:
    """Remove everything that a new scene.blend would make stale; the attempts stay."""
    scene.generated.unlink(missing_ok=True)
    scene.blend.unlink(missing_ok=True)
    for folder in (scene.path / "rendered", scene.path / "panoramas", scene.scratch):
        shutil.rmtree(folder, ignore_errors=True)
