"""The driver: makes n good scenes, or what is left of them to make.

Everything that it knows it reads from OUT, so it may be killed at any moment and started again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import islice

from pipeline import storage
from pipeline.errors import UserError
from pipeline.farm.disk import explained
from pipeline.farm.given_up import NotTheSeedsError
from pipeline.farm.hands import Hands, ray_hands
from pipeline.farm.loop import Loop
from pipeline.farm.options import FarmSettings, Program
from pipeline.farm.progress import Progress
from pipeline.farm.scenes import (
    Scene,
    Summary,
    open_seeds,
    summarize,
)
from pipeline.layout import RunFolder
from pipeline.ledger import attempts
from pipeline.ledger.claim import claim
from pipeline.ledger.records import names_of, read_all_done
from pipeline.settings import RunSettings

LEARN_FROM = 50  # finished scenes of earlier drivers

HandsOf = Callable[[FarmSettings], AbstractContextManager[Hands]]


def render_run(
    run: RunFolder,
    settings: RunSettings,
    scenes: int,
    farm: FarmSettings = FarmSettings(),  # noqa: B008 - frozen
    program: Program = Program(),  # noqa: B008 - frozen
    hands: HandsOf = ray_hands,
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


def _make(loop: Loop, to_make: list[Scene], done: list[str], hands: HandsOf) -> None:
    with Progress(loop.run) as progress:
        progress.note(f"{len(to_make)} of {loop.scenes} scenes to make in {loop.run.path}")
        loop.any_done = bool(done)
        loop.seen.add_finished(read_all_done(loop.run, done[-LEARN_FROM:]))
        try:
            for scene in loop.begun(to_make):
                loop.take(scene)
            with hands(loop.farm) as loop.hands:
                _work(loop, progress)
        except NotTheSeedsError:  # nothing is at work any more, so nothing fails after this
            for scene in loop.tried():
                attempts.forgive(scene.folder)
            raise


def _work(loop: Loop, progress: Progress) -> None:
    try:
        loop.work(progress)
    except (KeyboardInterrupt, SystemExit):
        progress.note("stopping what is at work")
        raise
