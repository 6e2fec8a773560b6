"""Nodes that get no work for a while, or none any more."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from pipeline.farm.attempt import Result
from pipeline.farm.scheduler import Node

COOLDOWN_SECONDS = 300.0
MAX_CONSECUTIVE_FAILURES = 3
"""Different seeds that fail on a node in a row, before it cools down."""

SUSPICIOUS_REASONS = ("crashed", "silent", "timeout")
"""Reasons for which the node may be to blame as well as the seed."""


@dataclass
class NodeHealth:
    """Which nodes may get work, by their names.

    Attributes:
        cooldown_ends: When each cooldown ends, on the monotonic clock. It never ends for a node
            that is gone: Ray may list it for a while, and if it comes back it has a new name.
        consecutive_failures: The seeds that failed on a node since its last success.
    """

    cooldown_ends: dict[str, float] = field(default_factory=dict)
    consecutive_failures: defaultdict[str, set[int]] = field(
        default_factory=lambda: defaultdict(set)
    )

    def split(self, nodes: Iterable[Node]) -> tuple[list[Node], list[Node]]:
        """The nodes that may get work, and those that cool down; a node that is gone is neither."""
        now = time.monotonic()
        self.cooldown_ends = {name: end for name, end in self.cooldown_ends.items() if end > now}
        present = [node for node in nodes if self.cooldown_ends.get(node.name) != math.inf]
        cooling_down = [node for node in present if node.name in self.cooldown_ends]
        return [node for node in present if node.name not in self.cooldown_ends], cooling_down

    def start_cooldown(self, name: str) -> None:
        """The node gets no work for `COOLDOWN_SECONDS`."""
        self.cooldown_ends[name] = time.monotonic() + COOLDOWN_SECONDS
        self.consecutive_failures.pop(name, None)

    def mark_gone(self, name: str) -> None:
        """The node gets no work any more."""
        self.cooldown_ends[name] = math.inf

    def record_outcome(self, name: str, seed: int, result: Result) -> None:
        """Count how an attempt at a seed ended on a node."""
        if result.ok:
            self.consecutive_failures.pop(name, None)
        elif result.reason in SUSPICIOUS_REASONS:
            self.consecutive_failures[name].add(seed)

    def is_suspicious(self, name: str) -> bool:
        """Whether so many seeds failed on a node in a row that it should cool down.

        A node with a broken driver or disk ends every attempt within seconds. It would always be
        the first free node, and would take every seed.
        """
        return len(self.consecutive_failures.get(name, ())) >= MAX_CONSECUTIVE_FAILURES
