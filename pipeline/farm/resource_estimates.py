"""What an attempt is expected to take, learnt from those that ended."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from pipeline.farm.child import GIB, Limits
from pipeline.farm.options import FarmSettings
from pipeline.farm.records import Done
from pipeline.farm.scene import SceneState
from pipeline.farm.scheduler import MOST_RENDER_CPUS, Queue, ResourceRequest

FIRST_MEMORY = {"generate": 4 * GIB, "render": 6 * GIB, "annotate": GIB}
"""Bytes that an attempt is taken to need before any has ended."""

FIRST_DISK = GIB
"""Bytes of a scene file before there is one."""

DEVICES = ("gpu", "gpu-tiles", "cpu")
"""Where a render runs where the profile asks for a GPU: after each failure for want of the GPU's
memory the next one, which needs less of it."""

REMEMBERED = 50
MARGIN = 1.2
"""What is asked for is the most that the last ones used, times this."""

RAISED = 2
"""After running out of memory a scene's attempt may use, and asks for, so many times as much."""


@dataclass
class UsageHistory:
    """What the last attempts used: peak memory by generator and stage, scene files by generator."""

    memory: dict[tuple[str, str], deque[int]] = field(
        default_factory=lambda: defaultdict(lambda: deque(maxlen=REMEMBERED))
    )
    disk: dict[str, deque[int]] = field(
        default_factory=lambda: defaultdict(lambda: deque(maxlen=REMEMBERED))
    )

    def add(self, generator: str, stage: str, memory: int) -> None:
        if memory:
            self.memory[generator, stage].append(memory)

    def add_scene(self, generator: str, size: int) -> None:
        if size:
            self.disk[generator].append(size)

    def add_finished(self, records: Iterable[Done]) -> None:
        """Learn from scenes of earlier drivers."""
        for record in records:
            for stage, cost in record.costs.items():
                self.add(record.generator, stage, cost.peak_rss)
            self.add_scene(record.generator, record.bytes.get("scene", 0))

    def memory_of(self, generator: str, stage: str, failures: int = 0, peak: int = 0) -> int:
        """Bytes to ask for an attempt.

        Args:
            failures: How often it has failed for want of memory.
            peak: The most that it used then; 0 where that is not known.
        """
        seen = self.memory.get((generator, stage))
        expected = int(MARGIN * max(seen)) if seen else FIRST_MEMORY[stage]
        if not failures:
            return expected
        return max(expected, RAISED * peak if peak else expected * RAISED**failures)

    def disk_of(self, generator: str) -> int:
        """Bytes that a scene file is expected to take."""
        seen = self.disk.get(generator)
        return max(seen) if seen else FIRST_DISK

    def need(
        self, generator: str, stage: str, state: SceneState, *, gpu: bool, most_cpus: int
    ) -> ResourceRequest:
        """What the next attempt at a stage takes.

        Args:
            gpu: Whether renders run on GPUs.
            most_cpus: CPUs of the largest node.
        """
        failures, peak = state.memory_failures.get(stage, 0), state.memory_peaks.get(stage, 0)
        _, large, avoids = queue_of(stage, state)
        need = ResourceRequest(
            stage,
            memory=self.memory_of(generator, stage, failures, peak),
            large=large,
            avoid=state.failed_on[stage] if avoids else frozenset(),
        )
        if stage == "generate":
            return replace(need, disk=self.disk_of(generator))
        if stage == "annotate":
            return need
        on_gpu = gpu and device_of(state) != "cpu"
        cpus = 1 if on_gpu or not gpu else max(1, min(MOST_RENDER_CPUS, most_cpus // 2))
        return replace(need, cpus=cpus, gpus=int(on_gpu), disk=state.scene_bytes)


def queue_of(stage: str, state: SceneState) -> Queue:
    """Where the next attempt at a stage waits: see `resources.ResourceRequest`.

    What is large may go to any node: it failed for want of memory, not for its node's sake.
    """
    on_cpu = stage == "render" and state.gpu_failures > 0 and device_of(state) == "cpu"
    large = on_cpu or state.memory_failures.get(stage, 0) > 0
    return stage, large, not large and bool(state.failed_on.get(stage))


def device_of(state: SceneState) -> str:
    """Where the next render of a scene runs, if the profile asks for a GPU."""
    return DEVICES[min(state.gpu_failures, len(DEVICES) - 1)]


def limits_of(farm: FarmSettings, stage: str, state: SceneState) -> Limits:
    """What the next attempt at a stage may use."""
    return farm.limits(stage, state.left(stage), RAISED ** state.memory_failures.get(stage, 0))
