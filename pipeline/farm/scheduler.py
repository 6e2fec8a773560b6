"""Which stage may start next, and on which node: bookkeeping without I/O, clock or Ray.

    generate   1 CPU; no more scenes ahead of the renders than `RenderBacklog` allows
    render     a GPU and a CPU beside it, or several CPUs where renders run on CPUs
    annotate   1 CPU

Later stages start first, because they finish scenes and free disk. The node is chosen here and not
by Ray: Ray lets tasks of one CPU overtake a task that waits for several, without end, and places
CPU tasks on the CPU that a GPU waits for. What is handed to Ray fits on its node and starts at
once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

MAX_RENDER_CPUS = 8
"""One thread reads a scene into Cycles, so that more CPUs would mostly wait."""

Queue = tuple[str, bool, bool]
"""A stage, whether its attempts are `large`, and whether they `avoid` nodes."""


@dataclass(frozen=True)
class Node:
    """A machine of the cluster.

    Attributes:
        name: Ray's id of the node.
        memory: Bytes that all tasks together may use; None where it is unknown.
    """

    name: str
    cpus: int
    gpus: int = 0
    memory: int | None = None


UNUSED = Node("", cpus=0, memory=0)
"""Usage of a node where nothing runs."""


@dataclass(frozen=True)
class ResourceRequest:
    """What an attempt takes from its node until it ends.

    Attributes:
        stage: generate, render or annotate.
        cpus: The minimum; a render on CPUs gets more where no other work needs them.
        memory: Bytes that it is expected to use.
        disk: Bytes of its scene file: expected for generate, known for render.
        large: It takes more than others of its stage, because it failed with the usual amount. A
            node is reserved for it until it fits.
        avoid: Nodes where its seed failed; it starts there only if no other node can take it.
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
        """Where it waits; an unusual request does not hold up the others of its stage."""
        return self.stage, self.large, bool(self.avoid)


@dataclass
class RenderBacklog:
    """Scenes that are being generated or wait for a render; bounds the disk of scene files.

    Scenes that are being generated count, so that a slow renderer reduces the number of generators
    step by step. A limit on waiting scenes alone would alternate between all generators and none.

    Attributes:
        max_bytes: What the scene files may take, those being generated included.
        scenes: Scenes in the backlog now, and `bytes`, what they take or are expected to take.
    """

    max_bytes: int
    scenes: int = 0
    bytes: int = 0

    def has_room(self, request: ResourceRequest, max_scenes: int) -> bool:
        """Whether one more scene may be generated; the first one always may."""
        fits = self.scenes < max_scenes and self.bytes + request.disk <= self.max_bytes
        return not self.scenes or fits

    def add(self, disk: int) -> None:
        self.scenes, self.bytes = self.scenes + 1, self.bytes + disk

    def remove(self, disk: int) -> None:
        self.scenes, self.bytes = self.scenes - 1, self.bytes - disk


@dataclass(frozen=True)
class NodeReservation:
    """A node that takes no more work until the waiting request fits."""

    node: str
    request: ResourceRequest

    def blocks(self, request: ResourceRequest, node: Node, used: Node) -> bool:
        """Whether a request may not start on a node, because the reservation needs the room.

        A GPU need not wait for a reservation of CPUs, if the node has enough CPUs for both.
        """
        if node.name != self.node:
            return False
        waiting = self.request
        if not request.gpus or waiting.gpus or node.gpus + waiting.cpus > node.cpus:
            return True
        memory = (used.memory or 0) + request.memory + waiting.memory
        return node.memory is not None and memory > node.memory


@dataclass
class Scheduler:
    """What is free on each node, and what starts there.

    Attributes:
        on_gpu: Renders run on GPUs.
        render_cpus: CPUs of one render on CPUs; None decides by memory and by remaining renders.
        nodes: The nodes that may get work now.
        known: Those and the nodes that cool down for a while.
        used: Sums of what runs on each node, also on nodes that get no more work.
    """

    on_gpu: bool = False
    render_cpus: int | None = None
    nodes: dict[str, Node] = field(default_factory=dict)
    known: dict[str, Node] = field(default_factory=dict)
    used: dict[str, Node] = field(default_factory=dict)

    def update(self, nodes: Iterable[Node], cooling_down: Iterable[Node] = ()) -> None:
        """Replace the nodes that may get work, and those that cool down."""
        self.nodes = {node.name: node for node in nodes}
        self.known = self.nodes | {node.name: node for node in cooling_down}

    def allocate(self, request: ResourceRequest, node: str) -> None:
        self._add_usage(request, node, 1)

    def release(self, request: ResourceRequest, node: str) -> None:
        self._add_usage(request, node, -1)

    @property
    def cpus(self) -> int:
        return sum(node.cpus for node in self.nodes.values())

    @property
    def gpus(self) -> int:
        return sum(node.gpus for node in self.nodes.values())

    @property
    def max_backlog(self) -> int:
        """Most scenes that may be generated or wait for a render: one per worker, and one more."""
        return self.cpus + (self.gpus if self.on_gpu else self.cpus) + 1

    def choose(
        self, requests: Iterable[ResourceRequest], backlog: RenderBacklog, renders_left: int = 1
    ) -> tuple[ResourceRequest, str] | None:
        """What to start now, and on which node; None to wait.

        Args:
            requests: The request of the first scene in each queue.
            backlog: Scenes that are being generated or wait for a render.
            renders_left: Scenes that are not rendered yet, including those not started.

        Example:
            >>> scheduler = Scheduler()
            >>> scheduler.update([Node("a", cpus=2)])
            >>> requests = [ResourceRequest("generate"), ResourceRequest("render")]
            >>> backlog = RenderBacklog(max_bytes=10**9)
            >>> request, node = scheduler.choose(requests, backlog, renders_left=9)
            >>> request.stage, node
            ('render', 'a')
        """
        # A GPU must not wait for a CPU that an annotation took; without GPUs, finishing goes first.
        last = ("render", "annotate") if self.on_gpu else ("annotate", "render")
        order = (*last, "generate")
        reservation: NodeReservation | None = None
        for request in sorted(
            requests, key=lambda r: (not r.large, order.index(r.stage), not r.avoid)
        ):
            if request.stage == "generate" and not backlog.has_room(request, self.max_backlog):
                continue
            largest = self._largest_memory(request, renders_left)
            if found := self._place(request, largest, reservation, renders_left):
                return found
            on_cpus = request.stage == "render" and not self.on_gpu
            if reservation is None and (on_cpus or request.large):
                reservation = self._reserve(request, largest, renders_left)
        return None

    def render_threads(self, node: Node, memory: int, renders_left: int) -> int:
        """CPUs of one render on a node where renders run on CPUs.

        Many small renders use a node best, because one thread reads the scene and writes the files
        while the others wait (`tests/benchmarks/render_cpus.py`). A render gets more CPUs only
        where memory or the number of remaining renders would leave CPUs idle.
        """
        if self.render_cpus is not None:
            return self.render_cpus
        side_by_side = node.cpus
        if memory and node.memory is not None:
            side_by_side = min(side_by_side, max(1, node.memory // memory))
        share = -(-renders_left // max(1, len(self.nodes)))  # rounded up
        return max(1, min(MAX_RENDER_CPUS, node.cpus // max(1, min(side_by_side, share))))

    def cpus_of(self, request: ResourceRequest, node: Node, renders_left: int) -> int:
        """CPUs that an attempt gets on a node."""
        if request.stage == "render" and not self.on_gpu:
            return self.render_threads(node, request.memory, renders_left)
        return request.cpus

    def _place(
        self,
        request: ResourceRequest,
        largest: float,
        reservation: NodeReservation | None,
        renders_left: int,
    ) -> tuple[ResourceRequest, str] | None:
        """The node with most free CPUs that has room, nodes without an idle GPU first.

        Args:
            largest: Result of `_largest_memory`.
        """
        best: tuple[ResourceRequest, str] | None = None
        best_idle, best_free = 0, -1
        for name, node, cpus in self._capable(request, self.nodes, renders_left):
            used = self.used.get(name, UNUSED)
            free = node.cpus - used.cpus
            idle = node.gpus - used.gpus if self.on_gpu and not request.gpus else 0
            if best is not None and (idle > best_idle or (idle == best_idle and free <= best_free)):
                continue
            if reservation and reservation.blocks(request, node, used):
                continue
            if self._fits(request, cpus, node, largest):
                best = (request if cpus == request.cpus else replace(request, cpus=cpus)), name
                best_idle, best_free = idle, free
        return best

    def _reserve(
        self, request: ResourceRequest, largest: float, renders_left: int
    ) -> NodeReservation | None:
        """Reserve the node that is closest to having room, of those that can ever have it."""

        def closeness(node: Node) -> tuple[bool, int, int]:
            """No GPU would idle, the memory still missing (negative), the free CPUs."""
            used = self.used.get(node.name, UNUSED)
            memory = (used.memory or 0) + request.memory
            missing = 0 if node.memory is None else max(0, memory - node.memory)
            return bool(request.gpus) or not node.gpus, -missing, node.cpus - used.cpus

        nodes = [
            node
            for _, node, _ in self._capable(request, self.nodes, renders_left)
            if node.memory is None or node.memory >= min(request.memory, largest)
        ]
        return NodeReservation(max(nodes, key=closeness).name, request) if nodes else None

    def _capable(
        self, request: ResourceRequest, nodes: Mapping[str, Node], renders_left: int
    ) -> list[tuple[str, Node, int]]:
        """The nodes that could run an attempt if they were empty, and its CPUs there.

        Nodes that the request avoids are left out, unless no other node can run it, now or after a
        cooldown.
        """
        if request.avoid:
            anywhere = replace(request, avoid=frozenset())
            others = {name for name, _, _ in self._capable(anywhere, self.known, renders_left)}
            if others := others - request.avoid:
                nodes = {name: node for name, node in nodes.items() if name in others}
        capable = []
        threads: dict[tuple[int, int | None], int] = {}  # by kind of node; there are few kinds
        for name, node in nodes.items():
            kind = node.cpus, node.memory
            if kind not in threads:
                threads[kind] = self.cpus_of(request, node, renders_left)
            cpus = threads[kind]
            kept = 0 if request.gpus else self._kept_for_gpus(node.gpus, node)
            if cpus + kept <= node.cpus and request.gpus <= node.gpus:
                capable.append((name, node, cpus))
        return capable

    def _largest_memory(self, request: ResourceRequest, renders_left: int) -> float:
        """Memory of the largest node that can run an attempt, now or after a cooldown."""
        return max(
            (
                math.inf if node.memory is None else node.memory
                for _, node, _ in self._capable(request, self.known, renders_left)
            ),
            default=0,
        )

    def _kept_for_gpus(self, idle: int, node: Node) -> int:
        """CPUs of a node that stay free for its idle GPUs, each of whose renders needs one.

        At most half of the CPUs, because without new scenes the GPUs have nothing to do.
        """
        return min(idle, node.cpus // 2) if self.on_gpu else 0

    def _fits(self, request: ResourceRequest, cpus: int, node: Node, largest: float) -> bool:
        """Whether an attempt with so many CPUs has room on a node now."""
        used = self.used.get(node.name, UNUSED)
        kept = 0 if request.gpus else self._kept_for_gpus(node.gpus - used.gpus, node)
        if used.cpus + cpus + kept > node.cpus or used.gpus + request.gpus > node.gpus:
            return False
        if node.memory is None or (used.memory or 0) + request.memory <= node.memory:
            return True
        alone = not used.cpus and not used.gpus  # what needs more than any node has must still run
        return alone and node.memory >= min(request.memory, largest)

    def _add_usage(self, request: ResourceRequest, name: str, sign: int) -> None:
        used = self.used.get(name, UNUSED)
        self.used[name] = replace(
            used,
            name=name,
            cpus=used.cpus + sign * request.cpus,
            gpus=used.gpus + sign * request.gpus,
            memory=(used.memory or 0) + sign * request.memory,
        )
