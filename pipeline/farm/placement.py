"""Which stage may start next, and on which node: pure bookkeeping, for the driver and for `plan`.

    generate   1 CPU; no more scenes ahead of the renders than `Ahead` allows
    render     a GPU and a CPU beside it, or CPUs where renders run on CPUs
    annotate   1 CPU

Later stages go first: they free disk and finish scenes. The node is chosen here, not by Ray: Ray
lets tasks of one CPU overtake one that waits for several for ever, and puts a task without a GPU on
the CPU that a GPU waits for. What is handed to Ray fits where it is sent, so it starts at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
    """

    stage: str
    cpus: int = 1
    gpus: int = 0
    memory: int = 0
    disk: int = 0


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
        self, ready: Mapping[str, Need], ahead: Ahead, renders_left: int = 1
    ) -> tuple[Need, str] | None:
        """What to start now, and where; None to wait.

        Args:
            ready: By stage, what the first scene that could start it needs.
            ahead: Scenes that are being generated or wait for a render.
            renders_left: Scenes that are not rendered yet, those that are not begun included.

        Example:
            >>> placement = Placement()
            >>> placement.update([Node("a", cpus=2)])
            >>> ready = {"generate": Need("generate"), "render": Need("render")}
            >>> placement.choose(ready, Ahead(disk=10**9), renders_left=9)
            (Need(stage='render', cpus=1, gpus=0, memory=0, disk=0), 'a')
        """
        # A GPU must not wait for a CPU that an annotation took; without one, finishing goes first.
        order = ("render", "annotate") if self.on_gpu else ("annotate", "render")
        kept: str | None = None  # a node that is left to empty until the render fits on it
        for stage in order:
            need = ready.get(stage)
            if need is None:
                continue
            if stage == "render" and not self.on_gpu:
                found, kept = self._place_cpu_render(need, renders_left)
                if found:
                    return found
            elif name := self._place(need, kept):
                return need, name
            elif stage == "render" and not need.gpus:  # one that no GPU has the memory for
                kept = self._nearest(need)
        need = ready.get("generate")
        if need is None or not ahead.has_room(need, self.max_ahead):
            return None
        name = self._place(need, kept)
        return None if name is None else (need, name)

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
        self, need: Need, renders_left: int
    ) -> tuple[tuple[Need, str] | None, str | None]:
        """A render on CPUs and its node; or else the node that comes nearest to having room."""
        found = nearest = None
        found_free = nearest_free = -1
        threads: dict[tuple[int, int | None], int] = {}  # of each kind of node, for there are few
        for name, node in self.nodes.items():
            kind = node.cpus, node.memory
            if kind not in threads:
                threads[kind] = self.render_threads(node, need.memory, renders_left)
            cpus, free = threads[kind], node.cpus - self.used.get(name, NOTHING).cpus
            if free > found_free and self._fits(need, cpus, name):
                found, found_free = (replace(need, cpus=cpus), name), free
            if free > nearest_free and node.cpus >= cpus:
                nearest, nearest_free = name, free
        return (found, None) if found else (None, nearest)

    def _place(self, need: Need, kept: str | None) -> str | None:
        """The node with most free CPUs that has room, those without an idle GPU first."""
        best, best_idle, best_free = None, 0, -1
        for name, node in self.nodes.items():
            used = self.used.get(name, NOTHING)
            free = node.cpus - used.cpus
            if free < need.cpus or node.gpus - used.gpus < need.gpus or name == kept:
                continue
            idle = node.gpus - used.gpus if self.on_gpu and not need.gpus else 0
            better = best is None or idle < best_idle or (idle == best_idle and free > best_free)
            if better and self._fits(need, need.cpus, name):
                best, best_idle, best_free = name, idle, free
        return best

    def _nearest(self, need: Need) -> str | None:
        """The node with most free CPUs of those that have room when nothing runs there."""
        names = [
            name
            for name, node in self.nodes.items()
            if need.cpus + min(node.gpus, node.cpus // 2) <= node.cpus
        ]
        free = {name: self.nodes[name].cpus - self.used.get(name, NOTHING).cpus for name in names}
        return max(names, key=lambda name: free[name], default=None)

    def _fits(self, need: Need, cpus: int, name: str) -> bool:
        """Whether an attempt that is given so many CPUs has room on a node."""
        node, used = self.nodes[name], self.used.get(name, NOTHING)
        # a GPU's render must find a CPU beside it; half of the CPUs at most are kept for that, for
        # without scenes the GPUs have nothing to do
        kept = 0
        if self.on_gpu and not need.gpus:
            kept = min(node.gpus - used.gpus, node.cpus // 2)
        if used.cpus + cpus + kept > node.cpus or used.gpus + need.gpus > node.gpus:
            return False
        alone = not used.cpus and not used.gpus  # what needs more than there is must still run
        memory = (used.memory or 0) + need.memory
        return node.memory is None or alone or memory <= node.memory

    def _use(self, need: Need, name: str, sign: int) -> None:
        used = self.used.get(name, NOTHING)
        self.used[name] = replace(
            used,
            name=name,
            cpus=used.cpus + sign * need.cpus,
            gpus=used.gpus + sign * need.gpus,
            memory=(used.memory or 0) + sign * need.memory,
        )
