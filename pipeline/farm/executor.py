"""The driver's hands: attempts that Ray carries out.

All that the driver knows of Ray. Ray is imported late, because it takes a second or more and
finished work never needs it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.errors import UserError
from pipeline.farm.attempt import Result
from pipeline.farm.options import FarmSettings
from pipeline.farm.scheduler import Node, ResourceRequest

if TYPE_CHECKING:
    from ray import ObjectRef

    from pipeline.farm.worker import Job, Report

CANCEL_SECONDS = 8.0
UNDEAD_SECONDS = 120.0  # after which an attempt that could not be ended is given up with its node
GONE_SECONDS = 5.0  # between two looks for attempts whose node was given up


@dataclass(frozen=True)
class Ended:
    """An attempt that is over: its report, or how it was lost."""

    ticket: int
    report: Report | None = None
    lost: Result | None = None

    @property
    def node_is_gone(self) -> bool:
        """Whether the attempt's node went away, under it or before it began."""
        return self.lost is not None and self.lost.reason in ("node", "interrupted")


class Executor(Protocol):
    """Who carries out attempts."""

    def nodes(self) -> list[Node]:
        """The machines that there are now.

        Raises:
            UserError: Nobody can tell any more.
        """

    def start(self, job: Job, need: ResourceRequest, deadline: float | None) -> int:
        """Start an attempt; returns its ticket.

        Args:
            deadline: When it is to be ended from outside, on the monotonic clock.
        """

    def wait(self, seconds: float) -> list[Ended]:
        """The attempts that are over, as soon as there is one, at the latest after so long."""

    def stop(self) -> None:
        """Stop all that still runs."""


@dataclass
class RayExecutor:
    """Attempts as Ray tasks on the connected cluster, whose head is at `address`."""

    address: str | None = None
    _running: dict[ObjectRef[Report], tuple[int, float | None, str]] = field(default_factory=dict)
    _overdue: dict[int, float] = field(default_factory=dict)
    _tickets: int = 0
    _looked_at: float = 0.0
    _nodes: list[Node] = field(default_factory=list)
    _silent_since: float | None = None

    def nodes(self) -> list[Node]:
        """See `Executor`; while Ray's head is silent, the nodes that it named last."""
        from pipeline.farm.cluster import head_patience, read_nodes

        try:
            self._nodes = read_nodes(self.address)
            self._silent_since = None
        except OSError as error:
            self._silent_since = self._silent_since or time.monotonic()
            if not self._nodes or time.monotonic() - self._silent_since > head_patience():
                raise UserError(
                    f"Ray's head does not answer any more ({error}); start the cluster again and "
                    "run the same command again, it goes on where this one stopped"
                ) from None
        return self._nodes

    def start(self, job: Job, need: ResourceRequest, deadline: float | None) -> int:
        self._tickets += 1
        self._running[_submit(job, need)] = (self._tickets, deadline, job.node)
        return self._tickets

    def wait(self, seconds: float) -> list[Ended]:
        import ray

        if not self._running:
            time.sleep(seconds)
            return []
        references = list(self._running)
        ready, _ = ray.wait(references, num_returns=1, timeout=seconds)
        if ready:  # and all others that are over by now
            ready, _ = ray.wait(references, num_returns=len(references), timeout=0)
        self._end_overdue()
        return [*(self._ended(reference) for reference in ready), *self._on_gone_nodes()]

    def stop(self) -> None:
        """Cancel; the workers kill their children before they report back."""
        import ray

        for reference in self._running:
            ray.cancel(reference, force=False)
        if self._running:
            ray.wait(list(self._running), num_returns=len(self._running), timeout=CANCEL_SECONDS)

    def _ended(self, reference: ObjectRef[Report]) -> Ended:
        import ray
        from ray.exceptions import RayError

        ticket, _, _ = self._running.pop(reference)
        try:
            return Ended(ticket, report=ray.get(reference))
        except RayError as error:
            if self._overdue.pop(ticket, None):
                return Ended(ticket, lost=Result("timeout", "took too long and was ended"))
            return Ended(ticket, lost=_lost(error))

    def _on_gone_nodes(self) -> list[Ended]:
        """The attempts on nodes that Ray has given up.

        Ray itself says so only once the connection to the worker breaks. Where a node hangs or is
        cut off, that takes seven minutes or, if it was silent for long before, for ever.
        """
        if not self._running or time.monotonic() - self._looked_at < GONE_SECONDS:
            return []
        self._looked_at = time.monotonic()
        there = {node.name for node in self.nodes()}
        long_ago = time.monotonic() - UNDEAD_SECONDS
        lost = {}
        for reference, (ticket, _, node) in self._running.items():
            if node not in there:
                lost[reference] = "its node went away"
            elif self._overdue.get(ticket, math.inf) < long_ago:  # it waits for a disk, say
                lost[reference] = "its worker could not be ended"
        return [
            Ended(self._running.pop(reference)[0], lost=Result("node", why))
            for reference, why in lost.items()
        ]

    def _end_overdue(self) -> None:
        """End the workers of attempts that take too long; Ray then says that they are lost."""
        import ray

        for reference, (ticket, deadline, _) in self._running.items():
            late = deadline is not None and time.monotonic() > deadline
            if late and ticket not in self._overdue:
                self._overdue[ticket] = time.monotonic()
                ray.cancel(reference, force=True)


@contextmanager
def ray_executor(farm: FarmSettings) -> Iterator[RayExecutor]:
    """Executor on the Ray that the settings name; what still runs is stopped at the end."""
    from pipeline.farm.cluster import connected

    with connected(farm):
        hands = RayExecutor(farm.address)
        try:
            yield hands
        finally:
            hands.stop()


@cache
def _remote_attempt() -> Any:
    import ray

    from pipeline.farm.worker import attempt

    return ray.remote(max_retries=0)(attempt)  # the records in OUT decide about retries, not Ray


def _submit(job: Job, need: ResourceRequest) -> ObjectRef[Report]:
    """Hand a job to Ray for the node that was chosen."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return (
        _remote_attempt()
        .options(
            num_cpus=need.cpus,
            num_gpus=need.gpus,
            scheduling_strategy=NodeAffinitySchedulingStrategy(job.node, soft=False),
        )
        .remote(job)
    )


def _lost(error: Exception) -> Result:
    """The result of a task that Ray lost, by Ray's error."""
    from ray import exceptions

    if isinstance(error, exceptions.TaskCancelledError):
        return Result("interrupted", "cancelled")
    if isinstance(error, exceptions.TaskUnschedulableError):
        return Result("interrupted", "its node went away before it began")
    if isinstance(error, exceptions.OutOfMemoryError):
        return Result("memory", "Ray ended its worker, the machine ran out of memory")
    if isinstance(error, exceptions.NodeDiedError):
        return Result("node", "its node went away")
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return Result("crashed", f"{type(error).__name__}: {lines[-1] if lines else ''}"[:300])
