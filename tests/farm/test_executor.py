"""The nodes of the cluster while Ray's head is silent; test_faults tests the rest."""

from __future__ import annotations

import pytest

from pipeline.errors import UserError
from pipeline.farm import cluster, executor
from pipeline.farm.executor import RayExecutor
from pipeline.farm.farm_settings import FarmSettings
from pipeline.farm.scheduler import Node

NODES = [Node("a", 1)]


@pytest.fixture
def head(monkeypatch):
    """Ray's head, which answers or does not, and a clock."""
    head = {"answers": True, "now": 1000.0}

    def read_nodes(address):
        if not head["answers"]:
            raise ConnectionRefusedError("refused")
        return NODES

    monkeypatch.setattr(cluster, "read_nodes", read_nodes)
    monkeypatch.setattr(executor.time, "monotonic", lambda: head["now"])
    return head


def test_silent_head_is_waited_for(head):
    ours = RayExecutor(FarmSettings())
    assert ours.nodes() == NODES
    head["now"] += 1000  # the driver was busy with something else
    for _ in range(3):
        head |= {"answers": False}
        for _ in range(4):
            assert ours.nodes() == NODES
            head["now"] += 10
        head |= {"answers": True}
        assert ours.nodes() == NODES
    head |= {"answers": False}
    assert ours.nodes() == NODES
    head["now"] += 46
    with pytest.raises(UserError, match=r"head does not answer any more .* same command again"):
        ours.nodes()


def test_head_that_never_answered_is_reported_at_once(head):
    head |= {"answers": False}
    with pytest.raises(UserError, match="head does not answer"):
        RayExecutor(FarmSettings()).nodes()
