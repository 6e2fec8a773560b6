"""What a scene needs next, by its files in OUT alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from pipeline import storage
from pipeline.layout import ANNOTATED, LEFTOVER, RENDERED, STAGES, SceneFolder, read_json
from pipeline.ledger.attempts import ELSEWHERE, Attempt, read_attempts

Result = TypeVar("Result")

FINISH = "finish"  # every panorama is annotated, only its record in done/ is missing


@dataclass(frozen=True)
class State:
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


def read_state(scene: SceneFolder) -> State:
    """Look at a scene's files."""
    if storage.exists(scene.done) or storage.exists(scene.failed):
        return State(stage=None)
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
    return State(
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


def _by_stage(
    tried: Iterable[Attempt], value: Callable[[list[Attempt]], Result]
) -> dict[str, Result]:
    """By each stage that some attempts were at, what they come to."""
    stages: dict[str, list[Attempt]] = {}
    for one in tried:
        stages.setdefault(one.stage, []).append(one)
    return {stage: value(those) for stage, those in stages.items()}
