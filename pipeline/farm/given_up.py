"""The seeds that a driver gave up, and when the fault is not theirs."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from pipeline.errors import UserError
from pipeline.farm.scenes import Scene, quarantine
from pipeline.ledger import attempts
from pipeline.ledger.outcome import Outcome
from pipeline.settings import RunSettings


class NotTheSeedsError(UserError):
    """Every seed fails alike and none was ever finished: the fault is around them."""


@dataclass
class GivenUp:
    """Quarantined seeds, in their order: scene, stage, how the last attempt ended."""

    seeds: list[tuple[Scene, str, Outcome]] = field(default_factory=list)

    def add(self, scene: Scene, settings: RunSettings, stage: str, outcome: Outcome) -> None:
        """Quarantine a seed."""
        quarantine(scene, settings, stage, outcome)
        self.seeds.append((scene, stage, outcome))

    def stop_if_too_many(self, allowed: int) -> None:
        """UserError when more than so many seeds were given up."""
        if len(self.seeds) > allowed:
            scene, stage, outcome = self.seeds[-1]
            raise UserError(
                f"{len(self.seeds)} seeds failed, the last one in {stage} "
                f"({outcome.reason}: {outcome.detail}); see {scene.folder.failed}, mend the "
                "cause and run the same command again"
            )

    def stop_if_all_fail_alike(self, many: int) -> None:
        """Raise when so many seeds failed, all for one reason; they are given back.

        Rejections do not count here: they are a scene's own.

        Raises:
            NotTheSeedsError: They did. What is still at work may yet fail in the same way.
        """
        scene, stage, outcome = self.seeds[-1]
        kinds = {failure_kind(stage, outcome) for _, stage, outcome in self.seeds}
        if len(self.seeds) < many or len(kinds) > 1 or outcome.reason == "rejected":
            return
        tried = attempts.read_attempts(scene.folder)
        number = max((attempt.number for attempt in tried if attempt.stage == stage), default=1)
        log = attempts.log_path(scene.folder, stage, number)
        for failed, _, _ in self.seeds:
            attempts.forgive(failed.folder)
        raise NotTheSeedsError(
            f"the first {len(self.seeds)} seeds all failed in {stage} "
            f"({outcome.reason}: {outcome.detail}); see {log}, mend the cause and run the same "
            "command again"
        )


def failure_kind(stage: str, outcome: Outcome) -> tuple[str, str, str]:
    """What makes two failures alike: everything but the numbers in the detail."""
    return stage, outcome.reason, re.sub(r"\d+", "", outcome.detail)
