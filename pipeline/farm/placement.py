"""Which stage may start next, and on which node: pure bookkeeping, for the driver and for `plan`.

    generate   1 CPU; no more scenes ahead of the renders than `Ahead` allows
    render     a GPU and a CPU beside it, or CPUs where renders run on CPUs
    annotate   1 CPU

Later stages go first: they free disk and finish scenes. The node is chosen here, not by Ray: Ray
lets tasks of one CPU overtake one that waits for several for ever, and puts a task without a GPU on
the CPU that a GPU waits for. What is handed to Ray fits where it is sent, so it starts at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

MOST_RENDER_CPUS = 8
"""A scene is read into Cycles by one thread; more CPUs then only wait."""


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
            take: it has a queue of its own, and a node is left to empty for it.
    """

    stage: str
    cpus: int = 1
    gpus: int = 0
    memory: int = 0
    disk: int = 0
    large: bool = False


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


@dataclass
class Placement:
    """What is free on each node.

    Attributes:
        on_gpu: Renders run on GPUs.
        render_cpus: CPUs of one render on a CPU; None decides by memory and by what is left.
        nodes: The nodes that may be given work now.
        used: What runs on each node, summed, also on nodes that are given no more.
    """

    on_gpu: bool = False
    render_cpus: int | None = None
    nodes: dict[str, Node] = field(default_factory=dict)
    used: dict[str, Node] = field(default_factory=dict)

    def update(self, nodes: Iterable[Node]) -> None:
        """Take note of the nodes that may be given work; they come and go."""
        self.nodes = {node.name: node for node in nodes}

    def start(self, need: Need, name: str) -> None:
        self._use(need, name, 1)

    def end(self, need: Need, name: str) -> None:
        self._use(need, name, -1)

    @property
    def cpus(self) -> int:
        return sum(node.cpus for node in self.nodes.values())

    @property
    def gpus(self) -> int:
        return sum(node.gpus for node in self.nodes.values())

    @property
    def max_ahead(self) -> int:
        """Scenes generating or waiting for a render, at most: one each, and one more."""
        return self.cpus + (self.gpus if self.on_gpu else self.cpus) + 1

    def choose(
        self, ready: Iterable[Need], ahead: Ahead, renders_left: int = 1
    ) -> tuple[Need, str] | None:
        """What to start now, and where; None to wait.

        Args:
            ready: What the first scene of each queue needs.
            ahead: Scenes that are being generated or wait for a render.
            renders_left: Scenes that are not rendered yet, those that are not begun included.

        Example:
            >>> placement = Placement()
            >>> placement.update([Node("a", cpus=2)])
            >>> ready = [Need("generate"), Need("render")]
            >>> placement.choose(ready, Ahead(disk=10**9), renders_left=9)
            (Need(stage='render', cpus=1, gpus=0, memory=0, disk=0, large=False), 'a')
        """
        # A GPU must not wait for a CPU that an annotation took; without one, finishing goes first.
        finishing = ("render", "annotate") if self.on_gpu else ("annotate", "render")
        order = (*finishing, "generate")
        kept: str | None = None  # a node that is left to empty until what waits for it has room
        for need in sorted(ready, key=lambda need: (not need.large, order.index(need.stage))):
            if need.stage == "generate" and not ahead.has_room(need, self.max_ahead):
                continue
            on_cpus = need.stage == "render" and not self.on_gpu
            place = self._place_cpu_render if on_cpus else self._place
            if found := place(need, kept, renders_left):
                return found
            if kept is None and (on_cpus or need.large):
                kept = self._nearest(need, renders_left)
        return None

    def render_threads(self, node: Node, memory: int, renders_left: int) -> int:
        """CPUs of one render on a node where renders run on CPUs.

        Small renders side by side make most of a node, because one thread reads the scene and
        writes the files while the others wait (`tests/benchmarks/render_cpus.py`); larger ones
        only where memory or the scenes that are left would let CPUs lie idle.
        """
        if self.render_cpus is not None:
            return self.render_cpus
        side_by_side = node.cpus
        if memory and node.memory is not None:
            side_by_side = min(side_by_side, max(1, node.memory // memory))
        share = -(-renders_left // max(1, len(self.nodes)))  # of what is left, rounded up
        return max(1, min(MOST_RENDER_CPUS, node.cpus // max(1, min(side_by_side, share))))

    def _place_cpu_render(
        self, need: Need, kept: str | None, renders_left: int
    ) -> tuple[Need, str] | None:
        """A render with the CPUs that it is given, and the node with most free ones."""
        found, found_free = None, -1
        most = self._most_memory(need)
        threads: dict[tuple[int, int | None], int] = {}  # of each kind of node, for there are few
        for name, node in self.nodes.items():
            kind = node.cpus, node.memory
            if kind not in threads:
                threads[kind] = self.render_threads(node, need.memory, renders_left)
            cpus, free = threads[kind], node.cpus - self.used.get(name, NOTHING).cpus
            if free > found_free and name != kept and self._fits(need, cpus, name, most):
                found, found_free = (replace(need, cpus=cpus), name), free
        return found

    def _place(
        self, need: Need, kept: str | None, renders_left: int = 0
    ) -> tuple[Need, str] | None:
        """The node with most free CPUs that has room, those without an idle GPU first."""
        best, best_idle, best_free = None, 0, -1
        most = self._most_memory(need)
        for name, node in self.nodes.items():
            used = self.used.get(name, NOTHING)
            free = node.cpus - used.cpus
            if free < need.cpus or node.gpus - used.gpus < need.gpus or name == kept:
                continue
            idle = node.gpus - used.gpus if self.on_gpu and not need.gpus else 0
            better = best is None or idle < best_idle or (idle == best_idle and free > best_free)
            if better and self._fits(need, need.cpus, name, most):
                best, best_idle, best_free = name, idle, free
        return None if best is None else (need, best)

    def _nearest(self, need: Need, renders_left: int) -> str | None:
        """The node that comes nearest to having room, of those that can ever have it."""
        most = self._most_memory(need)

        def near(node: Node) -> tuple[int, int]:
            """The memory that is wanting, with a minus, and the CPUs that are free."""
            used = self.used.get(node.name, NOTHING)
            memory = (used.memory or 0) + need.memory
            wanting = 0 if node.memory is None else max(0, memory - node.memory)
            return -wanting, node.cpus - used.cpus

        def able(node: Node) -> bool:
            cpus = need.cpus
            if need.stage == "render" and not self.on_gpu:
                cpus = self.render_threads(node, need.memory, renders_left)
            cpus += 0 if need.gpus else self._kept_for_gpus(node.gpus, node)
            enough = node.memory is None or node.memory >= min(need.memory, most)
            return node.cpus >= cpus and node.gpus >= need.gpus and enough

        nodes = [node for node in self.nodes.values() if able(node)]
        return max(nodes, key=near).name if nodes else None

    def _most_memory(self, need: Need) -> float:
        """Of the nodes that an attempt could run on, the memory of the largest."""
        return max(
            (
                math.inf if node.memory is None else node.memory
                for node in self.nodes.values()
                if node.cpus >= need.cpus and node.gpus >= need.gpus
            ),
            default=0,
        )

    def _kept_for_gpus(self, idle: int, node: Node) -> int:
        """CPUs of a node that are left to its idle GPUs, whose renders must find one beside them.

        At most half of them, for without scenes the GPUs have nothing to do.
        """
        return min(idle, node.cpus // 2) if self.on_gpu else 0

    def _fits(self, need: Need, cpus: int, name: str, most: float) -> bool:
        """Whether an attempt that is given so many CPUs has room on a node.

        Args:
            most: As `_most_memory` gave it.
        """
        node, used = self.nodes[name], self.used.get(name, NOTHING)
        kept = 0 if need.gpus else self._kept_for_gpus(node.gpus - used.gpus, node)
        if used.cpus + cpus + kept > node.cpus or used.gpus + need.gpus > node.gpus:
            return False
        if node.memory is None or (used.memory or 0) + need.memory <= node.memory:
            return True
        alone = not used.cpus and not used.gpus  # what needs more than there is must still run
        return alone and node.memory >= min(need.memory, most)

    def _use(self, need: Need, name: str, sign: int) -> None:
        used = self.used.get(name, NOTHING)
        self.used[name] = replace(
            used,
            name=name,
            cpus=used.cpus + sign * need.cpus,
            gpus=used.gpus + sign * need.gpus,
            memory=(used.memory or 0) + sign * need.memory,
        )
