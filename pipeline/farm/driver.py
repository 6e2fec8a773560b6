"""The loop that makes n good scenes: start what may start, learn how it ended, decide again.

    generate ──► render ──► annotate ──► done.json
       ▲ retry      ▲ retry     │ retry, from the render where that was damaged
       └────────────┴───────────┴──► failed.json, and the next seed takes its place

Everything that it knows it reads from OUT, so it may be killed at any moment and started again.
"""

from __future__ import annotations

import re
import shutil
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from pipeline.errors import UserError
from pipeline.farm import attempts
from pipeline.farm.claim import claim
from pipeline.farm.disk import disk_full, explained
from pipeline.farm.options import FarmSettings, Program
from pipeline.farm.progress import Progress
from pipeline.farm.scenes import Scene, Summary, drop_damaged, finish, open_seeds, summarize
from pipeline.farm.schedule import FINISH, Slots, choose, next_stage, open_panoramas
from pipeline.farm.worker import Outcome
from pipeline.outputs import STAGES, RunFolder
from pipeline.settings import RunSettings, generator_of_seed, to_json

if TYPE_CHECKING:  # importing Ray takes a second or more, and finished work never needs it
    from ray import ObjectRef

WAIT_SECONDS = 1.0
SLOTS_SECONDS = 10.0  # between two looks at which nodes the cluster has
CANCEL_SECONDS = 8.0


def render_run(
    run: RunFolder,
    settings: RunSettings,
    scenes: int,
    farm: FarmSettings = FarmSettings(),  # noqa: B008 - frozen
    program: Program = Program(),  # noqa: B008 - frozen
) -> Summary:
    """Make the first `scenes` good scenes of a run, or what is left of them to make.

    Args:
        run: OUT.
        settings: What the scenes look like; must be those that OUT was begun with.
        scenes: How many good scenes OUT shall hold in the end, those of earlier calls included.
        farm: Where and how hard to work.
        program: What to run; for tests.

    Raises:
        UserError: OUT cannot be used, the disk is full, no node can render, or seed after seed
            fails. What is finished stays, and the same command goes on from there.
        KeyboardInterrupt: Ctrl-C; every child is dead by then.
    """
    if scenes < 1:
        raise UserError(f"SCENES must be at least 1, not {scenes}")
    run = RunFolder(run.path.resolve())  # Ray workers live in other folders
    started = time.monotonic()
    with claim(run, settings, scenes) as check_claim:
        try:
            wanted = list(islice(open_seeds(run, settings), scenes))
            to_make = [scene for scene in wanted if not scene.folder.done.exists()]
            if to_make:
                spare = open_seeds(run, settings, first=wanted[-1].seed + 1)
                _make(Loop(run, settings, scenes, farm, program, spare, check_claim), to_make)
        except OSError as error:
            raise explained(error, run) from error
        return summarize(run, settings, scenes, len(to_make), time.monotonic() - started)


def _make(loop: Loop, to_make: list[Scene]) -> None:
    from pipeline.farm.cluster import connected

    with Progress(loop.run) as progress:
        progress.note(f"{len(to_make)} of {loop.scenes} scenes to make in {loop.run.path}")
        with connected(loop.farm):
            try:
                loop.work(to_make, progress)
            except (KeyboardInterrupt, SystemExit):
                progress.note("stopping what is at work")
                raise
            finally:
                loop.cancel()


@dataclass(frozen=True)
class Work:
    """An attempt in Ray's hands.

    Attributes:
        number: Number of the attempt at its stage.
        deadline: When the driver itself ends it, on the monotonic clock; None leaves that to its
            worker.
    """

    scene: Scene
    stage: str
    number: int
    deadline: float | None


@dataclass
class Loop:
    """The driver's state: what could start, what runs, which seeds failed. The rest is in files.

    Attributes:
        scenes: Good scenes wanted.
        spare: The seeds that take the place of quarantined ones.
        check_claim: As `claim` gave it.
        ready: Scenes that could start, by their next stage.
        running: The attempts in Ray's hands.
        overdue: Those of them that were ended for taking too long.
        quarantined: Seeds given up by this driver: scene, stage, how the last attempt ended.
    """

    run: RunFolder
    settings: RunSettings
    scenes: int
    farm: FarmSettings
    program: Program
    spare: Iterator[Scene]
    check_claim: Callable[[], None]
    ready: dict[str, deque[Scene]] = field(default_factory=lambda: {s: deque() for s in STAGES})
    running: dict[ObjectRef[Outcome], Work] = field(default_factory=dict)
    overdue: set[ObjectRef[Outcome]] = field(default_factory=set)
    quarantined: list[tuple[Scene, str, Outcome]] = field(default_factory=list)

    def work(self, to_make: list[Scene], progress: Progress) -> None:
        import ray

        from pipeline.farm.cluster import count_slots

        slots, slots_read_at = count_slots(self.settings, self.farm), time.monotonic()
        for scene in to_make:
            self.take(scene)
        while self.running or any(self.ready.values()):
            if time.monotonic() - slots_read_at > SLOTS_SECONDS:
                with suppress(UserError):  # the node that could render may come back
                    slots = count_slots(self.settings, self.farm)
                slots_read_at = time.monotonic()
            self.start_what_may_start(slots)
            if not self.running:  # every node is gone; wait for one
                time.sleep(WAIT_SECONDS)
                continue
            ended, _ = ray.wait(list(self.running), num_returns=1, timeout=WAIT_SECONDS)
            self.check_claim()  # before anything is written
            self.end_overdue()
            for reference in ended:
                self.settle(reference)
            progress.update()

    def take(self, scene: Scene) -> None:
        """Take up a scene, new or left by an earlier driver."""
        attempts.close_interrupted(scene.folder)
        drop_damaged(scene.folder)
        self.queue(scene)

    def queue(self, scene: Scene, *, first: bool = False) -> None:
        """Put a scene where its files say it belongs."""
        stage = next_stage(scene.folder)
        if stage == FINISH:
            if unfit := finish(scene, keep_work=self.farm.keep_scenes):
                self.give_up(scene, "annotate", Outcome("rejected", unfit))
        elif stage is not None and first:
            self.ready[stage].appendleft(scene)
        elif stage is not None:
            self.ready[stage].append(scene)

    def start_what_may_start(self, slots: Slots) -> None:
        from pipeline.farm.tasks import Job, submit

        running = Counter(work.stage for work in self.running.values())
        ready = {stage: len(scenes) for stage, scenes in self.ready.items()}
        if ready["generate"] and not self.has_space():
            ready["generate"] = 0  # renders and finished scenes will free some
        while stage := choose(ready, running, slots):
            scene = self.ready[stage].popleft()
            limits = self.farm.limits(stage, open_panoramas(scene.folder, stage))
            job = Job(
                scene_folder=str(scene.folder.path),
                stage=stage,
                number=attempts.next_number(scene.folder, stage),
                generator=generator_of_seed(self.settings, scene.seed),
                seed=scene.seed,
                settings=to_json(self.settings),
                threads=slots.cpus_of(stage),
                limits=limits,
                program=self.program,
            )
            deadline = None
            if stage == "annotate" and limits.wall is not None:  # has no watcher of its own
                deadline = time.monotonic() + limits.wall
            reference = submit(job, gpu=slots.render_on_gpu)
            self.running[reference] = Work(scene, stage, job.number, deadline)
            ready[stage] -= 1
            running[stage] += 1

    def has_space(self) -> bool:
        """Whether a new scene may start on this disk.

        Raises:
            UserError: It may not, and nothing is at work that would free space.
        """
        if shutil.disk_usage(self.run.path).free >= self.farm.min_free_bytes:
            return True
        if self.running or self.ready["render"] or self.ready["annotate"]:
            return False
        raise disk_full(self.run, self.farm.min_free_bytes)

    def end_overdue(self) -> None:
        """End the workers of annotations that take too long; they are settled when Ray says so."""
        import ray

        for reference, work in self.running.items():
            late = work.deadline is not None and time.monotonic() > work.deadline
            if late and reference not in self.overdue:
                self.overdue.add(reference)
                ray.cancel(reference, force=True)

    def settle(self, reference: ObjectRef[Outcome]) -> None:
        """Draw the consequence of one attempt that ended."""
        import ray
        from ray.exceptions import RayError

        from pipeline.farm.tasks import lost

        work = self.running.pop(reference)
        scene, stage = work.scene, work.stage
        try:
            outcome = ray.get(reference)
        except RayError as error:  # the worker died, so the driver keeps its ledger
            late = Outcome("timeout", "took too long and was ended")
            outcome = late if reference in self.overdue else lost(error)
            attempts.end(scene.folder, stage, work.number, outcome)
        self.overdue.discard(reference)
        if outcome.reason == "disk":
            raise disk_full(self.run)
        failures = attempts.failures(scene.folder, stage)
        if outcome.reason == "rejected" or (not outcome.ok and failures >= self.farm.attempts):
            self.give_up(scene, stage, outcome)
        else:
            self.queue(scene, first=not outcome.ok)

    def give_up(self, scene: Scene, stage: str, outcome: Outcome) -> None:
        """Quarantine a seed and take the next one, unless the seeds are not at fault."""
        attempts.quarantine(scene.folder, self.settings, scene.seed, stage, outcome)
        self.quarantined.append((scene, stage, outcome))
        self.stop_if_all_fail_alike()
        if len(self.quarantined) > self.farm.failed_seeds_allowed(self.scenes):
            raise UserError(
                f"{len(self.quarantined)} seeds failed, the last one in {stage} "
                f"({outcome.reason}: {outcome.detail}); see {scene.folder.failed}, mend the "
                "cause and run the same command again"
            )
        self.take(next(self.spare))

    def stop_if_all_fail_alike(self) -> None:
        """Stop when the first seeds all fail for one reason, and give those seeds back.

        Rejections do not count here: they are a scene's own.
        """
        scene, stage, outcome = self.quarantined[-1]
        kinds = {failure_kind(stage, outcome) for _, stage, outcome in self.quarantined}
        if len(self.quarantined) < self.farm.same_failures or len(kinds) > 1:
            return
        if outcome.reason == "rejected" or any(self.run.scenes.glob("*/done.json")):
            return
        log = attempts.log_path(scene.folder, stage, attempts.next_number(scene.folder, stage) - 1)
        for failed, _, _ in self.quarantined:
            attempts.forgive(failed.folder)
        raise UserError(
            f"the first {len(self.quarantined)} seeds all failed in {stage} "
            f"({outcome.reason}: {outcome.detail}); see {log}, mend the cause and run the same "
            "command again"
        )

    def cancel(self) -> None:
        """Stop what still runs; the workers kill their children before they report back."""
        import ray

        for reference in self.running:
            ray.cancel(reference, force=False)
        if self.running:
            ray.wait(list(self.running), num_returns=len(self.running), timeout=CANCEL_SECONDS)


def failure_kind(stage: str, outcome: Outcome) -> tuple[str, str, str]:
    """What makes two failures alike: everything but the numbers in the detail."""
    return stage, outcome.reason, re.sub(r"\d+", "", outcome.detail)
