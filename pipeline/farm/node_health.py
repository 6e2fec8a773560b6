"""Nodes that get no work for a while, quarantined seeds, and which of the two is at fault."""

from __future__ import annotations

import math
import re
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from pipeline.errors import UserError
from pipeline.farm.attempt import Result, log_path, read_attempts, reset_failures
from pipeline.farm.scene import Scene, quarantine
from pipeline.farm.scheduler import Node
from pipeline.settings import RunSettings

COOLDOWN_SECONDS = 300.0
CONSECUTIVE_FAILURES = 3
"""Seeds that fail on a node one after another, before it rests."""

OF_THE_NODE = ("crashed", "silent", "timeout")
"""Ends of an attempt for which its node may be to blame as well as its seed."""


@dataclass
class NodeHealth:
    """Who rests, by the names of nodes.

    Attributes:
        until: When each goes on, on the monotonic clock; never, if it is gone (Ray may name it for
            a while, and one that comes back has a new name).
        strikes: The seeds that failed on a node since one did not.
    """

    until: dict[str, float] = field(default_factory=dict)
    strikes: defaultdict[str, set[int]] = field(default_factory=lambda: defaultdict(set))

    def sort(self, nodes: Iterable[Node]) -> tuple[list[Node], list[Node]]:
        """The nodes that may be given work, and those that rest; what is gone is neither."""
        now = time.monotonic()
        self.until = {name: end for name, end in self.until.items() if end > now}
        there = [node for node in nodes if self.until.get(node.name) != math.inf]
        resting = [node for node in there if node.name in self.until]
        return [node for node in there if node.name not in self.until], resting

    def begin(self, name: str) -> None:
        """A node rests from now on."""
        self.until[name] = time.monotonic() + COOLDOWN_SECONDS

    def gone(self, name: str) -> None:
        """A node is not to be used any more."""
        self.until[name] = math.inf

    def record_outcome(self, name: str, seed: int, outcome: Result) -> bool:
        """Take note of how an attempt ended on a node; whether that should rest now.

        A node with a broken driver or disk ends what it is given in seconds, so it is always the
        first to be free, and would take every seed.
        """
        if outcome.ok:
            self.strikes.pop(name, None)
        elif outcome.reason in OF_THE_NODE:
            self.strikes[name].add(seed)
        if len(self.strikes.get(name, ())) < CONSECUTIVE_FAILURES:
            return False
        del self.strikes[name]
        return True


class SystemicFailureError(UserError):
    """Every seed fails alike and none was ever finished: the fault is around them."""


@dataclass
class Quarantine:
    """Quarantined seeds, in their order: scene, stage, how the last attempt ended."""

    seeds: list[tuple[Scene, str, Result]] = field(default_factory=list)

    def add(self, scene: Scene, settings: RunSettings, stage: str, outcome: Result) -> None:
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
            SystemicFailureError: They did. What is still at work may yet fail in the same way.
        """
        scene, stage, outcome = self.seeds[-1]
        kinds = {failure_kind(stage, outcome) for _, stage, outcome in self.seeds}
        if len(self.seeds) < many or len(kinds) > 1 or outcome.reason == "rejected":
            return
        tried = read_attempts(scene.folder)
        number = max((attempt.number for attempt in tried if attempt.stage == stage), default=1)
        log = log_path(scene.folder, stage, number)
        for failed, _, _ in self.seeds:
            reset_failures(failed.folder)
        raise SystemicFailureError(
            f"the first {len(self.seeds)} seeds all failed in {stage} "
            f"({outcome.reason}: {outcome.detail}); see {log}, mend the cause and run the same "
            "command again"
        )


def failure_kind(stage: str, outcome: Result) -> tuple[str, str, str]:
    """What makes two failures alike: everything but the numbers in the detail."""
    return stage, outcome.reason, re.sub(r"\d+", "", outcome.detail)
