"""The machines that a plan is made for, and what they cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from pipeline.errors import UserError
from pipeline.farm.scheduler import Node
from pipeline.planning.simulate import WAITING_BYTES

NODE_CPUS, NODE_GPUS = 64, 8
"""Of one node at most, unless the user says how large nodes are."""


@dataclass(frozen=True)
class Cluster:
    """The machines to plan for.

    Attributes:
        cpus, gpus: Of all nodes together.
        node_cpus: CPUs of one node at most; None takes `NODE_CPUS`.
        node_memory: Bytes of one node; None leaves memory out of the plan.
        disk: Bytes that scene files may take that wait for a render.
    """

    cpus: int
    gpus: int = 0
    node_cpus: int | None = None
    node_memory: int | None = None
    disk: int = WAITING_BYTES

    def __post_init__(self) -> None:
        for name in ("cpus", "node_cpus", "node_memory"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name.upper()} must be at least 1, not {value}")
        if self.gpus < 0:
            raise UserError(f"GPUS must not be negative, not {self.gpus}")
        if self.gpus > self.cpus:
            raise UserError(
                f"GPUS={self.gpus} with CPUS={self.cpus}: each GPU needs a CPU beside it, and "
                "generating scenes needs more"
            )

    def nodes(self) -> list[Node]:
        """Equal nodes, with the GPUs on the first ones, `NODE_GPUS` on each."""
        most = self.node_cpus or NODE_CPUS
        count = max(-(-self.cpus // most), -(-self.gpus // min(NODE_GPUS, most)))
        with_gpus = -(-self.gpus // min(NODE_GPUS, most))
        return [
            Node(
                f"node-{i}",
                _share(self.cpus, count, i),
                _share(self.gpus, with_gpus, i) if i < with_gpus else 0,
                self.node_memory,
            )
            for i in range(count)
        ]


@dataclass(frozen=True)
class Rates:
    """Prices, in any currency; None where none was given. The whole cluster is paid for."""

    cpu_hour: float | None = None
    gpu_hour: float | None = None
    gib_month: float | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and value < 0:
                raise UserError(f"PRICE_{name.upper()} must not be negative, not {value}")

    def price(self, hours: float, cluster: Cluster, size: float) -> float:
        """Of so many hours, and of keeping so many bytes for a month."""
        machines = cluster.cpus * (self.cpu_hour or 0) + cluster.gpus * (self.gpu_hour or 0)
        return hours * machines + size / 2**30 * (self.gib_month or 0)

    def __bool__(self) -> bool:
        return any(value is not None for value in asdict(self).values())


def _share(total: int, parts: int, index: int) -> int:
    """What part number `index` has of a total that is dealt out evenly.

    >>> [_share(10, 4, index) for index in range(4)]
    [3, 3, 2, 2]
    """
    return total // parts + (index < total % parts)
