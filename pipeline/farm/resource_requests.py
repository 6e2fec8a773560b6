"""What an attempt is expected to use, estimated from finished ones."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from pipeline.farm.attempt import SceneState
from pipeline.farm.child import Limits
from pipeline.farm.farm_settings import FarmSettings
from pipeline.farm.records import Done
from pipeline.farm.scheduler import MAX_RENDER_CPUS, Queue, ResourceRequest
from pipeline.units import GIB

FIRST_MEMORY = {"generate": 4 * GIB, "render": 6 * GIB, "annotate": GIB}
"""Bytes that an attempt is expected to use before any has finished."""

FIRST_DISK = GIB
"""Bytes that a scene file is expected to take before the first one exists."""

DEVICES = ("gpu", "gpu-tiles", "cpu")
"""Devices of a render under a GPU profile; each failure for lack of GPU memory moves one on."""

HISTORY = 50
"""Finished attempts that an estimate considers, by generator and stage."""

MEMORY_MARGIN = 1.2
"""An estimate is the largest of the last peaks, times this."""

MEMORY_GROWTH = 2
"""After it ran out of memory, a scene's attempt gets this many times as much."""


@dataclass
class UsageHistory:
    """What the last attempts used: peak memory by generator and stage, scene files by generator."""

    memory: dict[tuple[str, str], deque[int]] = field(
        default_factory=lambda: defaultdict(lambda: deque(maxlen=HISTORY))
    )
    disk: dict[str, deque[int]] = field(
        default_factory=lambda: defaultdict(lambda: deque(maxlen=HISTORY))
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
        """Bytes to request for an attempt.

        Args:
            failures: How often the scene has run out of memory at this stage.
            peak: The most that it used then; 0 where that is unknown.
        """
        peaks = self.memory.get((generator, stage))
        expected = int(MEMORY_MARGIN * max(peaks)) if peaks else FIRST_MEMORY[stage]
        if not failures:
            return expected
        return max(expected, MEMORY_GROWTH * peak if peak else expected * MEMORY_GROWTH**failures)

    def disk_of(self, generator: str) -> int:
        """Bytes that a scene file is expected to take."""
        sizes = self.disk.get(generator)
        return max(sizes) if sizes else FIRST_DISK

    def request(
        self, generator: str, stage: str, state: SceneState, *, gpu: bool, max_cpus: int
    ) -> ResourceRequest:
        """What the next attempt at a stage requests.

        Args:
            gpu: Whether renders run on GPUs.
            max_cpus: CPUs of the largest node.
        """
        failures, peak = state.memory_failures.get(stage, 0), state.memory_peaks.get(stage, 0)
        _, large, avoids = queue_of(stage, state)
        request = ResourceRequest(
            stage,
            memory=self.memory_of(generator, stage, failures, peak),
            large=large,
            avoid=state.failed_on[stage] if avoids else frozenset(),
        )
        if stage == "generate":
            return replace(request, disk=self.disk_of(generator))
        if stage == "annotate":
            return request
        on_gpu = gpu and device_of(state) != "cpu"
        cpus = 1 if on_gpu or not gpu else max(1, min(MAX_RENDER_CPUS, max_cpus // 2))
        return replace(request, cpus=cpus, gpus=int(on_gpu), disk=state.scene_bytes)


def queue_of(stage: str, state: SceneState) -> Queue:
    """The queue of the next attempt at a stage; see `ResourceRequest`.

    A large request avoids no node: memory was to blame for its failures, not the node.
    """
    on_cpu = stage == "render" and state.gpu_failures > 0 and device_of(state) == "cpu"
    large = on_cpu or state.memory_failures.get(stage, 0) > 0
    return stage, large, not large and bool(state.failed_on.get(stage))


def device_of(state: SceneState) -> str:
    """Device of the next render of a scene under a GPU profile."""
    return DEVICES[min(state.gpu_failures, len(DEVICES) - 1)]


def limits_of(farm: FarmSettings, stage: str, state: SceneState) -> Limits:
    """What the next attempt at a stage may use."""
    growth = MEMORY_GROWTH ** state.memory_failures.get(stage, 0)
    return farm.limits(stage, state.panoramas_left(stage), growth)
