"""The scenes of a run: which seeds it wants, how one is finished, and what is there in the end."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from pipeline.errors import UserError
from pipeline.farm import attempts
from pipeline.farm.schedule import viewpoint_count
from pipeline.outputs import DamagedFileError, RunFolder, SceneFolder, read_json, write_json
from pipeline.settings import RunSettings, scene_id

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
    for seed in range(settings.seed if first is None else first, LAST_SEED + 1):
        folder = run.scene(scene_id(settings, seed))
        if not folder.failed.exists():
            yield Scene(seed, folder)
    raise UserError(f"there are no seeds above {LAST_SEED}; start with a smaller SEED")


def drop_damaged(scene: SceneFolder) -> None:
    """Remove the annotated panoramas that cannot be read, so that they are made again."""
    for index in range(viewpoint_count(scene) or 0):
        if scene.panorama(index).exists():
            try:
                _defects(scene, index)
            except DamagedFileError:
                shutil.rmtree(scene.panorama(index))


def finish(scene: Scene, *, keep_work: bool) -> str | None:
    """Write done.json, then remove what it makes superfluous.

    Returns:
        Why the scene is no good, if it has not one good panorama; nothing is written then.
    """
    panoramas, unfit = _panoramas(scene.folder)
    if not panoramas:
        reasons = sorted({reason for all_of_one in unfit.values() for reason in all_of_one})
        return f"no good panorama: {'; '.join(reasons) or 'no viewpoint'}"
    costs = _costs(scene.folder)
    done = {"seed": scene.seed, "panoramas": panoramas, "unfit": unfit, "costs": costs}
    write_json(scene.folder.done, done)
    if not keep_work:
        attempts.remove_work(scene.folder)
    return None


def summarize(
    run: RunFolder, settings: RunSettings, scenes: int, made: int, seconds: float
) -> Summary:
    """Sum up a run whose wanted scenes are all done."""
    wanted = list(islice(open_seeds(run, settings), scenes))
    good, unfit = zip(*(_read_done(scene.folder) for scene in wanted), strict=True)
    seeds = range(settings.seed, wanted[-1].seed + 1)
    folders = [run.scene(scene_id(settings, seed)) for seed in seeds]
    return Summary(
        scenes=tuple(scene.folder.scene_id for scene in wanted),
        made=made,
        panoramas=sum(good),
        unfit=sum(unfit),
        failed=tuple(folder.scene_id for folder in folders if folder.failed.exists()),
        seconds=seconds,
    )


def _panoramas(scene: SceneFolder) -> tuple[list[int], dict[str, list[str]]]:
    """Indices of the good panoramas, and why each of the others is unfit."""
    good: list[int] = []
    unfit: dict[str, list[str]] = {}
    for index in range(viewpoint_count(scene) or 0):
        if reasons := _defects(scene, index):
            unfit[str(index)] = reasons
        else:
            good.append(index)
    return good, unfit


def _defects(scene: SceneFolder, index: int) -> list[str]:
    """Why an annotated panorama is unfit; empty for a good one.

    Raises:
        DamagedFileError: Its row.json is damaged.
    """
    path = scene.panorama(index) / "row.json"
    try:
        return list(read_json(path)["summary"]["defects"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        raise DamagedFileError(
            f"{path} is damaged; run the same command again, it makes that panorama again"
        ) from None


def _read_done(scene: SceneFolder) -> tuple[int, int]:
    """How many good and unfit panoramas a finished scene has."""
    mend = "delete it and run the same command again, which writes it anew"
    record = read_json(scene.done, mend)
    try:
        return len(record["panoramas"]), len(record["unfit"])
    except (KeyError, TypeError):
        raise DamagedFileError(f"{scene.done} is damaged; {mend}") from None


def _costs(scene: SceneFolder) -> dict[str, dict[str, float]]:
    """What a scene cost by stage, failed attempts included; seconds and bytes."""
    costs: dict[str, dict[str, float]] = {}
    for attempt in attempts.read_attempts(scene):
        stage = costs.setdefault(
            attempt.stage, {"attempts": 0, "seconds": 0.0, "cpu_seconds": 0.0, "peak_rss": 0}
        )
        stage["attempts"] += 1
        stage["seconds"] += attempt.seconds
        stage["cpu_seconds"] += attempt.cpu_seconds
        stage["peak_rss"] = max(stage["peak_rss"], attempt.peak_rss)
    return costs
