"""A scene by its files in OUT: what it needs next, how it is finished or quarantined."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TypeVar

from pipeline import storage
from pipeline.errors import UserError
from pipeline.farm.attempt import (
    ELSEWHERE,
    TAIL_LINES,
    Attempt,
    Result,
    log_path,
    read_attempts,
    read_tail,
)
from pipeline.farm.records import (
    Done,
    Failed,
    costs_of,
    hosts_of,
    lost_in,
    names_of,
    read_all_done,
    seed_of,
    to_json,
)
from pipeline.layout import (
    ANNOTATED,
    LEFTOVER,
    RENDERED,
    STAGES,
    DamagedFileError,
    RunFolder,
    SceneFolder,
    read_json,
    write_json,
)
from pipeline.settings import RunSettings, generator_of_seed, scene_id

T_ = TypeVar("T_")

FINISH = "finish"  # every panorama is annotated, only its record in done/ is missing


@dataclass(frozen=True)
class SceneState:
    """A scene at one moment.

    Attributes:
        stage: What it needs next: a stage, FINISH, or None where it is finished or quarantined.
        to_render: Panoramas that are still to be rendered, and `to_annotate`, to be annotated.
        scene_bytes: Of its scene.blend.
        numbers: By stage, how many attempts it has had.
        failures: By stage, those that count against its seed.
        failed_on: By stage, the nodes where those happened.
        memory_failures: By stage, those that ran out of memory, and `memory_peaks`, the most bytes
            that one of them used.
        gpu_failures: Renders that ran out of a GPU's memory.
        elsewhere: Attempts that ended for their machine's sake: its node went away, its scratch
            disk was full, or something of it failed.
    """

    stage: str | None = "generate"
    to_render: int = 0
    to_annotate: int = 0
    scene_bytes: int = 0
    numbers: dict[str, int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    failed_on: dict[str, frozenset[str]] = field(default_factory=dict)
    memory_failures: dict[str, int] = field(default_factory=dict)
    memory_peaks: dict[str, int] = field(default_factory=dict)
    gpu_failures: int = 0
    elsewhere: int = 0

    def left(self, stage: str) -> int:
        """Panoramas that a stage still has to make."""
        return self.to_render if stage == "render" else self.to_annotate


def read_state(scene: SceneFolder) -> SceneState:
    """Look at a scene's files."""
    if storage.exists(scene.done) or storage.exists(scene.failed):
        return SceneState(stage=None)
    tried = read_attempts(scene)
    starved = [one for one in tried if one.reason == "memory" and not one.forgiven]
    views = viewpoint_count(scene)
    indices = range(views or 0)
    to_annotate = [index for index in indices if not scene.is_annotated(index)]
    to_render = [index for index in to_annotate if not scene.is_rendered(index)]
    scene_bytes = storage.size(scene.blend) if to_render else 0
    if views is None:
        stage = "generate"
    elif not to_annotate:
        stage = FINISH
    elif not to_render:
        stage = "annotate"
    else:
        stage = "render" if scene_bytes else "generate"
    return SceneState(
        stage=stage,
        to_render=len(to_render),
        to_annotate=len(to_annotate),
        scene_bytes=scene_bytes,
        numbers={name: _last(tried, name) for name in STAGES},
        failures=_count(tried, lambda attempt: attempt.counted),
        failed_on=_by_stage(
            (one for one in tried if one.counted and one.node),
            lambda those: frozenset(one.node for one in those),
        ),
        memory_failures=_by_stage(starved, len),
        memory_peaks=_by_stage(starved, lambda those: max(one.peak_rss for one in those)),
        gpu_failures=sum(one.reason == "gpu-memory" and not one.forgiven for one in tried),
        elsewhere=sum(one.reason in ELSEWHERE and not one.forgiven for one in tried),
    )


def viewpoint_count(scene: SceneFolder) -> int | None:
    """Viewpoints of a generated scene; None if it is not generated, or its scene.json is bad."""
    try:
        return len(read_json(scene.generated)["viewpoints"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def missing(scene: SceneFolder, stage: str) -> str | None:
    """The marker that a stage should have left and did not; None if it is all there."""
    count = viewpoint_count(scene)
    if count is None:
        return scene.generated.name
    if stage == "generate":
        return None if storage.exists(scene.blend) else scene.blend.name
    for index in range(count):
        if scene.is_annotated(index):
            continue
        if stage == "annotate":
            return f"panoramas/{index}"
        if not scene.is_rendered(index):
            return f"rendered/{index}"
    return None


def start_over(scene: SceneFolder, check: Callable[[], None] = lambda: None) -> None:
    """Remove everything that a new scene.blend would make stale; the attempts stay.

    Args:
        scene: The scene in OUT.
        check: Called before each removal; what it raises ends this.
    """
    check()
    storage.remove(scene.generated)  # the marker first
    storage.remove(scene.blend)
    _remove_leftovers(scene)
    for folder, marker in (
        (scene.path / "rendered", RENDERED),
        (scene.path / "panoramas", ANNOTATED),
    ):
        for name in storage.names(folder):
            check()
            storage.remove_folder(folder / name, marker)
        check()
        storage.remove_folder(folder)


def remove_work(scene: SceneFolder) -> None:
    """Remove what is large and no longer needed: the scene file and raw renders."""
    _remove_leftovers(scene)
    storage.remove(scene.blend)
    for name in storage.names(scene.path / "rendered"):
        storage.remove_folder(scene.path / "rendered" / name, RENDERED)
    storage.remove_folder(scene.path / "rendered")


def _remove_leftovers(scene: SceneFolder) -> None:
    """Remove half of a file that a process which was killed was copying to the scene's folder."""
    for name in storage.names(scene.path):
        if LEFTOVER.fullmatch(name):
            storage.remove(scene.path / name)


def _last(tried: Iterable[Attempt], stage: str) -> int:
    return max((attempt.number for attempt in tried if attempt.stage == stage), default=0)


def _count(tried: Iterable[Attempt], matches: Callable[[Attempt], bool]) -> dict[str, int]:
    return {name: 0 for name in STAGES} | _by_stage(filter(matches, tried), len)


def _by_stage(tried: Iterable[Attempt], value: Callable[[list[Attempt]], T_]) -> dict[str, T_]:
    """By each stage that some attempts were at, what they come to."""
    stages: dict[str, list[Attempt]] = {}
    for one in tried:
        stages.setdefault(one.stage, []).append(one)
    return {stage: value(those) for stage, those in stages.items()}


LAST_SEED = 2**31 - 1


@dataclass(frozen=True)
class Scene:
    """A seed and its folder."""

    seed: int
    folder: SceneFolder


@dataclass(frozen=True)
class Summary:
    """What a run holds in the end.

    Attributes:
        scenes: The wanted scenes, all done, in the order of their seeds.
        made: How many of them this call made or finished.
        panoramas: Good panoramas in them.
        unfit: Panoramas that were rendered but are no good.
        failed: Quarantined scenes among their seeds.
        seconds: Wall-clock time of this call.
    """

    scenes: tuple[str, ...]
    made: int
    panoramas: int
    unfit: int
    failed: tuple[str, ...]
    seconds: float


def open_seeds(run: RunFolder, settings: RunSettings, first: int | None = None) -> Iterator[Scene]:
    """The run's scenes in the order of their seeds, without the quarantined ones, for ever.

    The wanted scenes of a run are the first n of these, whatever order they are made in.
    """
    failed = names_of(run.failed_folder)
    for seed in range(settings.seed if first is None else first, LAST_SEED + 1):
        folder = run.scene(scene_id(settings, seed))
        if folder.scene_id not in failed:
            yield Scene(seed, folder)
    raise UserError(f"there are no seeds above {LAST_SEED}; start with a smaller SEED")


def drop_damaged(scene: SceneFolder) -> None:
    """Remove the annotated panoramas that cannot be read, so that they are made again."""
    for index in range(viewpoint_count(scene) or 0):
        if scene.is_annotated(index):
            try:
                _defects(scene, index)
            except DamagedFileError:
                storage.remove_folder(scene.panorama(index), ANNOTATED)


def finish(scene: Scene, generator: str, *, keep_work: bool) -> str | None:
    """Write the record of a finished scene, then remove what it makes superfluous.

    Returns:
        Why the scene is no good, if it has not one good panorama; nothing is written then.
    """
    count = viewpoint_count(scene.folder) or 0
    found = {index: _defects(scene.folder, index) for index in range(count)}
    panoramas = tuple(index for index, reasons in found.items() if not reasons)
    if not panoramas:
        reasons = sorted({reason for all_of_one in found.values() for reason in all_of_one})
        return f"no good panorama: {'; '.join(reasons) or 'no viewpoint'}"
    tried = read_attempts(scene.folder)
    taken = {stage: sum(a.bytes for a in tried if a.stage == stage) for stage in STAGES}
    record = Done(
        scene_id=scene.folder.scene_id,
        seed=scene.seed,
        generator=generator,
        panoramas=panoramas,
        unfit={str(index): reasons for index, reasons in found.items() if reasons},
        costs=costs_of(tried),
        bytes={
            "scene": taken["generate"],
            "rendered": taken["render"],
            "panoramas": taken["annotate"],
        },
        nodes=hosts_of(tried),
        reasons=dict(sorted(Counter(attempt.reason or "lost" for attempt in tried).items())),
        finished=time.time(),
        lost=lost_in(tried),
    )
    if not keep_work:
        remove_work(scene.folder)  # first: nobody looks at a finished scene again
    write_json(scene.folder.done, to_json(record))
    return None


def retries_exhausted(scene: Scene, failures: int, elsewhere: int) -> tuple[str, Result] | None:
    """The stage at which a seed has failed as often as it may, and how it did the last time.

    Args:
        failures: At one stage, of those that count against it.
        elsewhere: For the sake of its machines.
    """
    state = read_state(scene.folder)
    if state.stage is None:
        return None
    tried = read_attempts(scene.folder)
    for stage in STAGES:
        last = next((one for one in reversed(tried) if one.stage == stage), None)
        often = state.failures.get(stage, 0) >= failures or state.elsewhere >= elsewhere
        if last is not None and often and last.reason and last.reason != "ok":
            return stage, Result(last.reason, last.detail)
    return None


def quarantine(scene: Scene, settings: RunSettings, stage: str, outcome: Result) -> None:
    """Give a seed up: write its record in failed/ and free its disk space."""
    tried = read_attempts(scene.folder)
    number = max((attempt.number for attempt in tried if attempt.stage == stage), default=0)
    log = log_path(scene.folder, stage, number)
    record = Failed(
        scene_id=scene.folder.scene_id,
        seed=scene.seed,
        generator=generator_of_seed(settings, scene.seed),
        stage=stage,
        reason=outcome.reason,
        detail=outcome.detail,
        log=f"{log.parent.name}/{log.name}",
        log_tail=outcome.log_tail or log_tail(log),
        costs=costs_of(tried),
        reasons=dict(sorted(Counter(attempt.reason or "lost" for attempt in tried).items())),
        nodes=hosts_of(tried),
        run_again=run_again(settings, scene.seed),
        when=time.time(),
    )
    remove_work(scene.folder)  # first: nobody looks at a quarantined seed again
    for name in storage.names(scene.folder.path / "panoramas"):
        storage.remove_folder(scene.folder.path / "panoramas" / name, ANNOTATED)
    write_json(scene.folder.failed, to_json(record))


def log_tail(log: Path) -> str:
    """The end of a log in OUT; empty where there is none."""
    if not storage.is_remote(log):
        return read_tail(log)
    try:
        return "\n".join(
            storage.read_bytes(log).decode(errors="replace").splitlines()[-TAIL_LINES:]
        )
    except FileNotFoundError:
        return ""


def run_again(settings: RunSettings, seed: int) -> str:
    """The command that makes this one seed again by itself, under the same settings."""
    mix = ",".join(f"{name}:{weight:g}" for name, weight in settings.generators)
    generator = mix if len(settings.generators) > 1 else settings.generators[0][0]
    passes = f" PASSES={','.join(settings.passes)}" if settings.passes else ""
    return (
        f"make render SCENES=1 SEED={seed} GENERATOR={generator} PANOS={settings.panos} "
        f"PROFILE={settings.profile} WIDTH={settings.width} SAMPLES={settings.samples}{passes} "
        f"MIN_AREA={settings.min_area} OUT=out-seed-{seed}"
    )


def summarize(
    run: RunFolder, settings: RunSettings, scenes: int, made: int, seconds: float
) -> Summary:
    """Sum up a run whose wanted scenes are all done."""
    wanted = list(islice(open_seeds(run, settings), scenes))
    records = list(read_all_done(run, [scene.folder.scene_id for scene in wanted]))
    last = wanted[-1].seed
    failed = sorted(names_of(run.failed_folder))
    return Summary(
        scenes=tuple(record.scene_id for record in records),
        made=made,
        panoramas=sum(len(record.panoramas) for record in records),
        unfit=sum(len(record.unfit) for record in records),
        failed=tuple(name for name in failed if settings.seed <= seed_of(name) <= last),
        seconds=seconds,
    )


def _defects(scene: SceneFolder, index: int) -> list[str]:
    """Why an annotated panorama is unfit; empty for a good one.

    Raises:
        DamagedFileError: Its row.json is damaged.
    """
    path = scene.panorama(index) / ANNOTATED
    try:
        return list(read_json(path)["summary"]["defects"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        raise DamagedFileError(
            f"{path} is damaged; run the same command again, it makes that panorama again"
        ) from None
