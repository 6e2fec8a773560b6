"""The driver: makes n good scenes, or what is left of them to make.

Everything that it knows it reads from OUT, so it may be killed at any moment and started again.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import uuid
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from pipeline import storage
from pipeline.errors import UserError
from pipeline.farm.attempt import Result, end_attempt, record_path, reset_failures
from pipeline.farm.child import GIB
from pipeline.farm.claim import claim
from pipeline.farm.executor import Ended, Executor, ray_executor
from pipeline.farm.node_health import NodeHealth, Quarantine, SystemicFailureError
from pipeline.farm.options import FarmSettings, Program
from pipeline.farm.progress import Progress
from pipeline.farm.records import names_of, read_all_done
from pipeline.farm.recovery import close_interrupted
from pipeline.farm.resource_estimates import UsageHistory, device_of, limits_of, queue_of
from pipeline.farm.scene import (
    FINISH,
    Scene,
    SceneState,
    Summary,
    drop_damaged,
    finish,
    open_seeds,
    read_state,
    retries_exhausted,
    summarize,
)
from pipeline.farm.scheduler import Queue, RenderBacklog, ResourceRequest, Scheduler
from pipeline.layout import STAGES, DamagedFileError, RunFolder
from pipeline.settings import PROFILES, RunSettings, generator_of_seed, to_json
from pipeline.storage import DISK_FULL


def disk_full(
    run: RunFolder, wanted: int = 0, *, scratch: str | None = None, detail: str = ""
) -> UserError:
    """The error that names the full file system: OUT's own, or that of scratch.

    Args:
        run: OUT.
        wanted: Bytes that must be free for a new scene, if that is the reason.
        scratch: Where attempts work, if not in the folder for temporary files.
        detail: What a worker said of its machine's disk, where that is another one's.
    """
    here = [Path(scratch or tempfile.gettempdir())]
    if not storage.is_remote(run.path):
        here.append(run.path)
    folders = [path.resolve() for path in here if path.exists()]
    if wanted:
        folders = folders[-1:]
    folder = min(folders, key=lambda path: shutil.disk_usage(path).free, default=None)
    if folder is None or (detail and shutil.disk_usage(folder).free > GIB):
        return UserError(
            f"the scratch disk of every node is full ({detail}); free some or choose another "
            "SCRATCH, and run the same command again, it goes on where this one stopped"
        )
    free = shutil.disk_usage(folder).free
    mount = folder
    while not os.path.ismount(mount):
        mount = mount.parent
    need = f", and a new scene wants {wanted / GIB:.1f} GiB" if wanted else ""
    return UserError(
        f"the disk is full: {free / GIB:.2f} GiB free on {mount}{need}; free some and run the "
        "same command again, it goes on where this one stopped"
    )


def explained(error: OSError, run: RunFolder) -> Exception:
    """The user's line for a file of OUT that cannot be used; any other error unchanged."""
    if error.errno in DISK_FULL:
        return disk_full(run)
    if str(error.filename or "").startswith(str(run.path)):
        return UserError(
            f"cannot use {error.filename} ({error.strerror}); mend that and run the same "
            "command again"
        )
    return error


WAIT_SECONDS = 1.0
NODES_SECONDS = 10.0  # between two looks at which nodes the cluster has
IDLE_SECONDS = 60.0  # after which the driver says what it waits for, if nothing runs
AROUND_SECONDS = 3600.0 + 4 * storage.errors.RETRY_SECONDS
"""What fetching and bringing may take besides a stage's limit, before a worker counts as hung."""


@dataclass(frozen=True)
class Work:
    """An attempt that somebody carries out; `to_render`, the panoramas missing when it began."""

    scene: Scene
    stage: str
    number: int
    need: ResourceRequest
    node: str
    to_render: int


@dataclass
class Loop:
    """The driver's state: what could start, what runs, which seeds failed. The rest is in files.

    Attributes:
        scenes: Good scenes wanted.
        spare: The seeds that take the place of quarantined ones.
        check_claim: As `claim` gave it.
        hands: Who carries out attempts.
        seen: What attempts used; `placement`, what is free on the nodes; `ahead`, the scenes that
            wait for a render.
        any_done: Whether OUT holds a finished scene.
        ready: Scenes that could start, with their states, by queue (`needs.queue_of`).
        running: The attempts at work, by ticket.
        rests: Nodes that are given no work: their scratch disk is full, seed after seed failed
            there, or they are gone.
        given_up: The seeds that this driver quarantined.
        renders_left: Scenes that are not rendered yet.
    """

    run: RunFolder
    settings: RunSettings
    scenes: int
    farm: FarmSettings
    program: Program
    spare: Iterator[Scene]
    check_claim: Callable[[], None]
    hands: Executor = field(init=False)
    seen: UsageHistory = field(default_factory=UsageHistory)
    placement: Scheduler = field(init=False)
    ahead: RenderBacklog = field(init=False)
    any_done: bool = False
    ready: defaultdict[Queue, deque[tuple[Scene, SceneState]]] = field(
        default_factory=lambda: defaultdict(deque)
    )
    running: dict[int, Work] = field(default_factory=dict)
    rests: NodeHealth = field(default_factory=NodeHealth)
    given_up: Quarantine = field(default_factory=Quarantine)
    renders_left: int = 0

    def __post_init__(self) -> None:
        self.placement = Scheduler(
            on_gpu=PROFILES[self.settings.profile].gpu, render_cpus=self.farm.render_cpus
        )
        self.ahead = RenderBacklog(self.farm.waiting_bytes)

    def begun(self, to_make: list[Scene]) -> Iterator[Scene]:
        """Queue the scenes that have no folder yet; yield those that an earlier driver began."""
        known = set(storage.names(self.run.scenes))
        for scene in to_make:
            if scene.folder.scene_id in known:
                yield scene
            else:
                self.queue(scene, SceneState())

    def work(self, progress: Progress) -> None:
        from pipeline.farm.cluster import check_nodes

        check_nodes(self.hands.nodes(), self.settings, self.farm)
        looked_at, idle_at, said = 0.0, time.monotonic(), ""
        while self.running or any(self.ready.values()):
            if time.monotonic() - looked_at > NODES_SECONDS:
                looked_at = time.monotonic()
                self.look_at_nodes()
            self.start_what_may_start()
            if self.running:
                idle_at, said = time.monotonic(), ""
            elif time.monotonic() - idle_at > IDLE_SECONDS and said != (why := self.why_idle()):
                progress.note(why)
                said = why
            ended = self.hands.wait(WAIT_SECONDS)
            self.check_claim()  # before anything is written
            for one in ended:
                self.settle(one)
            progress.update()

    def look_at_nodes(self) -> None:
        """Take note of the nodes that there are."""
        self.placement.update(*self.rests.sort(self.hands.nodes()))

    def why_idle(self) -> str:
        """What the driver waits for, where nothing runs and nothing can start."""
        if not self.hands.nodes():
            return "waiting: the cluster has no node with a CPU; work goes on when one joins"
        if not self.placement.nodes:
            return "waiting: every node had a failure of its own and rests for a few minutes"
        wanted = [
            f"{need.stage} ({need.cpus} CPU, {need.gpus} GPU, {need.memory / GIB:.1f} GiB)"
            for need in self.needs()
        ] or ["anything"]
        return f"waiting: no node has room for {' or '.join(wanted)}; work goes on when one joins"

    def take(self, scene: Scene) -> None:
        """Take up a scene, new or left by an earlier driver."""
        close_interrupted(scene.folder)
        drop_damaged(scene.folder)
        if end := retries_exhausted(scene, self.farm.attempts, self.farm.nodes_lost):
            self.give_up(scene, *end)  # an earlier driver was killed before it could
        else:
            self.queue(scene, read_state(scene.folder))

    def queue(self, scene: Scene, state: SceneState, *, first: bool = False) -> None:
        """Put a scene where its files say it belongs."""
        if state.stage == FINISH:
            generator = generator_of_seed(self.settings, scene.seed)
            try:
                unfit = finish(scene, generator, keep_work=self.farm.keep_scenes)
            except DamagedFileError:
                drop_damaged(scene.folder)
                self.queue(scene, read_state(scene.folder), first=True)
                return
            if unfit:
                self.give_up(scene, "annotate", Result("rejected", unfit))
        elif state.stage is not None:
            if state.stage == "render":
                self.ahead.add(state.scene_bytes)
            if state.stage in ("generate", "render"):
                self.renders_left += 1
            waiting = self.ready[queue_of(state.stage, state)]
            (waiting.appendleft if first else waiting.append)((scene, state))

    def start_what_may_start(self) -> None:
        while found := self.placement.choose(self.needs(), self.ahead, self.renders_left):
            self.start(*found)

    def needs(self) -> list[ResourceRequest]:
        """What the first scene of each queue needs."""
        needs = []
        most = max((node.cpus for node in self.placement.nodes.values()), default=1)
        for (stage, *_), waiting in self.ready.items():
            if waiting and (stage != "generate" or self.has_space()):
                scene, state = waiting[0]
                generator = generator_of_seed(self.settings, scene.seed)
                needs.append(
                    self.seen.need(
                        generator, stage, state, gpu=self.placement.on_gpu, most_cpus=most
                    )
                )
        return needs

    def start(self, need: ResourceRequest, node: str) -> None:
        from pipeline.farm.worker import Job

        stage = need.stage
        scene, state = self.ready[need.queue].popleft()
        if stage == "generate":
            self.ahead.add(need.disk)
        limits = limits_of(self.farm, stage, state)
        on_gpu = stage == "render" and self.placement.on_gpu
        job = Job(
            scene_folder=str(scene.folder.path),
            stage=stage,
            number=state.numbers.get(stage, 0) + 1,
            generator=generator_of_seed(self.settings, scene.seed),
            seed=scene.seed,
            settings=to_json(self.settings),
            cpus=need.cpus,
            gpus=need.gpus,
            node=node,
            device=device_of(state) if on_gpu else "",
            scratch=self.scratch(),
            keep_scenes=self.farm.keep_scenes,
            token=uuid.uuid4().hex,
            limits=limits,
            program=self.program,
        )
        deadline = None
        if limits.wall is not None:  # generate and render are watched, but not what is around them
            around = 0.0 if stage == "annotate" else AROUND_SECONDS
            deadline = time.monotonic() + limits.wall + around
        self.placement.start(need, node)
        ticket = self.hands.start(job, need, deadline)
        self.running[ticket] = Work(scene, stage, job.number, need, node, state.to_render)

    def scratch(self) -> str | None:
        """Where attempts work: beside their results where those are on the one machine at work."""
        if self.farm.scratch is not None:
            return self.farm.scratch
        local = self.farm.works_here and not storage.is_remote(self.run.path)
        return str(self.run.scratch) if local else None

    def has_space(self) -> bool:
        """Whether a new scene may start with what is free on OUT's disk.

        Raises:
            UserError: It may not, and nothing is at work that would free space.
        """
        if storage.is_remote(self.run.path):
            return True
        making = sum(one.need.disk for one in self.running.values() if one.stage == "generate")
        usage = storage.retry(lambda: shutil.disk_usage(self.run.path), self.run.path)
        if usage.free >= self.farm.min_free_bytes + making:
            return True
        others = any(waiting for (stage, *_), waiting in self.ready.items() if stage != "generate")
        if self.running or others:
            return False
        raise disk_full(self.run, self.farm.min_free_bytes)

    def settle(self, ended: Ended) -> None:
        """Draw the consequence of one attempt that ended."""
        work = self.running.pop(ended.ticket)
        scene, stage = work.scene, work.stage
        self.placement.end(work.need, work.node)
        if stage in ("generate", "render"):
            self.ahead.remove(work.need.disk)
            self.renders_left -= 1
        if ended.report is not None and ended.report.state is not None:
            outcome, state = ended.report.outcome, ended.report.state
        else:  # the worker died, or cannot reach OUT, so the driver keeps its ledger
            outcome = ended.report.outcome if ended.report else ended.lost or Result("crashed")
            begun = storage.exists(record_path(scene.folder, stage, work.number))
            if not begun and outcome.reason in ("timeout", "crashed", "memory"):
                outcome = Result("machine", f"did not begin: {outcome.detail}")
            brought = work.to_render - read_state(scene.folder).to_render
            end_attempt(scene.folder, stage, work.number, outcome, brought=max(0, brought))
            state = read_state(scene.folder)
        self.learn(work, outcome, state)
        if outcome.reason == "disk":
            raise disk_full(self.run)
        if outcome.reason in ("scratch", "machine"):
            self.rest(work.node, outcome)
        others = self.placement.nodes.keys() - {work.node}
        if self.rests.record_outcome(work.node, scene.seed, outcome) and others:
            self.rest(work.node, outcome)
        if ended.node_is_gone:
            self.rests.gone(work.node)
            self.look_at_nodes()
        retries_exhausted = (
            state.failures.get(stage, 0) >= self.farm.attempts
            or state.elsewhere >= self.farm.nodes_lost
        )
        beyond = state.stage not in STAGES or STAGES.index(state.stage) > STAGES.index(stage)
        if outcome.reason == "rejected" or (not outcome.ok and retries_exhausted and not beyond):
            self.give_up(scene, stage, outcome)
        else:
            self.any_done |= state.stage is None
            self.queue(scene, state, first=not outcome.ok)

    def learn(self, work: Work, outcome: Result, state: SceneState) -> None:
        """Remember what an attempt used, unless it took more than others anyway."""
        generator = generator_of_seed(self.settings, work.scene.seed)
        if outcome.ok and not work.need.large:
            self.seen.add(generator, work.stage, outcome.peak_rss)
        if work.stage == "generate" and outcome.ok:
            self.seen.add_scene(generator, state.scene_bytes)

    def rest(self, node: str, outcome: Result) -> None:
        """Give a node no work for a while.

        Raises:
            UserError: There is no other.
        """
        self.rests.begin(node)
        self.look_at_nodes()
        if self.placement.nodes or self.running:
            return
        if outcome.reason == "scratch":
            raise disk_full(self.run, scratch=self.scratch(), detail=outcome.detail)
        raise UserError(
            f"no node can work ({outcome.detail}); mend that and run the same command again"
        )

    def tried(self) -> Iterator[Scene]:
        """The scenes that had an attempt and are neither done nor given up.

        What is at work may be over by now, where the loop has not looked since.
        """
        yield from (work.scene for work in self.running.values())
        for waiting in self.ready.values():
            yield from (scene for scene, state in waiting if any(state.numbers.values()))

    def give_up(self, scene: Scene, stage: str, outcome: Result) -> None:
        """Quarantine a seed and take the next one, unless the seeds are not at fault.

        Raises:
            UserError: They are not, or too many have failed.
        """
        self.given_up.add(scene, self.settings, stage, outcome)
        if not self.any_done:
            self.given_up.stop_if_all_fail_alike(self.farm.same_failures)
        self.given_up.stop_if_too_many(self.farm.failed_seeds_allowed(self.scenes))
        self.take(next(self.spare))


LEARN_FROM = 50  # finished scenes of earlier drivers

ExecutorFactory = Callable[[FarmSettings], AbstractContextManager[Executor]]


def render_run(
    run: RunFolder,
    settings: RunSettings,
    scenes: int,
    farm: FarmSettings = FarmSettings(),  # noqa: B008 - frozen
    program: Program = Program(),  # noqa: B008 - frozen
    hands: ExecutorFactory = ray_executor,
) -> Summary:
    """Make the first `scenes` good scenes of a run, or what is left of them to make.

    Args:
        run: OUT.
        settings: What the scenes look like; must be those that OUT was begun with.
        scenes: How many good scenes OUT shall hold in the end, those of earlier calls included.
        farm: Where and how hard to work.
        program: What to run; for tests.
        hands: Who carries out attempts; for benchmarks.

    Raises:
        UserError: OUT cannot be used, the disk is full, no node can render, or seed after seed
            fails. What is finished stays, and the same command goes on from there.
        KeyboardInterrupt: Ctrl-C; every child is dead by then.
    """
    if scenes < 1:
        raise UserError(f"SCENES must be at least 1, not {scenes}")
    if not storage.is_remote(run.path):
        run = RunFolder(run.path.resolve())  # Ray workers live in other folders
    started = time.monotonic()
    with claim(run, settings, scenes) as check_claim:
        try:
            done = names_of(run.done_folder)
            wanted = list(islice(open_seeds(run, settings), scenes))
            to_make = [scene for scene in wanted if scene.folder.scene_id not in done]
            if to_make:
                spare = open_seeds(run, settings, first=wanted[-1].seed + 1)
                loop = Loop(run, settings, scenes, farm, program, spare, check_claim)
                _make(loop, to_make, sorted(done), hands)
            return summarize(run, settings, scenes, len(to_make), time.monotonic() - started)
        except OSError as error:
            raise explained(error, run) from error


def _make(loop: Loop, to_make: list[Scene], done: list[str], hands: ExecutorFactory) -> None:
    with Progress(loop.run) as progress:
        progress.note(f"{len(to_make)} of {loop.scenes} scenes to make in {loop.run.path}")
        loop.any_done = bool(done)
        loop.seen.add_finished(read_all_done(loop.run, done[-LEARN_FROM:]))
        try:
            for scene in loop.begun(to_make):
                loop.take(scene)
            with hands(loop.farm) as loop.hands:
                _work(loop, progress)
        except SystemicFailureError:  # nothing is at work any more, so nothing fails after this
            for scene in loop.tried():
                reset_failures(scene.folder)
            raise


def _work(loop: Loop, progress: Progress) -> None:
    try:
        loop.work(progress)
    except (KeyboardInterrupt, SystemExit):
        progress.note("stopping what is at work")
        raise
