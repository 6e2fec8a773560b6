"""What nodes have and attempts need: the words of `placement`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Node:
    """A machine of the cluster.

    Attributes:
        name: Ray's id of it.
        memory: Bytes that tasks may use together; None where it is not known.
    """

    name: str
    cpus: int
    gpus: int = 0
    memory: int | None = None


NOTHING = Node("", cpus=0, memory=0)
"""What is used on a node where nothing runs."""


@dataclass(frozen=True)
class Need:
    """What an attempt takes from its node until it ends.

    Attributes:
        stage: generate, render or annotate.
        cpus: At least; a render on CPUs is given more where there is no other work for them.
        memory: Bytes that it is expected to use.
        disk: Bytes of its scene file: what generating is expected to leave, or what a render has.
        large: It takes more than others of its stage, because it failed with as much as they
            take: a node is left to empty for it.
        avoid: Nodes where its seed failed, which it does not go to as long as there are others.
    """

    stage: str
    cpus: int = 1
    gpus: int = 0
    memory: int = 0
    disk: int = 0
    large: bool = False
    avoid: frozenset[str] = frozenset()

    @property
    def queue(self) -> Queue:
        """Where it waits: what differs from the others of its stage does not hold them up."""
        return self.stage, self.large, bool(self.avoid)


Queue = tuple[str, bool, bool]
"""A stage, whether its attempts are `large`, and whether they `avoid` nodes."""


@dataclass
class Ahead:
    """Scenes that are generated or wait for a render: they bound the disk that scene files take.

    Generating ones are part of the count, so that a slow renderer lowers the number of generators
    step by step; a limit on the waiting ones alone would swing between all generators and none.

    Attributes:
        disk: Bytes that the scene files may take, those that are being made included.
        scenes: How many there are now, and `bytes`, what they take or are expected to.
    """

    disk: int
    scenes: int = 0
    bytes: int = 0

    def has_room(self, need: Need, most: int) -> bool:
        """Whether one more scene may be generated; the first one always may."""
        return not self.scenes or (self.scenes < most and self.bytes + need.disk <= self.disk)

    def add(self, disk: int) -> None:
        self.scenes, self.bytes = self.scenes + 1, self.bytes + disk

    def remove(self, disk: int) -> None:
        self.scenes, self.bytes = self.scenes - 1, self.bytes - disk


@dataclass(frozen=True)
class Kept:
    """A node that is left to empty until what waits for it has room."""

    name: str
    need: Need

    def bars(self, need: Need, node: Node, used: Node) -> bool:
        """Whether an attempt may not start there: it would take what the other one waits for.

        A GPU need not wait for one that wants CPUs, if the CPUs beside GPUs are none of those.
        """
        if node.name != self.name:
            return False
        if not need.gpus or self.need.gpus or node.gpus + self.need.cpus > node.cpus:
            return True
        memory = (used.memory or 0) + need.memory + self.need.memory
        return node.memory is not None and memory > node.memory
