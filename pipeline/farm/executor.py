"""Who runs attempts: Ray, with all that the driver knows of it.

Ray is imported late, because that takes a second or more and finished work does not need it.
"""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.errors import UserError
from pipeline.farm.attempt import AttemptSpec, Result
from pipeline.farm.farm_settings import FarmSettings
from pipeline.farm.scheduler import Node

if TYPE_CHECKING:
    from ray import ObjectRef

CANCEL_SECONDS = 8.0
ABANDON_SECONDS = 120.0  # from a failed kill until the attempt is abandoned with its node
LOST_NODES_SECONDS = 5.0  # between two checks for attempts on nodes that are gone


class Executor(Protocol):
    """Runs attempts. Entering it makes it ready; leaving it stops all attempts that still run."""

    def __enter__(self) -> Executor: ...

    def __exit__(self, *error: object) -> None: ...

    def nodes(self) -> list[Node]:
        """The machines that can be used now.

        Raises:
            UserError: They cannot be listed any more.
        """

    def start(self, spec: AttemptSpec) -> int:
        """Start an attempt; returns its id."""

    def wait(self, seconds: float) -> list[tuple[int, Result]]:
        """Ids and results of ended attempts; waits for the first, but not longer than `seconds`."""


@dataclass
class _Task:
    """A running Ray task.

    Attributes:
        deadline: When it is cancelled, on the monotonic clock; None for never.
        cancelled: When that happened; None if it has not.
    """

    attempt_id: int
    node: str
    deadline: float | None
    cancelled: float | None = None


@dataclass
class RayExecutor:
    """Runs attempts as Ray tasks on the cluster that the settings name, or on its own local Ray."""

    farm: FarmSettings
    _running: dict[ObjectRef[Result], _Task] = field(default_factory=dict)
    _last_id: int = 0
    _checked_at: float = 0.0
    _nodes: list[Node] = field(default_factory=list)
    _silent_since: float | None = None
    _connection: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> RayExecutor:
        from pipeline.farm.cluster import connected

        self._connection.enter_context(connected(self.farm))
        return self

    def __exit__(self, *error: object) -> None:
        """Cancel; the workers kill their children before they return."""
        import ray

        with self._connection:
            for reference in self._running:
                ray.cancel(reference, force=False)
            if self._running:
                ray.wait(
                    list(self._running), num_returns=len(self._running), timeout=CANCEL_SECONDS
                )

    def nodes(self) -> list[Node]:
        """See `Executor`; while Ray's head does not answer, the last nodes that it listed."""
        from pipeline.farm.cluster import head_timeout, read_nodes

        try:
            self._nodes = read_nodes(self.farm.address)
            self._silent_since = None
        except OSError as error:
            self._silent_since = self._silent_since or time.monotonic()
            if not self._nodes or time.monotonic() - self._silent_since > head_timeout():
                raise UserError(
                    f"Ray's head does not answer any more ({error}); restart the cluster, then run "
                    "the same command again to resume"
                ) from None
        return self._nodes

    def start(self, spec: AttemptSpec) -> int:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._last_id += 1
        deadline = None if spec.max_seconds is None else time.monotonic() + spec.max_seconds
        reference = (
            _remote_attempt()
            .options(
                num_cpus=spec.request.cpus,
                num_gpus=spec.request.gpus,
                scheduling_strategy=NodeAffinitySchedulingStrategy(spec.node, soft=False),
            )
            .remote(spec)
        )
        self._running[reference] = _Task(self._last_id, spec.node, deadline)
        return self._last_id

    def wait(self, seconds: float) -> list[tuple[int, Result]]:
        import ray

        if not self._running:
            time.sleep(seconds)
            return []
        references = list(self._running)
        ready, _ = ray.wait(references, num_returns=1, timeout=seconds)
        if ready:  # and all others that have ended by now
            ready, _ = ray.wait(references, num_returns=len(references), timeout=0)
        self._cancel_overdue()
        return [*map(self._collect, ready), *self._abandon_lost()]

    def _collect(self, reference: ObjectRef[Result]) -> tuple[int, Result]:
        """Id and result of an ended task."""
        import ray

        task = self._running.pop(reference)
        try:
            return task.attempt_id, ray.get(reference)
        except ray.exceptions.RayError as error:
            if task.cancelled is not None:
                return task.attempt_id, Result("timeout", "took too long and was ended")
            return task.attempt_id, _lost_result(error)

    def _abandon_lost(self) -> list[tuple[int, Result]]:
        """Abandon attempts on nodes that Ray has declared dead, and attempts that survive a kill.

        Ray reports a lost task only once the connection to the worker breaks. If a node hangs or is
        unreachable, that takes seven minutes, or never happens if it was silent for long before.
        """
        if not self._running or time.monotonic() - self._checked_at < LOST_NODES_SECONDS:
            return []
        self._checked_at = time.monotonic()
        alive = {node.name for node in self.nodes()}
        long_ago = time.monotonic() - ABANDON_SECONDS
        lost = {}
        for reference, task in self._running.items():
            if task.node not in alive:
                lost[reference] = "its node went away"
            elif (math.inf if task.cancelled is None else task.cancelled) < long_ago:
                lost[reference] = "its worker could not be killed"  # it may be waiting for a disk
        return [
            (self._running.pop(reference).attempt_id, Result("node", why, node_lost=True))
            for reference, why in lost.items()
        ]

    def _cancel_overdue(self) -> None:
        """Kill the workers of attempts that take too long; Ray then reports them as lost."""
        import ray

        now = time.monotonic()
        for reference, task in self._running.items():
            if task.deadline is not None and now > task.deadline and task.cancelled is None:
                task.cancelled = now
                ray.cancel(reference, force=True)


@cache
def _remote_attempt() -> Any:
    import ray

    from pipeline.farm.worker import run_attempt

    return ray.remote(max_retries=0)(run_attempt)  # the records in OUT decide about retries


def _lost_result(error: Exception) -> Result:
    """The result of a task that Ray lost, by Ray's error."""
    from ray import exceptions

    if isinstance(error, exceptions.TaskCancelledError):
        return Result("interrupted", "cancelled", node_lost=True)
    if isinstance(error, exceptions.TaskUnschedulableError):
        return Result("interrupted", "its node went away before it began", node_lost=True)
    if isinstance(error, exceptions.OutOfMemoryError):
        return Result("memory", "Ray killed its worker, because the machine ran out of memory")
    if isinstance(error, exceptions.NodeDiedError):
        return Result("node", "its node went away", node_lost=True)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return Result("crashed", f"{type(error).__name__}: {lines[-1] if lines else ''}"[:300])
