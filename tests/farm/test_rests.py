"""Which nodes rest, and since when."""

from __future__ import annotations

from pipeline.farm import rests
from pipeline.farm.resources import Node
from pipeline.farm.rests import Rests
from pipeline.ledger.outcome import Outcome

A, B = Node("a", 1), Node("b", 1)
OK, CRASH = Outcome("ok"), Outcome("crashed")


def test_a_node_rests_for_a_while_and_one_that_is_gone_for_ever(monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(rests.time, "monotonic", lambda: clock[0])
    nodes = Rests()
    nodes.begin("a")
    assert nodes.sort([A, B]) == ([B], [A])
    clock[0] += rests.REST_SECONDS + 1
    assert nodes.sort([A, B]) == ([A, B], [])
    nodes.gone("b")
    clock[0] += 10**6
    assert nodes.sort([A, B]) == ([A], [])


def test_seeds_that_fail_one_after_another_are_their_nodes_fault():
    nodes = Rests()
    assert not any(nodes.is_due("a", 7, CRASH) for _ in range(5)), "one seed is its own fault"
    assert not nodes.is_due("a", 8, CRASH)
    assert not nodes.is_due("b", 9, CRASH), "elsewhere"
    assert not nodes.is_due("a", 9, Outcome("rejected")), "a verdict on the seed"
    assert nodes.is_due("a", 9, CRASH)
    assert not nodes.is_due("a", 10, CRASH), "it begins anew"


def test_a_seed_that_is_made_ends_the_suspicion():
    nodes = Rests()
    for seed in range(10):
        assert not nodes.is_due("a", seed, CRASH if seed % 3 else OK)
