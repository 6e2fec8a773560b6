"""How a run is carried out: nothing in here changes a pixel or an annotation."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace

from pipeline.farm.child import Limits
from pipeline.setting import Settings, setting
from pipeline.units import GIB


@dataclass(frozen=True)
class FarmSettings(Settings):
    """Where and how hard to work.

    Attributes:
        gpus: GPUs of a local Ray; None lets Ray count them, and Ray does not find every GPU that
            Cycles finds.
        generate_limits: What generating one scene may use.
        render_limits: What rendering may use; `wall` is for each panorama still to be rendered.
        annotate_limits: Only `wall` is watched, for each panorama still to be annotated.
    """

    workers: int | None = setting(
        None, help="CPUs of the local Ray", at_least=1, default_text="all of this machine"
    )
    gpus: int | None = None
    render_cpus: int | None = setting(
        None,
        help="CPUs of one render on a CPU; a render on a GPU takes one",
        at_least=1,
        default_text="chosen by the number of CPUs and memory",
    )
    generate_limits: Limits = field(
        default=Limits(wall=3600, silent=1200, memory=16 * GIB, disk=20 * GIB)
    )
    render_limits: Limits = field(
        default=Limits(wall=7200, silent=900, memory=32 * GIB, disk=20 * GIB)
    )
    annotate_limits: Limits = field(default=Limits(wall=900))
    attempts: int = setting(
        3, help="failures of one stage after which a seed is quarantined", at_least=1
    )
    nodes_lost: int = setting(
        6,
        help="attempts at a seed that its machine may end (a lost node, a full scratch disk) "
        "before the seed is quarantined",
        at_least=1,
    )
    max_failed: int | None = setting(
        None,
        help="seeds that may be quarantined before the run stops",
        at_least=0,
        default_text="10 + a tenth of SCENES",
    )
    same_failures: int = setting(
        3,
        help="seeds that fail for the same reason, before any scene is done, until the run stops",
        at_least=1,
    )
    keep_scenes: bool = setting(False, help="keep scene.blend of finished scenes")
    ray_address: str | None = setting(
        None,
        help="Ray cluster to work on, host:port",
        default_text="$RAY_ADDRESS, else a Ray on this machine",
    )
    min_free_gib: float = setting(
        2, help="no new scene starts with less free space for OUT", unit="GiB", at_least=0
    )
    scratch: str | None = setting(
        None,
        help="where attempts work on their machine",
        default_text="OUT/scratch with a local Ray and a local OUT, else the machine's temporary "
        "folder",
    )
    waiting_gib: float = setting(
        200,
        help="space for scene files that wait for a render or are being made",
        unit="GiB",
        above=0,
    )

    @property
    def min_free_bytes(self) -> int:
        return round(self.min_free_gib * GIB)

    @property
    def waiting_bytes(self) -> int:
        return round(self.waiting_gib * GIB)

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
