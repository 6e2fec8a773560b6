"""A run without the work: the driver's loop in virtual time, for `plan` and for tests.

What may start, and where, is decided by the code that decides it in a real run (`Scheduler`,
`RenderBacklog`, `UsageHistory`); only the attempts are made up: each ends after the seconds it
was given.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pipeline.errors import UserError
from pipeline.farm.options import FarmSettings
from pipeline.farm.resource_estimates import UsageHistory
from pipeline.farm.scene import SceneState
from pipeline.farm.scheduler import Node, RenderBacklog, ResourceRequest, Scheduler
from pipeline.layout import STAGES

WAITING_BYTES = FarmSettings().waiting_bytes


@dataclass(frozen=True)
class SceneTimes:
    """What one scene takes. All times are seconds, all sizes bytes.

    Attributes:
        generate: On one CPU; `annotate` too.
        render_serial: Of a render on CPUs: what one thread does, however many there are.
        render_parallel: CPU-seconds that the threads share.
        render_gpu: Of a render on a GPU.
        scene_bytes: Of its scene file, which lies there until the scene is done.
        raw_bytes: Of its renders, which lie there until they are annotated.
        memory: By stage, the most that it uses.
        last: The stage after which it ends; not `annotate` for a seed that is given up.
    """

    generate: float
    render_serial: float = 0.0
    render_parallel: float = 0.0
    render_gpu: float = 0.0
    annotate: float = 0.0
    generator: str = "indoors"
    scene_bytes: int = 0
    raw_bytes: int = 0
    memory: dict[str, int] = field(default_factory=dict)
    last: str = "annotate"

    def seconds(self, need: ResourceRequest) -> float:
        """How long a stage takes with the CPUs or the GPU that it was given."""
        if need.stage != "render":
            return self.generate if need.stage == "generate" else self.annotate
        return (
            self.render_gpu if need.gpus else self.render_serial + self.render_parallel / need.cpus
        )


@dataclass(frozen=True)
class Simulated:
    """What a run takes.

    The steady state lasts from the moment at which as many renders have ended as run at once (on
    the GPUs, or else the CPUs) until the last scene begins to be generated.

    Attributes:
        seconds: From the start to the end of the last scene.
        cpu_seconds: CPUs held, summed over time; `gpu_seconds`, GPUs held.
        cpu_busy: Share of the CPUs that is held in the steady state; None without a steady state.
        gpu_busy: The same of the GPUs; None also without GPUs.
        steady_seconds: Length of the steady state.
        seconds_between: Mean time between two ends of renders in it; without one, in the whole run.
        ended: Scenes that ended, those that were given up included.
        peak_waiting_scenes: Scenes that are generated, wait for a render or are rendered, and
            `peak_waiting_bytes`, what their files take or are expected to: what a run bounds.
        peak_scratch: Bytes of all scene files and renders that lie there at once.
    """

    seconds: float
    cpu_seconds: float
    gpu_seconds: float
    cpu_busy: float | None
    gpu_busy: float | None
    steady_seconds: float
    seconds_between: float
    ended: int
    peak_waiting_scenes: int
    peak_waiting_bytes: int
    peak_scratch: int


@dataclass
class _Run:
    """A run at one moment of virtual time.

    Attributes:
        ready: Scenes that could start, by their next stage.
        running: Attempts at work, a heap by the time of their end.
        cpus, gpus: Held now; `cpu_seconds`, `gpu_seconds`, held until now.
        renders: That have ended; `renders_left`, scenes that are still to be rendered.
        filled: What `read` gave when the pipeline was filled; `drained`, when the last scene began.
    """

    placement: Scheduler
    ahead: RenderBacklog
    latency: float
    ready: dict[str, deque[SceneTimes]]
    renders_left: int
    seen: UsageHistory = field(default_factory=UsageHistory)
    running: list[tuple[float, int, SceneTimes, ResourceRequest, str]] = field(default_factory=list)
    now: float = 0.0
    cpus: int = 0
    gpus: int = 0
    cpu_seconds: float = 0.0
    gpu_seconds: float = 0.0
    started: int = 0
    renders: int = 0
    ended: int = 0
    scratch: int = 0
    peak_scenes: int = 0
    peak_bytes: int = 0
    peak_scratch: int = 0
    filled: tuple[float, float, float, int] = (0.0, 0.0, 0.0, 0)
    drained: tuple[float, float, float, int] = (0.0, 0.0, 0.0, 0)

    @property
    def at_once(self) -> int:
        """Renders that can run at once."""
        return self.placement.gpus if self.placement.on_gpu else self.placement.cpus

    def read(self) -> tuple[float, float, float, int]:
        return self.now, self.cpu_seconds, self.gpu_seconds, self.renders

    def go_to(self, time: float) -> None:
        self.cpu_seconds += self.cpus * (time - self.now)
        self.gpu_seconds += self.gpus * (time - self.now)
        self.now = time

    def needs(self, most_cpus: int) -> list[ResourceRequest]:
        """What the first scene that could start each stage needs; as the driver asks for it."""
        return [
            self.seen.need(
                waiting[0].generator,
                stage,
                SceneState(stage, scene_bytes=waiting[0].scene_bytes),
                gpu=self.placement.on_gpu,
                most_cpus=most_cpus,
            )
            for stage, waiting in self.ready.items()
            if waiting
        ]

    def start(self, need: ResourceRequest, node: str) -> None:
        self.go_to(self.now + self.latency)
        scene = self.ready[need.stage].popleft()
        self.placement.start(need, node)
        if need.stage == "generate":
            self.ahead.add(need.disk)
            self.drained = self.read()
        self.cpus, self.gpus = self.cpus + need.cpus, self.gpus + need.gpus
        self.started += 1  # decides between equal times
        end = self.now + scene.seconds(need)
        heapq.heappush(self.running, (end, self.started, scene, need, node))
        self.note_peaks()

    def settle(self) -> None:
        """The first attempt ends; its scene goes on to the next stage."""
        _, _, scene, need, node = heapq.heappop(self.running)
        self.placement.end(need, node)
        self.cpus, self.gpus = self.cpus - need.cpus, self.gpus - need.gpus
        self.seen.add(scene.generator, need.stage, scene.memory.get(need.stage, 0))
        if need.stage != "annotate":
            self.ahead.remove(need.disk)
        if need.stage == "generate":
            self.scratch += scene.scene_bytes
        elif need.stage == "render":
            self.scratch += scene.raw_bytes
            self.renders, self.renders_left = self.renders + 1, self.renders_left - 1
            if self.renders == self.at_once:
                self.filled = self.read()
        self.note_peaks()
        if need.stage == scene.last:
            self.ended += 1
            has_renders = need.stage != "generate"
            self.scratch -= scene.scene_bytes + (scene.raw_bytes if has_renders else 0)
            return
        if need.stage == "generate":
            self.seen.add_scene(scene.generator, scene.scene_bytes)
            self.ahead.add(scene.scene_bytes)
            self.note_peaks()
        self.ready[STAGES[STAGES.index(need.stage) + 1]].append(scene)

    def note_peaks(self) -> None:
        self.peak_scenes = max(self.peak_scenes, self.ahead.scenes)
        self.peak_bytes = max(self.peak_bytes, self.ahead.bytes)
        self.peak_scratch = max(self.peak_scratch, self.scratch)

    def result(self) -> Simulated:
        steady = self.drained[0] - self.filled[0] if self.renders >= self.at_once else 0.0
        cpu, gpu, renders = (self.drained[i] - self.filled[i] for i in (1, 2, 3))
        if steady <= 0 or not renders:
            steady = 0.0
        cpus, gpus = self.placement.cpus, self.placement.gpus
        return Simulated(
            seconds=self.now,
            cpu_seconds=self.cpu_seconds,
            gpu_seconds=self.gpu_seconds,
            cpu_busy=min(1.0, cpu / steady / cpus) if steady else None,  # 1 but for rounding
            gpu_busy=min(1.0, gpu / steady / gpus) if steady and gpus else None,
            steady_seconds=steady,
            seconds_between=steady / renders if steady else self.now / max(1, self.renders),
            ended=self.ended,
            peak_waiting_scenes=self.peak_scenes,
            peak_waiting_bytes=self.peak_bytes,
            peak_scratch=self.peak_scratch,
        )


def simulate(
    nodes: Iterable[Node],
    scenes: Iterable[SceneTimes],
    *,
    on_gpu: bool = False,
    disk: int = WAITING_BYTES,
    render_cpus: int | None = None,
    latency: float = 0.0,
    watch: Callable[[float, Scheduler, RenderBacklog], None] | None = None,
) -> Simulated:
    """Carry out a run in virtual time. Equal arguments give equal results.

    Args:
        scenes: In the order in which they are generated.
        on_gpu: Renders run on GPUs.
        disk: Bytes that scene files may take that wait for a render or are being made.
        render_cpus: As in `Scheduler`.
        latency: Seconds that the driver takes for each start; it does one after the other.
        watch: Called with the time after each start and each end.

    Raises:
        UserError: A stage fits on no node.
    """
    placement = Scheduler(on_gpu=on_gpu, render_cpus=render_cpus)
    placement.update(nodes)
    most_cpus = max((node.cpus for node in placement.nodes.values()), default=1)
    ready: dict[str, deque[SceneTimes]] = {stage: deque() for stage in STAGES}
    ready["generate"].extend(scenes)
    renders_left = sum(scene.last != "generate" for scene in ready["generate"])
    run = _Run(placement, RenderBacklog(disk), latency, ready, renders_left)
    while run.running or any(ready.values()):
        needs = run.needs(most_cpus)
        found = placement.choose(needs, run.ahead, run.renders_left)
        if found:
            run.start(*found)
        elif run.running:
            run.go_to(max(run.now, run.running[0][0]))
        else:
            stages = ", ".join(need.stage for need in needs)
            raise UserError(f"no node has room for the stage {stages}")
        if watch:
            watch(run.now, placement, run.ahead)
        while run.running and run.running[0][0] <= run.now:
            run.settle()
            if watch:
                watch(run.now, placement, run.ahead)
    return run.result()
