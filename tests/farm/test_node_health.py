"""Which nodes get no work, and since when."""

from __future__ import annotations

from pipeline.farm import node_health
from pipeline.farm.attempt import Result
from pipeline.farm.node_health import NodeHealth
from pipeline.farm.scheduler import Node

A, B = Node("a", 1), Node("b", 1)
OK, CRASH = Result("ok"), Result("crashed")


def suspicious_after(health: NodeHealth, name: str, seed: int, result: Result) -> bool:
    health.record_outcome(name, seed, result)
    return health.is_suspicious(name)


def test_a_cooldown_ends_and_a_gone_node_does_not_come_back(monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(node_health.time, "monotonic", lambda: clock[0])
    health = NodeHealth()
    health.start_cooldown("a")
    assert health.split([A, B]) == ([B], [A])
    clock[0] += node_health.COOLDOWN_SECONDS + 1
    assert health.split([A, B]) == ([A, B], [])
    health.mark_gone("b")
    clock[0] += 10**6
    assert health.split([A, B]) == ([A], [])


def test_different_seeds_that_fail_in_a_row_make_a_node_suspicious():
    health = NodeHealth()
    assert not any(suspicious_after(health, "a", 7, CRASH) for _ in range(5)), "one seed's fault"
    assert not suspicious_after(health, "a", 8, CRASH)
    assert not suspicious_after(health, "b", 9, CRASH), "on another node"
    assert not suspicious_after(health, "a", 9, Result("rejected")), "a verdict on the seed"
    assert suspicious_after(health, "a", 9, CRASH)
    assert health.is_suspicious("a"), "asking changes nothing"
    health.start_cooldown("a")
    assert not suspicious_after(health, "a", 10, CRASH), "the count starts again"


def test_a_success_ends_the_suspicion():
    health = NodeHealth()
    for seed in range(10):
        assert not suspicious_after(health, "a", seed, CRASH if seed % 3 else OK)
