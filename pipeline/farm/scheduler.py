"""Which stage may start next, and on which node: pure bookkeeping, for the driver and for `plan`.

    generate   1 CPU; no more scenes ahead of the renders than `RenderBacklog` allows
    render     a GPU and a CPU beside it, or CPUs where renders run on CPUs
    annotate   1 CPU

Later stages go first: they free disk and finish scenes. The node is chosen here, not by Ray: Ray
lets tasks of one CPU overtake one that waits for several for ever, and puts a task without a GPU on
the CPU that a GPU waits for. What is handed to Ray fits where it is sent, so it starts at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace


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
class ResourceRequest:
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
class RenderBacklog:
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

    def has_room(self, need: ResourceRequest, most: int) -> bool:
        """Whether one more scene may be generated; the first one always may."""
        return not self.scenes or (self.scenes < most and self.bytes + need.disk <= self.disk)

    def add(self, disk: int) -> None:
        self.scenes, self.bytes = self.scenes + 1, self.bytes + disk

    def remove(self, disk: int) -> None:
        self.scenes, self.bytes = self.scenes - 1, self.bytes - disk


@dataclass(frozen=True)
class NodeReservation:
    """A node that is left to empty until what waits for it has room."""

    name: str
    need: ResourceRequest

    def blocks(self, need: ResourceRequest, node: Node, used: Node) -> bool:
        """Whether an attempt may not start there: it would take what the other one waits for.

        A GPU need not wait for one that wants CPUs, if the CPUs beside GPUs are none of those.
        """
        if node.name != self.name:
            return False
        if not need.gpus or self.need.gpus or node.gpus + self.need.cpus > node.cpus:
            return True
        memory = (used.memory or 0) + need.memory + self.need.memory
        return node.memory is not None and memory > node.memory


MOST_RENDER_CPUS = 8
"""A scene is read into Cycles by one thread; more CPUs then only wait."""


@dataclass
class Scheduler:
    """What is free on each node.

    Attributes:
        on_gpu: Renders run on GPUs.
        render_cpus: CPUs of one render on a CPU; None decides by memory and by what is left.
        nodes: The nodes that may be given work now.
        known: Those and the nodes that rest for a while.
        used: What runs on each node, summed, also on nodes that are given no more.
    """

    on_gpu: bool = False
    render_cpus: int | None = None
    nodes: dict[str, Node] = field(default_factory=dict)
    known: dict[str, Node] = field(default_factory=dict)
    used: dict[str, Node] = field(default_factory=dict)

    def update(self, nodes: Iterable[Node], resting: Iterable[Node] = ()) -> None:
        """Take note of the nodes that may be given work, and of those that rest; they change."""
        self.nodes = {node.name: node for node in nodes}
        self.known = self.nodes | {node.name: node for node in resting}

    def start(self, need: ResourceRequest, name: str) -> None:
        self._use(need, name, 1)

    def end(self, need: ResourceRequest, name: str) -> None:
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
        self, ready: Iterable[ResourceRequest], ahead: RenderBacklog, renders_left: int = 1
    ) -> tuple[ResourceRequest, str] | None:
        """What to start now, and where; None to wait.

        Args:
            ready: What the first scene of each queue needs.
            ahead: Scenes that are being generated or wait for a render.
            renders_left: Scenes that are not rendered yet, those that are not begun included.

        Example:
            >>> placement = Scheduler()
            >>> placement.update([Node("a", cpus=2)])
            >>> ready = [ResourceRequest("generate"), ResourceRequest("render")]
            >>> need, node = placement.choose(ready, RenderBacklog(disk=10**9), renders_left=9)
            >>> need.stage, node
            ('render', 'a')
        """
        # A GPU must not wait for a CPU that an annotation took; without one, finishing goes first.
        finishing = ("render", "annotate") if self.on_gpu else ("annotate", "render")
        order = (*finishing, "generate")
        kept: NodeReservation | None = None
        for need in sorted(
            ready, key=lambda need: (not need.large, order.index(need.stage), not need.avoid)
        ):
            if need.stage == "generate" and not ahead.has_room(need, self.max_ahead):
                continue
            most = self._most_memory(need, renders_left)
            if found := self._place(need, most, kept, renders_left):
                return found
            on_cpus = need.stage == "render" and not self.on_gpu
            if kept is None and (on_cpus or need.large):
                kept = self._nearest(need, most, renders_left)
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

    def cpus_of(self, need: ResourceRequest, node: Node, renders_left: int) -> int:
        """CPUs that an attempt is given on a node."""
        if need.stage == "render" and not self.on_gpu:
            return self.render_threads(node, need.memory, renders_left)
        return need.cpus

    def _place(
        self, need: ResourceRequest, most: float, kept: NodeReservation | None, renders_left: int
    ) -> tuple[ResourceRequest, str] | None:
        """The node with most free CPUs that has room, those without an idle GPU first.

        Args:
            most: As `_most_memory` gave it.
        """
        best: tuple[ResourceRequest, str] | None = None
        best_idle, best_free = 0, -1
        for name, node, cpus in self._able(need, self.nodes, renders_left):
            used = self.used.get(name, NOTHING)
            free = node.cpus - used.cpus
            idle = node.gpus - used.gpus if self.on_gpu and not need.gpus else 0
            if best is not None and (idle > best_idle or (idle == best_idle and free <= best_free)):
                continue
            if self._fits(need, cpus, node, most) and not (kept and kept.blocks(need, node, used)):
                best = (need if cpus == need.cpus else replace(need, cpus=cpus)), name
                best_idle, best_free = idle, free
        return best

    def _nearest(
        self, need: ResourceRequest, most: float, renders_left: int
    ) -> NodeReservation | None:
        """The node that comes nearest to having room, of those that can ever have it."""

        def near(node: Node) -> tuple[bool, int, int]:
            """Whether no GPU is there to wait; the memory that is wanting; CPUs that are free."""
            used = self.used.get(node.name, NOTHING)
            memory = (used.memory or 0) + need.memory
            wanting = 0 if node.memory is None else max(0, memory - node.memory)
            return bool(need.gpus) or not node.gpus, -wanting, node.cpus - used.cpus

        nodes = [
            node
            for _, node, _ in self._able(need, self.nodes, renders_left)
            if node.memory is None or node.memory >= min(need.memory, most)
        ]
        return NodeReservation(max(nodes, key=near).name, need) if nodes else None

    def _able(
        self, need: ResourceRequest, nodes: Mapping[str, Node], renders_left: int
    ) -> list[tuple[str, Node, int]]:
        """The nodes that an attempt could run on if nothing else did, and its CPUs there.

        Those that it avoids are not among them, unless there is no other, be it after its rest.
        """
        if need.avoid:
            anywhere = replace(need, avoid=frozenset())
            others = {name for name, _, _ in self._able(anywhere, self.known, renders_left)}
            if others := others - need.avoid:
                nodes = {name: node for name, node in nodes.items() if name in others}
        able = []
        threads: dict[tuple[int, int | None], int] = {}  # by kind of node, for there are few
        for name, node in nodes.items():
            kind = node.cpus, node.memory
            if kind not in threads:
                threads[kind] = self.cpus_of(need, node, renders_left)
            cpus = threads[kind]
            kept = 0 if need.gpus else self._kept_for_gpus(node.gpus, node)
            if cpus + kept <= node.cpus and need.gpus <= node.gpus:
                able.append((name, node, cpus))
        return able

    def _most_memory(self, need: ResourceRequest, renders_left: int) -> float:
        """The memory of the largest node that an attempt could run on, be it after its rest."""
        return max(
            (
                math.inf if node.memory is None else node.memory
                for _, node, _ in self._able(need, self.known, renders_left)
            ),
            default=0,
        )

    def _kept_for_gpus(self, idle: int, node: Node) -> int:
        """CPUs of a node that are left to its idle GPUs, whose renders must find one beside them.

        At most half of them, for without scenes the GPUs have nothing to do.
        """
        return min(idle, node.cpus // 2) if self.on_gpu else 0

    def _fits(self, need: ResourceRequest, cpus: int, node: Node, most: float) -> bool:
        """Whether an attempt that is given so many CPUs has room on a node now."""
        used = self.used.get(node.name, NOTHING)
        kept = 0 if need.gpus else self._kept_for_gpus(node.gpus - used.gpus, node)
        if used.cpus + cpus + kept > node.cpus or used.gpus + need.gpus > node.gpus:
            return False
        if node.memory is None or (used.memory or 0) + need.memory <= node.memory:
            return True
        alone = not used.cpus and not used.gpus  # what needs more than there is must still run
        return alone and node.memory >= min(need.memory, most)

    def _use(self, need: ResourceRequest, name: str, sign: int) -> None:
        used = self.used.get(name, NOTHING)
        self.used[name] = replace(
            used,
            name=name,
            cpus=used.cpus + sign * need.cpus,
            gpus=used.gpus + sign * need.gpus,
            memory=(used.memory or 0) + sign * need.memory,
        )
