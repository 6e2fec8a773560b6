"""Which nodes rest, and since when."""

from __future__ import annotations

from pipeline.farm import node_health
from pipeline.farm.attempt import Result
from pipeline.farm.node_health import NodeHealth
from pipeline.farm.scheduler import Node

A, B = Node("a", 1), Node("b", 1)
OK, CRASH = Result("ok"), Result("crashed")


def test_a_node_rests_for_a_while_and_one_that_is_gone_for_ever(monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(node_health.time, "monotonic", lambda: clock[0])
    nodes = NodeHealth()
    nodes.begin("a")
    assert nodes.sort([A, B]) == ([B], [A])
    clock[0] += node_health.COOLDOWN_SECONDS + 1
    assert nodes.sort([A, B]) == ([A, B], [])
    nodes.gone("b")
    clock[0] += 10**6
    assert nodes.sort([A, B]) == ([A], [])


def test_seeds_that_fail_one_after_another_are_their_nodes_fault():
    nodes = NodeHealth()
    assert not any(nodes.record_outcome("a", 7, CRASH) for _ in range(5)), (
        "one seed is its own fault"
    )
    assert not nodes.record_outcome("a", 8, CRASH)
    assert not nodes.record_outcome("b", 9, CRASH), "elsewhere"
    assert not nodes.record_outcome("a", 9, Result("rejected")), "a verdict on the seed"
    assert nodes.record_outcome("a", 9, CRASH)
    assert not nodes.record_outcome("a", 10, CRASH), "it begins anew"


def test_a_seed_that_is_made_ends_the_suspicion():
    nodes = NodeHealth()
    for seed in range(10):
        assert not nodes.record_outcome("a", seed, CRASH if seed % 3 else OK)
