"""The scheduler in virtual time: a run whose attempts only take the seconds that they are given.

What starts, and where, is decided by the code of a real run: `Scheduler`, `RenderBacklog` and
`UsageHistory`.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pipeline.farm.attempt import SceneState
from pipeline.farm.farm_settings import FarmSettings
from pipeline.farm.plan_estimate import SceneCost
from pipeline.farm.resource_requests import UsageHistory
from pipeline.farm.scheduler import Node, RenderBacklog, ResourceRequest, Scheduler
from pipeline.layout import STAGES

WAITING_BYTES = FarmSettings().waiting_bytes


@dataclass(frozen=True)
class SceneTimes:
    """The costs of one scene: seconds, and bytes.

    Attributes:
        serial, parallel: Of a render on CPUs: one thread's part, and CPU time of all threads.
        gpu: Of a render on a GPU.
        memory: Peak by stage.
        last: The stage after which it ends; not `annotate` for a quarantined seed.
    """

    generate: float
    serial: float = 0.0
    parallel: float = 0.0
    gpu: float = 0.0
    annotate: float = 0.0
    scene_bytes: int = 0
    memory: dict[str, int] = field(default_factory=dict)
    last: str = "annotate"

    def seconds(self, need: ResourceRequest) -> float:
        """The time of a stage with the resources that it was given."""
        if need.stage == "render":
            return self.gpu if need.gpus else self.serial + self.parallel / need.cpus
        return self.generate if need.stage == "generate" else self.annotate


def times_of(cost: SceneCost, panos: int, gpu_speed: float) -> SceneTimes:
    """A measured scene with this number of panoramas."""
    share = panos / cost.panoramas
    return SceneTimes(
        generate=cost.generate,
        serial=cost.serial,
        parallel=cost.parallel * share,
        gpu=cost.serial + cost.parallel * share / gpu_speed,
        annotate=cost.annotate * share,
        scene_bytes=round(cost.scene_bytes),
    )


@dataclass(frozen=True)
class Simulated:
    """The result of a simulated run.

    Attributes:
        seconds: Length of the run.
        cpu_busy, gpu_busy: Utilisation in the steady state: from the end of as many renders as run
            at once until the last scene starts. 0 without a steady state.
        ended: Number of scenes that ended.
        backlog_scenes, backlog_bytes: Peak of the scenes before the end of their render.
    """

    seconds: float
    cpu_busy: float
    gpu_busy: float
    ended: int
    backlog_scenes: int
    backlog_bytes: int


@dataclass
class _Clock:
    """Virtual time, and the resource-seconds reserved until then."""

    now: float = 0.0
    cpus: int = 0
    gpus: int = 0
    cpu_seconds: float = 0.0
    gpu_seconds: float = 0.0

    def advance(self, time: float) -> None:
        self.cpu_seconds += self.cpus * (time - self.now)
        self.gpu_seconds += self.gpus * (time - self.now)
        self.now = time

    def read(self) -> tuple[float, float, float]:
        return self.now, self.cpu_seconds, self.gpu_seconds


def simulate(
    nodes: Iterable[Node],
    scenes: Iterable[SceneTimes],
    *,
    on_gpu: bool = False,
    disk: int = WAITING_BYTES,
    latency: float = 0.0,
    watch: Callable[[Scheduler, RenderBacklog], None] = lambda *_: None,
) -> Simulated:
    """Carry out a run in virtual time. Equal arguments give equal results.

    Args:
        nodes: The machines.
        scenes: In the order in which they are generated.
        on_gpu: Whether renders run on GPUs.
        disk: Space for scene files that wait for a render or are being made, bytes.
        latency: Seconds that the driver takes for each start.
        watch: Called after each start and each end.
    """
    scheduler, backlog, usage, clock = (
        Scheduler(on_gpu=on_gpu),
        RenderBacklog(disk),
        UsageHistory(),
        _Clock(),
    )
    scheduler.update(nodes)
    largest = max(node.cpus for node in scheduler.nodes.values())
    ready: dict[str, deque[SceneTimes]] = {stage: deque() for stage in STAGES}
    ready["generate"].extend(scenes)
    renders_left = sum(scene.last != "generate" for scene in ready["generate"])
    running: list[tuple[float, int, SceneTimes, ResourceRequest, str]] = []
    at_once = scheduler.gpus if on_gpu else scheduler.cpus
    started = renders = ended = most_scenes = most_bytes = 0
    filled = drained = clock.read()
    while running or any(ready.values()):
        needs = [
            usage.request(
                "",
                stage,
                SceneState(stage, scene_bytes=waiting[0].scene_bytes),
                gpu=on_gpu,
                max_cpus=largest,
            )
            for stage, waiting in ready.items()
            if waiting
        ]
        if found := scheduler.choose(needs, backlog, renders_left):
            need, node = found
            clock.advance(clock.now + latency)
            scene = ready[need.stage].popleft()
            scheduler.allocate(need, node)
            if need.stage == "generate":
                backlog.add(need.disk)
                drained = clock.read()
            clock.cpus, clock.gpus = clock.cpus + need.cpus, clock.gpus + need.gpus
            started += 1  # orders attempts that end at the same time
            heapq.heappush(running, (clock.now + scene.seconds(need), started, scene, need, node))
        else:
            assert running, f"no node has room for {needs}"
            clock.advance(max(clock.now, running[0][0]))
        watch(scheduler, backlog)
        most_scenes, most_bytes = max(most_scenes, backlog.scenes), max(most_bytes, backlog.bytes)
        while running and running[0][0] <= clock.now:
            _, _, scene, need, node = heapq.heappop(running)
            scheduler.release(need, node)
            clock.cpus, clock.gpus = clock.cpus - need.cpus, clock.gpus - need.gpus
            usage.add("", need.stage, scene.memory.get(need.stage, 0))
            if need.stage != "annotate":
                backlog.remove(need.disk)
            if need.stage == "render":
                renders, renders_left = renders + 1, renders_left - 1
                filled = clock.read() if renders == at_once else filled
            if need.stage == scene.last:
                ended += 1
                continue
            if need.stage == "generate":
                usage.add_scene("", scene.scene_bytes)
                backlog.add(scene.scene_bytes)
            ready[STAGES[STAGES.index(need.stage) + 1]].append(scene)
            most_scenes, most_bytes = (
                max(most_scenes, backlog.scenes),
                max(most_bytes, backlog.bytes),
            )
    steady, cpu, gpu = (end - start for start, end in zip(filled, drained, strict=True))
    has_steady = renders >= at_once and steady > 0
    return Simulated(
        seconds=clock.now,
        cpu_busy=cpu / steady / scheduler.cpus if has_steady else 0.0,
        gpu_busy=gpu / steady / scheduler.gpus if has_steady and scheduler.gpus else 0.0,
        ended=ended,
        backlog_scenes=most_scenes,
        backlog_bytes=most_bytes,
    )
