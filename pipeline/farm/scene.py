"""Scenes by their files in OUT: which ones a run wants, what is left to make, how they finish."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from pipeline import storage
from pipeline.errors import UserError
from pipeline.farm.attempt import MACHINE_REASONS, Attempt, SceneState, read_attempts
from pipeline.farm.records import (
    Done,
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
from pipeline.run_settings import MAX_SEED, RunSettings, scene_id

Value = TypeVar("Value")


@dataclass(frozen=True)
class Scene:
    """A seed and its folder."""

    seed: int
    folder: SceneFolder


@dataclass(frozen=True)
class Summary:
    """What a run holds in the end.

    Attributes:
        scenes: The wanted scenes, all finished, in the order of their seeds.
        made: How many of them this call made or finished.
        panoramas: Good panoramas in them.
        unfit: Panoramas that were rendered but are not good.
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
    """The run's scenes in the order of their seeds, without quarantined ones.

    There is no end but that of the files where each scene is a file.

    The wanted scenes of a run are the first n of these, whatever order they are made in.
    """
    failed = names_of(run.failed_folder)
    for seed in range(settings.seed if first is None else first, settings.last_seed + 1):
        folder = run.scene(scene_id(settings, seed))
        if folder.scene_id not in failed:
            yield Scene(seed, folder)
    if settings.pattern:
        return
    raise UserError(f"there are no seeds above {MAX_SEED}; start with a smaller SEED")


def summarize(
    run: RunFolder, settings: RunSettings, scenes: int, made: int, seconds: float
) -> Summary:
    """Sum up a run whose wanted scenes are all finished."""
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


def read_state(scene: SceneFolder) -> SceneState:
    """What a scene needs next."""
    if storage.exists(scene.done) or storage.exists(scene.failed):
        return SceneState(stage=None)
    attempts = read_attempts(scene)
    starved = [one for one in attempts if one.reason == "memory" and not one.forgiven]
    views = viewpoint_count(scene)
    indices = range(views or 0)
    to_annotate = [index for index in indices if not scene.is_annotated(index)]
    to_render = [index for index in to_annotate if not scene.is_rendered(index)]
    scene_bytes = storage.size(scene.blend) if to_render else 0
    if views is None:
        stage = "generate"
    elif not to_render:
        stage = "annotate"
    else:
        stage = "render" if scene_bytes else "generate"
    return SceneState(
        stage=stage,
        to_render=len(to_render),
        to_annotate=len(to_annotate),
        scene_bytes=scene_bytes,
        numbers=dict.fromkeys(STAGES, 0)
        | _by_stage(attempts, lambda some: max(one.number for one in some)),
        failures=dict.fromkeys(STAGES, 0)
        | _by_stage((one for one in attempts if one.counted), len),
        failed_on=_by_stage(
            (one for one in attempts if one.counted and one.node),
            lambda some: frozenset(one.node for one in some),
        ),
        memory_failures=_by_stage(starved, len),
        memory_peaks=_by_stage(starved, lambda some: max(one.peak_rss for one in some)),
        gpu_failures=sum(one.reason == "gpu-memory" and not one.forgiven for one in attempts),
        machine_failures=sum(
            one.reason in MACHINE_REASONS and not one.forgiven for one in attempts
        ),
    )


def viewpoint_count(scene: SceneFolder) -> int | None:
    """Viewpoints of a scene; None if it is not generated, or its scene.json is damaged."""
    try:
        return len(read_json(scene.generated)["viewpoints"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def missing_marker(scene: SceneFolder, stage: str) -> str | None:
    """A marker that a stage should have left and did not; None if the stage is complete."""
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
    """Remove everything that a new scene.blend would make outdated; the attempts stay.

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


def remove_damaged(scene: SceneFolder) -> None:
    """Remove the annotated panoramas that cannot be read, so that they are made again."""
    for index in range(viewpoint_count(scene) or 0):
        if scene.is_annotated(index):
            try:
                _defects(scene, index)
            except DamagedFileError:
                storage.remove_folder(scene.panorama(index), ANNOTATED)


def finish(scene: Scene, generator: str, *, keep_work: bool) -> str | None:
    """Write the record of a scene whose panoramas are all annotated, then remove its raw files.

    Returns:
        Why the scene is rejected, if it has no good panorama; nothing is written then.

    Raises:
        DamagedFileError: An annotated panorama cannot be read; see `remove_damaged`.
    """
    count = viewpoint_count(scene.folder) or 0
    defects = {index: _defects(scene.folder, index) for index in range(count)}
    panoramas = tuple(index for index, reasons in defects.items() if not reasons)
    if not panoramas:
        reasons = sorted({reason for some in defects.values() for reason in some})
        return f"no good panorama: {'; '.join(reasons) or 'no viewpoint'}"
    attempts = read_attempts(scene.folder)
    delivered = {stage: sum(a.bytes for a in attempts if a.stage == stage) for stage in STAGES}
    record = Done(
        scene_id=scene.folder.scene_id,
        seed=scene.seed,
        generator=generator,
        panoramas=panoramas,
        unfit={str(index): reasons for index, reasons in defects.items() if reasons},
        costs=costs_of(attempts),
        bytes={
            "scene": delivered["generate"],
            "rendered": delivered["render"],
            "panoramas": delivered["annotate"],
        },
        nodes=hosts_of(attempts),
        reasons=count_reasons(attempts),
        finished=time.time(),
        lost=lost_in(attempts),
    )
    if not keep_work:
        remove_work(scene.folder)  # before the record: a finished scene is never looked at again
    write_json(scene.folder.done, to_json(record))
    return None


def count_reasons(attempts: Iterable[Attempt]) -> dict[str, int]:
    """How many attempts ended for which reason."""
    return dict(sorted(Counter(attempt.reason or "lost" for attempt in attempts).items()))


def _remove_leftovers(scene: SceneFolder) -> None:
    """Remove half-copied files of a killed process from the scene's folder."""
    for name in storage.names(scene.path):
        if LEFTOVER.fullmatch(name):
            storage.remove(scene.path / name)


def _by_stage(
    attempts: Iterable[Attempt], value: Callable[[list[Attempt]], Value]
) -> dict[str, Value]:
    """A value of the attempts at each stage that has any."""
    stages: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        stages.setdefault(attempt.stage, []).append(attempt)
    return {stage: value(some) for stage, some in stages.items()}


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
            f"{path} is damaged; run the same command again to make that panorama again"
        ) from None
