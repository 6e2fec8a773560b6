"""When a seed is quarantined, its record in failed/, and when the seeds are not at fault."""

from __future__ import annotations

import re
import shlex
import time
from dataclasses import dataclass, field
from typing import Any

from pipeline import storage
from pipeline.errors import UserError
from pipeline.farm.attempt import (
    Result,
    SceneState,
    log_path,
    read_attempts,
    read_tail,
    reset_failures,
)
from pipeline.farm.farm_settings import FarmSettings
from pipeline.farm.records import Failed, costs_of, hosts_of, to_json
from pipeline.farm.scene import Scene, count_reasons, remove_work
from pipeline.layout import ANNOTATED, STAGES, write_json
from pipeline.mix import format_mix, parse_mix
from pipeline.run_settings import RunSettings, generator_of_seed, parse_generators
from pipeline.setting import own_options


class SystemicFailureError(UserError):
    """All seeds fail in the same way and none was ever finished: the fault is around them."""


def must_quarantine(state: SceneState, stage: str, result: Result, farm: FarmSettings) -> bool:
    """Whether a seed is quarantined after an attempt at a stage ended with a result."""
    if result.reason == "rejected":
        return True
    return not result.ok and retries_exhausted(state, stage, farm)


def retries_exhausted(state: SceneState, stage: str, farm: FarmSettings) -> bool:
    """Whether a scene still needs a stage at which it has failed as often as it may."""
    if state.stage is None or STAGES.index(state.stage) > STAGES.index(stage):
        return False
    return (
        state.failures.get(stage, 0) >= farm.attempts or state.machine_failures >= farm.nodes_lost
    )


@dataclass
class Quarantine:
    """The seeds that this driver quarantined, in order: scene, stage, last result."""

    seeds: list[tuple[Scene, str, Result]] = field(default_factory=list)

    def add(self, scene: Scene, settings: RunSettings, stage: str, result: Result) -> None:
        """Quarantine a seed."""
        write_failed(scene, settings, stage, result)
        self.seeds.append((scene, stage, result))

    def stop_if_too_many(self, allowed: int) -> None:
        """Raise a UserError if more than `allowed` seeds are quarantined."""
        if len(self.seeds) > allowed:
            scene, stage, result = self.seeds[-1]
            raise UserError(
                f"{len(self.seeds)} seeds failed, the last one in {stage} "
                f"({result.reason}: {result.detail}); see {scene.folder.failed}, fix the cause and "
                "run the same command again"
            )

    def stop_if_systemic(self, min_seeds: int) -> None:
        """Reset the failures and raise if at least `min_seeds` seeds failed in the same way.

        Rejections do not count, because each is a verdict on one scene.

        Raises:
            SystemicFailureError: They did. Attempts that still run may fail in the same way.
        """
        scene, stage, result = self.seeds[-1]
        kinds = {_failure_kind(stage, result) for _, stage, result in self.seeds}
        if len(self.seeds) < min_seeds or len(kinds) > 1 or result.reason == "rejected":
            return
        attempts = [one for one in read_attempts(scene.folder) if one.stage == stage]
        log = log_path(scene.folder, stage, max((one.number for one in attempts), default=1))
        for failed, _, _ in self.seeds:
            reset_failures(failed.folder)
        raise SystemicFailureError(
            f"the first {len(self.seeds)} seeds all failed in {stage} "
            f"({result.reason}: {result.detail}); see {log}, fix the cause and run the same "
            "command again"
        )


def write_failed(scene: Scene, settings: RunSettings, stage: str, result: Result) -> None:
    """Write the record of a quarantined seed and free its disk space."""
    attempts = read_attempts(scene.folder)
    number = max((attempt.number for attempt in attempts if attempt.stage == stage), default=0)
    log = log_path(scene.folder, stage, number)
    record = Failed(
        scene_id=scene.folder.scene_id,
        seed=scene.seed,
        generator=generator_of_seed(settings, scene.seed),
        stage=stage,
        reason=result.reason,
        detail=result.detail,
        log=f"{log.parent.name}/{log.name}",
        log_tail=result.log_tail or read_tail(log),
        costs=costs_of(attempts),
        reasons=count_reasons(attempts),
        nodes=hosts_of(attempts),
        run_again=run_again(settings, scene.seed),
        when=time.time(),
    )
    remove_work(scene.folder)  # before the record: a quarantined seed is never looked at again
    for name in storage.names(scene.folder.path / "panoramas"):
        storage.remove_folder(scene.folder.path / "panoramas" / name, ANNOTATED)
    write_json(scene.folder.failed, to_json(record))


def run_again(settings: RunSettings, seed: int) -> str:
    """The command that makes this one seed again, with the same settings."""
    words = []
    for option in own_options(RunSettings):
        value: Any = seed if option.name == "SEED" else getattr(settings, option.field)
        if option.declared.parse in (parse_mix, parse_generators):
            value = format_mix(value)
        elif option.is_list:
            value = ",".join(value)
        if value != "":
            words.append(shlex.quote(f"{option.name}={value}"))
    return f"make render SCENES=1 {' '.join(words)} OUT=out-seed-{seed}"


def _failure_kind(stage: str, result: Result) -> tuple[str, str, str]:
    """Equal for failures of the same kind: everything but the numbers in the detail."""
    return stage, result.reason, re.sub(r"\d+", "", result.detail)
