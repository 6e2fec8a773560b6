"""How a run is carried out: nothing in here changes a pixel or an annotation."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace

from pipeline.errors import UserError
from pipeline.farm.child import GIB, Limits


@dataclass(frozen=True)
class Program:
    """What the farm runs; tests put stand-ins here.

    Attributes:
        blender: Arguments of the worker's own Python that start Blender on a SPEC.json.
        annotate: `module:function`, called in the Ray worker with (SceneFolder, RunSettings).
    """

    blender: tuple[str, ...] = ("-m", "pipeline.blender")
    annotate: str = "pipeline.annotations.stage:annotate_scene"


@dataclass(frozen=True)
class FarmSettings:
    """Where and how hard to work.

    Attributes:
        workers: CPUs of a local Ray; None takes what the machine has.
        gpus: GPUs of a local Ray; None lets Ray count them, and it does not know all that
            Cycles knows.
        render_cpus: CPUs of one render on a CPU; None lets `placement.render_threads` choose. A
            render on a GPU takes one.
        generate_limits: What generating one scene may use.
        render_limits: What rendering may use; `wall` is for each panorama still to be rendered.
        annotate_limits: Only `wall` is watched, for each panorama still to be annotated.
        attempts: Failures of one stage after which a seed is quarantined.
        nodes_lost: Attempts at a seed that may end for their machine's sake (it went away, its
            scratch disk was full, …) before the seed is quarantined; more than `attempts`, for
            machines fail for reasons of their own.
        max_failed: Seeds that may be quarantined before the run stops; None takes
            10 + a tenth of the scenes.
        same_failures: When this many seeds fail alike before any scene is done, the fault is
            not theirs and the run stops.
        keep_scenes: Keep scene.blend of finished scenes.
        ray_address: A Ray cluster; None takes RAY_ADDRESS, or else starts a local Ray.
        min_free_bytes: No new scene starts with less than this free on OUT's file system.
        scratch: Where attempts work on their machine; None takes OUT/scratch where OUT is a folder
            and Ray is a local one, else each machine's folder for temporary files.
        waiting_bytes: Scene files that wait for a render, or are being made, may take this much.
    """

    workers: int | None = None
    gpus: int | None = None
    render_cpus: int | None = None
    generate_limits: Limits = field(
        default=Limits(wall=3600, silent=1200, memory=16 * GIB, disk=20 * GIB)
    )
    render_limits: Limits = field(
        default=Limits(wall=7200, silent=900, memory=32 * GIB, disk=20 * GIB)
    )
    annotate_limits: Limits = field(default=Limits(wall=900))
    attempts: int = 3
    nodes_lost: int = 6
    max_failed: int | None = None
    same_failures: int = 3
    keep_scenes: bool = False
    ray_address: str | None = None
    min_free_bytes: int = 2 * GIB
    scratch: str | None = None
    waiting_bytes: int = 200 * GIB

    def __post_init__(self) -> None:
        for name in ("workers", "render_cpus", "attempts", "same_failures"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name.upper()} must be at least 1, not {value}")

    def limits(self, stage: str, panoramas: int = 1, memory: int = 1) -> Limits:
        """The limits of a stage with so many panoramas to make and so many times the memory."""
        one = {
            "generate": self.generate_limits,
            "render": self.render_limits,
            "annotate": self.annotate_limits,
        }[stage]
        count = 1 if stage == "generate" else max(1, panoramas)
        return replace(
            one,
            wall=None if one.wall is None else one.wall * count,
            memory=None if one.memory is None else one.memory * memory,
        )

    @property
    def address(self) -> str | None:
        """Of the Ray cluster, where there is one."""
        return self.ray_address or os.environ.get("RAY_ADDRESS")

    @property
    def works_here(self) -> bool:
        """Whether Ray is one of our own, on this machine."""
        return not self.address

    def failed_seeds_allowed(self, scenes: int) -> int:
        return 10 + scenes // 10 if self.max_failed is None else self.max_failed
