"""Nodes that are given no work for a while, or none any more."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from pipeline.farm.resources import Node
from pipeline.ledger.outcome import Outcome

REST_SECONDS = 300.0
STRIKES = 3
"""Seeds that fail on a node one after another, before it rests."""

OF_THE_NODE = ("crashed", "silent", "timeout")
"""Ends of an attempt for which its node may be to blame as well as its seed."""


@dataclass
class Rests:
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
        self.until[name] = time.monotonic() + REST_SECONDS

    def gone(self, name: str) -> None:
        """A node is not to be used any more."""
        self.until[name] = math.inf

    def is_due(self, name: str, seed: int, outcome: Outcome) -> bool:
        """Take note of how an attempt ended on a node; whether that should rest now.

        A node with a broken driver or disk ends what it is given in seconds, so it is always the
        first to be free, and would take every seed.
        """
        if outcome.ok:
            self.strikes.pop(name, None)
        elif outcome.reason in OF_THE_NODE:
            self.strikes[name].add(seed)
        if len(self.strikes.get(name, ())) < STRIKES:
            return False
        del self.strikes[name]
        return True
