"""The files of a large run without the work, and stand-ins for the cluster that makes it."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.annotations.stage import annotate_scene
from pipeline.farm.attempt import (
    Attempt,
    AttemptSpec,
    Result,
    SceneState,
    log_path,
    record_path,
)
from pipeline.farm.records import Done, Failed, costs_of, hosts_of, lost_in, to_json
from pipeline.farm.run_lock import claim
from pipeline.farm.scheduler import Node
from pipeline.layout import STAGES, RunFolder
from pipeline.run_settings import RunSettings, scene_id
from pipeline.units import GIB
from tests.synthetic import SETTINGS, render_scene

FAILED_EVERY = 100  # seeds
NODES = [Node(f"node-{number:02d}", cpus=32, memory=256 * 2**30) for number in range(16)]


def settings_of(panoramas: int) -> RunSettings:
    return replace(SETTINGS, width=64, panos=panoramas)


def lay_out(run: RunFolder, scenes: int, settings: RunSettings) -> None:
    """Write the files of a run whose scenes are all finished."""
    with claim(run, settings, scenes):
        pass
    with tempfile.TemporaryDirectory() as scratch:
        first = render_scene(RunFolder(Path(scratch)), settings)
        annotate_scene(first, settings)
        files = {
            str(path.relative_to(first.path)): path.read_bytes()
            for path in [first.generated, *sorted(first.path.glob("panoramas/*/*"))]
        }
    for folder in (run.done_folder, run.failed_folder):
        folder.mkdir()
    done, seed = 0, settings.seed
    while done < scenes:
        failed = seed % FAILED_EVERY == FAILED_EVERY - 1
        _scene(run, settings, seed, {} if failed else files)
        done += not failed
        seed += 1
        if seed % 2000 == 0:
            print(f"{done} of {scenes} scenes laid out", file=sys.stderr)


def _scene(run: RunFolder, settings: RunSettings, seed: int, files: dict[str, bytes]) -> None:
    """One scene; without files, a failed seed."""
    scene, old = run.scene(scene_id(settings, seed)), scene_id(settings, 0)
    scene.attempts.mkdir(parents=True)
    (scene.path / "panoramas").mkdir()
    for index in range(settings.panos if files else 0):
        scene.panorama(index).mkdir()
    for name, data in files.items():
        if name.endswith(".json"):
            data = data.replace(old.encode(), scene.scene_id.encode())
            data = data.replace(b'"seed": 0', b'"seed": %d' % seed)
        (scene.path / name).write_bytes(data)
    stages = STAGES if files else ("generate", "render", "render", "render")
    tried = []
    for place, stage in enumerate(stages):
        number = 1 + stages[:place].count(stage)
        attempt = _attempt(stage, number, seed, "ok" if files or place == 0 else "crashed")
        record_path(scene, stage, number).write_text(_text(asdict(attempt)))
        log_path(scene, stage, number).write_text(f"stage: {stage}\n" + "line\n" * 50)
        tried.append(attempt)
    if files:
        scene.done.write_text(_text(to_json(_done(scene.scene_id, seed, settings, tried))))
    else:
        record = Failed(
            **_common(scene.scene_id, seed, tried),
            stage="render",
            reason="crashed",
            detail="killed by SIGSEGV",
            log="attempts/render-3.log",
            log_tail="line\n" * 30,
            run_again=f"make render SCENES=1 SEED={seed}",
            when=_when(seed),
        )
        scene.failed.write_text(_text(to_json(record)))


def _attempt(stage: str, number: int, seed: int, reason: str = "ok") -> Attempt:
    node = f"{seed % len(NODES):056x}"
    seconds = {"generate": 400.0, "render": 900.0, "annotate": 60.0}[stage] + seed % 97
    return Attempt(
        *(stage, number, f"node-{seed % len(NODES):02d}", 4711, 1.7e9, _when(seed) - seconds),
        *(_when(seed), reason, "", seconds, 3 * seconds, (2 + seed % 5) * GIB),
        node=node,
        gpus=int(stage == "render"),
        bytes=10**7 + seed,
        brought=10,
    )


def _done(name: str, seed: int, settings: RunSettings, tried: list[Attempt]) -> Done:
    return Done(
        **_common(name, seed, tried),
        panoramas=tuple(range(settings.panos)),
        unfit={},
        bytes={"scene": 10**8, "rendered": 10**8, "panoramas": 10**7},
        finished=_when(seed),
        lost=lost_in(tried),
    )


def _common(name: str, seed: int, tried: list[Attempt]) -> dict[str, Any]:
    reasons = [str(attempt.reason) for attempt in tried]
    return {
        "scene_id": name,
        "seed": seed,
        "generator": "spheres",
        "costs": costs_of(tried),
        "reasons": {reason: reasons.count(reason) for reason in set(reasons)},
        "nodes": hosts_of(tried),
    }


def _when(seed: int) -> float:
    return 1.7e9 + 40.0 * seed


def _text(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=1, sort_keys=True) + "\n"


class StartedError(Exception):
    """The driver started its first attempt."""


@dataclass
class Workers:
    """Stand-ins for the cluster, which finish every attempt at once.

    Attributes:
        only_first: Raise `StartedError` at the first attempt.
        drivers: Seconds from the first attempt to the last that were not spent here, on the wall
            and on the CPU.
        finished: Scenes.
    """

    run: RunFolder
    settings: RunSettings
    only_first: bool = False
    drivers: tuple[float, float] = (0.0, 0.0)
    finished: int = 0
    _left: tuple[float, float] | None = None  # when the driver went on
    _ended: list[tuple[int, Result]] = field(default_factory=list)
    _last_id: int = 0

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def nodes(self) -> list[Node]:
        return NODES

    def start(self, spec: AttemptSpec) -> int:
        if self.only_first:
            raise StartedError
        with self._here():
            self._last_id += 1
            self._ended.append((self._last_id, self._carry_out(spec)))
            return self._last_id

    def wait(self, seconds: float) -> list[tuple[int, Result]]:
        with self._here():
            ended, self._ended = self._ended, []
            return ended

    @contextmanager
    def _here(self) -> Iterator[None]:
        """Stop the driver's clock meanwhile."""
        now = time.perf_counter(), time.process_time()
        if self._left is not None:
            self.drivers = (
                self.drivers[0] + now[0] - self._left[0],
                self.drivers[1] + now[1] - self._left[1],
            )
        yield
        self._left = time.perf_counter(), time.process_time()

    def _carry_out(self, spec: AttemptSpec) -> Result:
        """What a worker leaves in OUT and reports."""
        scene = self.run.scene(spec.scene_id)
        scene.attempts.mkdir(parents=True, exist_ok=True)
        attempt = _attempt(spec.stage, spec.number, spec.seed)
        record_path(scene, spec.stage, spec.number).write_text(_text(asdict(attempt)))
        numbers = {stage: 1 for stage in STAGES[: STAGES.index(spec.stage) + 1]}
        following = {"generate": "render", "render": "annotate", "annotate": None}[spec.stage]
        left = self.settings.panos
        state = SceneState(following, left, left, scene_bytes=10**8, numbers=numbers)
        if following is None:
            tried = [_attempt(stage, 1, spec.seed) for stage in STAGES]
            record = _done(scene.scene_id, spec.seed, self.settings, tried)
            scene.done.write_text(_text(to_json(replace(record, finished=time.time()))))
            self.finished += 1
        return Result("ok", peak_rss=2 * GIB, state=state)
