"""The driver: makes the scenes of a run that are not finished yet.

generate ──► render ──► annotate ──► done/<scene_id>.json
   ▲ retry      ▲ retry     │ retry, from the render if that was damaged
   └────────────┴───────────┴──► failed/<scene_id>.json, and the next seed takes its place

Everything that it knows it reads from OUT, so that it may be killed at any moment and started
again.
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice

from pipeline import storage
from pipeline.errors import UserError
from pipeline.farm.attempt import (
    AttemptSpec,
    Program,
    Result,
    SceneState,
    end_attempt,
    record_path,
    reset_failures,
)
from pipeline.farm.disk_space import disk_full_error, explain_error
from pipeline.farm.executor import Executor, RayExecutor
from pipeline.farm.farm_settings import FarmSettings
from pipeline.farm.node_health import NodeHealth
from pipeline.farm.progress import Progress
from pipeline.farm.quarantine import Quarantine, SystemicFailureError, must_quarantine
from pipeline.farm.records import names_of, read_all_done
from pipeline.farm.resource_requests import UsageHistory, device_of, limits_of, queue_of
from pipeline.farm.run_lock import claim
from pipeline.farm.scene import Scene, Summary, open_seeds, read_state, remove_damaged, summarize
from pipeline.farm.scheduler import Queue, RenderBacklog, ResourceRequest, Scheduler
from pipeline.farm.takeover import close_interrupted, missed_quarantine
from pipeline.layout import RunFolder, SceneFolder
from pipeline.run_settings import PROFILES, RunSettings, generator_of_seed, to_json
from pipeline.units import GIB

WAIT_SECONDS = 1.0
NODES_SECONDS = 10.0  # between two listings of the cluster's nodes
IDLE_SECONDS = 60.0  # after which the driver says what it waits for, if nothing runs
LEARN_FROM = 50  # finished scenes of earlier drivers
TRANSFER_SECONDS = 3600.0 + 4 * storage.errors.RETRY_SECONDS
"""Time for fetching and delivering besides a stage's limit, before a worker counts as hung."""


def render_run(
    run: RunFolder,
    settings: RunSettings,
    scenes: int,
    farm: FarmSettings = FarmSettings(),  # noqa: B008 - frozen
    program: Program = Program(),  # noqa: B008 - frozen
    executor: Executor | None = None,
) -> Summary:
    """Make the first `scenes` good scenes of a run, as far as they are not finished yet.

    Args:
        run: OUT.
        settings: What the scenes look like; must be the settings that OUT was started with.
        scenes: How many good scenes OUT holds in the end, including those of earlier calls.
        farm: Where and how hard to work.
        program: What to run; for tests.
        executor: Who runs attempts; by default Ray.

    Raises:
        UserError: OUT cannot be used, the disk is full, no node can render, or seed after seed
            fails. Finished work stays, and the same command resumes.
        KeyboardInterrupt: Ctrl-C; every child is dead by then.
    """
    if scenes < 1:
        raise UserError(f"SCENES must be at least 1, not {scenes}")
    if not storage.is_remote(run.path):
        run = RunFolder(run.path.resolve())  # Ray workers have other working directories
    started = time.monotonic()
    with claim(run, settings, scenes) as check_claim:
        try:
            done = names_of(run.done_folder)
            wanted = list(islice(open_seeds(run, settings), scenes))
            if not wanted:
                raise UserError(
                    f"none of the files of {settings.pattern} is left to make a scene of; see "
                    "make failures, or start with a smaller SEED"
                )
            to_make = [scene for scene in wanted if scene.folder.scene_id not in done]
            if to_make:
                with Progress(run) as progress:
                    progress.note(f"{len(to_make)} of {scenes} scenes to make in {run.path}")
                    history = UsageHistory()
                    history.add_finished(read_all_done(run, sorted(done)[-LEARN_FROM:]))
                    driver = Driver(
                        run,
                        settings,
                        scenes,
                        farm,
                        program,
                        executor or RayExecutor(farm),
                        open_seeds(run, settings, first=wanted[-1].seed + 1),
                        check_claim,
                        progress,
                        history,
                        any_done=bool(done),
                    )
                    driver.make(to_make)
            return summarize(run, settings, scenes, len(to_make), time.monotonic() - started)
        except OSError as error:
            raise explain_error(error, run) from error


@dataclass
class Driver:
    """The driver's state: what may start, what runs, which seeds failed. All else is in files.

    Attributes:
        scenes: Good scenes wanted.
        spare: The seeds that replace quarantined ones.
        check_claim: From `claim`.
        history: What earlier attempts used.
        any_done: Whether OUT holds a finished scene.
        scheduler: What is free on the nodes.
        backlog: Scenes that are being generated or wait for a render.
        health: Nodes that get no work, because their scratch disk is full, seed after seed failed
            there, or they are gone.
        quarantine: The seeds that this driver quarantined.
        ready: Scenes that may start, with their states, by queue.
        running: The attempts that run, by attempt id.
        renders_left: Scenes that are not rendered yet.
        node_failure: Why a node cooled down last.
    """

    run: RunFolder
    settings: RunSettings
    scenes: int
    farm: FarmSettings
    program: Program
    executor: Executor
    spare: Iterator[Scene]
    check_claim: Callable[[], None]
    progress: Progress
    history: UsageHistory
    any_done: bool
    scheduler: Scheduler = field(init=False)
    backlog: RenderBacklog = field(init=False)
    health: NodeHealth = field(default_factory=NodeHealth)
    quarantine: Quarantine = field(default_factory=Quarantine)
    ready: defaultdict[Queue, deque[tuple[Scene, SceneState]]] = field(
        default_factory=lambda: defaultdict(deque)
    )
    running: dict[int, AttemptSpec] = field(default_factory=dict)
    renders_left: int = 0
    node_failure: Result | None = None

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(
            on_gpu=PROFILES[self.settings.profile].gpu, render_cpus=self.farm.render_cpus
        )
        self.backlog = RenderBacklog(self.farm.waiting_bytes)

    def make(self, scenes: list[Scene]) -> None:
        """Make scenes, or the seeds that replace those which are quarantined."""
        begun = set(storage.names(self.run.scenes))
        try:
            for scene in scenes:
                if scene.folder.scene_id in begun:
                    self.resume(scene)
                else:
                    self.enqueue(scene, SceneState())
            with self.executor:
                self.work()
        except SystemicFailureError:  # nothing runs any more, so that no failure follows
            for folder in self.attempted():
                reset_failures(folder)
            raise

    def work(self) -> None:
        """Start attempts and handle their results until no scene is left."""
        from pipeline.farm.cluster import check_nodes

        try:
            check_nodes(self.executor.nodes(), self.settings, self.farm)
            listed_at, active_at, said = 0.0, time.monotonic(), ""
            while self.running or any(self.ready.values()):
                if time.monotonic() - listed_at > NODES_SECONDS:
                    listed_at = time.monotonic()
                    self.update_nodes()
                self.start_attempts()
                if self.running:
                    active_at, said = time.monotonic(), ""
                elif time.monotonic() - active_at > IDLE_SECONDS and said != (
                    reason := self.why_idle()
                ):
                    self.progress.note(reason)
                    said = reason
                ended = self.executor.wait(WAIT_SECONDS)
                self.check_claim()  # before anything is written
                for attempt_id, result in ended:
                    self.handle_result(attempt_id, result)
                self.progress.update()
        except (KeyboardInterrupt, SystemExit):
            self.progress.note("stopping running attempts")
            raise

    def update_nodes(self) -> None:
        """List the nodes that may get work now."""
        self.scheduler.update(*self.health.split(self.executor.nodes()))

    def why_idle(self) -> str:
        """What the driver waits for, where nothing runs and nothing can start."""
        if not self.executor.nodes():
            return "waiting: the cluster has no node with a CPU; work continues when one joins"
        if not self.scheduler.nodes:
            return "waiting: every node failed lately and cools down for a few minutes"
        wanted = [
            f"{request.stage} ({request.cpus} CPU, {request.gpus} GPU, "
            f"{request.memory / GIB:.1f} GiB)"
            for request in self.requests()
        ] or ["anything"]
        return f"waiting: no node has room for {' or '.join(wanted)}; work continues when one joins"

    def resume(self, scene: Scene) -> None:
        """Queue a scene that may have been left unfinished by an earlier driver."""
        close_interrupted(scene.folder)
        remove_damaged(scene.folder)
        if missed := missed_quarantine(scene.folder, self.farm):
            self.replace_seed(scene, *missed)
        else:
            self.enqueue(scene, read_state(scene.folder))

    def enqueue(self, scene: Scene, state: SceneState, *, first: bool = False) -> None:
        """Queue a scene for the stage that it needs next, if any."""
        if state.stage is None:
            return
        if state.stage == "render":
            self.backlog.add(state.scene_bytes)
        if state.stage in ("generate", "render"):
            self.renders_left += 1
        queue = self.ready[queue_of(state.stage, state)]
        (queue.appendleft if first else queue.append)((scene, state))

    def start_attempts(self) -> None:
        """Start everything that may start now."""
        while found := self.scheduler.choose(self.requests(), self.backlog, self.renders_left):
            self.start(*found)

    def requests(self) -> list[ResourceRequest]:
        """The request of the first scene in each queue."""
        max_cpus = max((node.cpus for node in self.scheduler.nodes.values()), default=1)
        return [
            self.history.request(
                generator_of_seed(self.settings, queue[0][0].seed),
                stage,
                queue[0][1],
                gpu=self.scheduler.on_gpu,
                max_cpus=max_cpus,
            )
            for (stage, *_), queue in self.ready.items()
            if queue and (stage != "generate" or self.has_space())
        ]

    def start(self, request: ResourceRequest, node: str) -> None:
        """Start the first attempt in a queue on a node."""
        stage = request.stage
        scene, state = self.ready[request.queue].popleft()
        if stage == "generate":
            self.backlog.add(request.disk)
        limits = limits_of(self.farm, stage, state)
        on_gpu = stage == "render" and self.scheduler.on_gpu
        max_seconds = limits.wall
        if max_seconds is not None and stage != "annotate":
            max_seconds += TRANSFER_SECONDS  # the supervisor watches the stage itself
        spec = AttemptSpec(
            scene_folder=str(scene.folder.path),
            stage=stage,
            number=state.numbers.get(stage, 0) + 1,
            generator=generator_of_seed(self.settings, scene.seed),
            seed=scene.seed,
            settings=to_json(self.settings),
            request=request,
            node=node,
            device=device_of(state) if on_gpu else "",
            scratch=self.scratch(),
            keep_scenes=self.farm.keep_scenes,
            token=uuid.uuid4().hex,
            limits=limits,
            program=self.program,
            to_render=state.to_render,
            max_seconds=max_seconds,
        )
        self.scheduler.allocate(request, node)
        self.running[self.executor.start(spec)] = spec

    def scratch(self) -> str | None:
        """Where attempts work: in OUT where OUT is a folder and Ray is a local one."""
        if self.farm.scratch is not None:
            return self.farm.scratch
        local = self.farm.works_here and not storage.is_remote(self.run.path)
        return str(self.run.scratch) if local else None

    def has_space(self) -> bool:
        """Whether OUT's disk has room for a new scene.

        Raises:
            UserError: It has not, and nothing runs that would free space.
        """
        if storage.is_remote(self.run.path):
            return True
        expected = sum(s.request.disk for s in self.running.values() if s.stage == "generate")
        usage = storage.retry(lambda: shutil.disk_usage(self.run.path), self.run.path)
        if usage.free >= self.farm.min_free_bytes + expected:
            return True
        others = any(queue for (stage, *_), queue in self.ready.items() if stage != "generate")
        if self.running or others:
            return False
        raise disk_full_error(self.run, self.farm.min_free_bytes)

    def handle_result(self, attempt_id: int, result: Result) -> None:
        """Update nodes, estimates and queues after an attempt ended; quarantine its seed if due."""
        spec = self.running.pop(attempt_id)
        self.scheduler.release(spec.request, spec.node)
        if spec.stage in ("generate", "render"):
            self.backlog.remove(spec.request.disk)
            self.renders_left -= 1
        scene = Scene(spec.seed, self.run.scene(spec.scene_id))
        if result.state is None:  # the worker died, or cannot reach OUT
            result = self.close_attempt(spec, scene.folder, result)
        state = result.state or read_state(scene.folder)
        self.learn(spec, result, state)
        if result.reason == "disk":
            raise disk_full_error(self.run)
        self.check_node(spec, result)
        if self.farm.works_here:  # no other node will join
            self.stop_without_nodes()
        if must_quarantine(state, spec.stage, result, self.farm):
            self.replace_seed(scene, spec.stage, result)
        else:
            self.any_done |= state.stage is None
            self.enqueue(scene, state, first=not result.ok)

    def close_attempt(self, spec: AttemptSpec, scene: SceneFolder, result: Result) -> Result:
        """Record the end of an attempt in place of its worker."""
        begun = storage.exists(record_path(scene, spec.stage, spec.number))
        if not begun and result.reason in ("timeout", "crashed", "memory"):
            result = replace(result, reason="machine", detail=f"did not begin: {result.detail}")
        delivered = max(0, spec.to_render - read_state(scene).to_render)
        end_attempt(scene, spec.stage, spec.number, result, brought=delivered)
        return result

    def check_node(self, spec: AttemptSpec, result: Result) -> None:
        """Stop giving work to a node that failed."""
        if result.reason in ("scratch", "machine"):
            self.cool_down(spec.node, result)
        self.health.record_outcome(spec.node, spec.seed, result)
        others = self.scheduler.nodes.keys() - {spec.node}
        if others and self.health.is_suspicious(spec.node):
            self.cool_down(spec.node, result)
        if result.node_lost:
            self.health.mark_gone(spec.node)
            self.update_nodes()

    def learn(self, spec: AttemptSpec, result: Result, state: SceneState) -> None:
        """Remember what an attempt used, unless it was given more than the usual."""
        if result.ok and not spec.request.large:
            self.history.add(spec.generator, spec.stage, result.peak_rss)
        if result.ok and spec.stage == "generate":
            self.history.add_scene(spec.generator, state.scene_bytes)

    def cool_down(self, node: str, result: Result) -> None:
        """Give a node no work for a while.

        Raises:
            UserError: No other node is left.
        """
        self.health.start_cooldown(node)
        self.node_failure = result
        self.update_nodes()
        self.stop_without_nodes()

    def stop_without_nodes(self) -> None:
        """Raise a UserError where a node failed, no other is left, and nothing runs."""
        failure = self.node_failure
        if self.scheduler.nodes or self.running or failure is None:
            return
        if failure.reason == "scratch":
            raise disk_full_error(self.run, scratch=self.scratch(), detail=failure.detail)
        raise UserError(
            f"no node can work ({failure.detail}); fix that and run the same command again"
        )

    def attempted(self) -> Iterator[SceneFolder]:
        """The scenes that had an attempt and are neither finished nor quarantined.

        Attempts in `running` may have ended since the last look.
        """
        yield from (self.run.scene(spec.scene_id) for spec in self.running.values())
        for queue in self.ready.values():
            yield from (scene.folder for scene, state in queue if any(state.numbers.values()))

    def replace_seed(self, scene: Scene, stage: str, result: Result) -> None:
        """Quarantine a seed and continue with the next one.

        Raises:
            UserError: The seeds are not at fault, or too many have failed.
        """
        self.quarantine.add(scene, self.settings, stage, result)
        if not self.any_done:
            self.quarantine.stop_if_systemic(self.farm.same_failures)
        self.quarantine.stop_if_too_many(self.farm.failed_seeds_allowed(self.scenes))
        if (spare := next(self.spare, None)) is not None:  # files come to an end
            self.resume(spare)
