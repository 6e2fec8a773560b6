"""Where an attempt may start: nothing is taken twice, nothing is overtaken without end."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.farm.scheduler import (
    MAX_RENDER_CPUS,
    Node,
    RenderBacklog,
    ResourceRequest,
    Scheduler,
)

MANY = 10**6
ROOM = RenderBacklog(max_bytes=10**15)


def placement(*nodes: Node, **settings) -> Scheduler:
    made = Scheduler(**settings)
    made.update(nodes)
    return made


def oversubscribed(farm: Scheduler) -> list[str]:
    """Nodes of which more is used than there is; memory may be where one attempt is alone."""
    return [
        name
        for name, used in farm.used.items()
        if used.cpus > farm.nodes[name].cpus or used.gpus > farm.nodes[name].gpus
    ]


node_lists = st.lists(
    st.builds(
        lambda cpus, gpus, memory: (cpus, min(gpus, cpus), memory),
        st.integers(1, 16),
        st.integers(0, 4),
        st.one_of(st.none(), st.integers(4, 64)),
    ),
    min_size=1,
    max_size=4,
).map(lambda rows: [Node(f"n{i}", *row) for i, row in enumerate(rows)])


@settings(max_examples=25, deadline=None)
@given(node_lists, st.booleans(), st.data())
def test_no_node_is_oversubscribed(nodes, on_gpu, data):
    on_gpu = on_gpu and any(node.gpus for node in nodes)
    farm = placement(*nodes, on_gpu=on_gpu)
    at_work: list[tuple[ResourceRequest, str]] = []
    for _ in range(40):
        if at_work and data.draw(st.booleans()):
            farm.release(*at_work.pop(data.draw(st.integers(0, len(at_work) - 1))))
        memory = data.draw(st.integers(0, 20))
        gpus = int(on_gpu and data.draw(st.integers(0, 3)) > 0)
        ready = {
            "generate": ResourceRequest("generate", memory=memory),
            "render": ResourceRequest("render", gpus=gpus, memory=memory),
            "annotate": ResourceRequest("annotate", memory=1),
        }
        stages = data.draw(st.sets(st.sampled_from(sorted(ready))))
        left = data.draw(st.integers(1, 99))
        found = farm.choose([ready[stage] for stage in stages], ROOM, left)
        if found:
            farm.allocate(*found)
            at_work.append(found)
        assert not oversubscribed(farm)
        for node in nodes:
            there = [need for need, name in at_work if name == node.name]
            taken = sum(need.memory for need in there)
            assert node.memory is None or taken <= node.memory or len(there) == 1


def test_oversized_attempt_runs_alone():
    farm = placement(Node("a", cpus=4, memory=8))
    large, small = ResourceRequest("generate", memory=9), ResourceRequest("generate", memory=1)
    farm.allocate(small, "a")
    assert farm.choose([large], ROOM) is None
    farm.release(small, "a")
    assert farm.choose([large], ROOM) == (large, "a")
    farm.allocate(large, "a")
    assert farm.choose([small], ROOM) is None


@pytest.mark.parametrize("on_gpu", [False, True])
def test_render_waiting_for_several_cpus_is_not_overtaken(on_gpu):
    """Beside GPUs it is a render that no GPU has the memory for."""
    nodes = [Node("a", cpus=8, gpus=int(on_gpu)), Node("b", cpus=4)]
    farm = placement(*nodes, on_gpu=on_gpu, render_cpus=4)
    generate, render = ResourceRequest("generate"), ResourceRequest("render", cpus=4, large=on_gpu)
    at_work: list[tuple[ResourceRequest, str]] = []
    while found := farm.choose([generate], ROOM, MANY):
        farm.allocate(*found)
        at_work.append(found)
    started = []
    for _ in range(50):  # the first that began ends; whatever may start then starts
        farm.release(*at_work.pop(0))
        while found := farm.choose([generate, render], ROOM, MANY):
            farm.allocate(*found)
            at_work.append(found)
            started.append(found[0].stage)
            if found[0].stage == "render":
                return
    raise AssertionError(f"overtaken by {len(started)} generators")


@settings(max_examples=50, deadline=None)
@given(node_lists, st.data())
def test_no_gpu_waits_for_a_cpu_that_a_generator_took(nodes, data):
    """Where at most every second CPU has a GPU: of the others half are left to generators."""
    nodes = [Node(n.name, n.cpus, min(n.gpus, n.cpus // 2)) for n in nodes]
    farm = placement(*nodes, on_gpu=True)
    generate, annotate, render = (
        ResourceRequest("generate"),
        ResourceRequest("annotate"),
        ResourceRequest("render", gpus=1),
    )
    at_work: list[tuple[ResourceRequest, str]] = []
    for _ in range(80):
        ready = data.draw(st.sampled_from([[generate], [annotate]]))
        if found := farm.choose(ready, ROOM, MANY):
            farm.allocate(*found)
            at_work.append(found)
        if data.draw(st.booleans()) and any(
            n.gpus > farm.used.get(n.name, Node(n.name, 0)).gpus for n in nodes
        ):
            found = farm.choose([*ready, render], ROOM, MANY)
            assert found and found[0].stage == "render"
            farm.allocate(*found)
            at_work.append(found)
        if at_work and data.draw(st.booleans()):
            farm.release(*at_work.pop(data.draw(st.integers(0, len(at_work) - 1))))


@pytest.mark.parametrize(
    ("node", "memory", "left", "threads"),
    [
        (Node("a", 8), 0, 1, 8),  # the last scene gets all
        (Node("a", 8), 0, 2, 4),
        (Node("a", 8), 0, 99, 1),  # many scenes: side by side
        (Node("a", 64), 0, 1, MAX_RENDER_CPUS),
        (Node("a", 8, memory=16), 8, 99, 4),  # memory has room for two
        (Node("a", 8, memory=16), 20, 99, 8),  # and here for one
        (Node("a", 1), 0, 1, 1),
    ],
)
def test_threads_of_a_render_on_cpus(node, memory, left, threads):
    assert placement(node).render_threads(node, memory, left) == threads
    assert placement(node, render_cpus=3).render_threads(node, memory, left) == 3


def test_remaining_renders_are_shared_among_the_nodes():
    nodes = [Node(name, 8) for name in "abcd"]
    farm = placement(*nodes)
    assert farm.render_threads(nodes[0], 0, 4) == 8
    assert farm.render_threads(nodes[0], 0, 5) == 4


def test_later_stages_go_first_and_a_gpu_before_them():
    ready = [ResourceRequest("generate"), ResourceRequest("annotate")]
    found = placement(Node("a", 4)).choose([*ready, ResourceRequest("render")], ROOM, MANY)
    assert found and found[0].stage == "annotate"
    farm = placement(Node("a", 4, gpus=1), on_gpu=True)
    found = farm.choose([*ready, ResourceRequest("render", gpus=1)], ROOM, MANY)
    assert found and found[0].stage == "render"


def test_generators_go_to_nodes_without_an_idle_gpu():
    farm = placement(Node("g", 64, gpus=8), Node("c", 4), on_gpu=True)
    names = []
    for _ in range(5):
        found = farm.choose([ResourceRequest("generate")], ROOM, MANY)
        assert found
        farm.allocate(*found)
        names.append(found[1])
    assert names == ["c", "c", "c", "c", "g"]


def test_backlog_is_bounded_by_number_and_by_bytes():
    farm = placement(Node("a", cpus=4, gpus=2), on_gpu=True)
    need = ResourceRequest("generate", disk=10)
    assert farm.max_backlog == 4 + 2 + 1
    assert farm.choose([need], RenderBacklog(max_bytes=100, scenes=6, bytes=60))
    assert farm.choose([need], RenderBacklog(max_bytes=100, scenes=7, bytes=70)) is None
    assert farm.choose([need], RenderBacklog(max_bytes=100, scenes=2, bytes=91)) is None
    assert farm.choose([need], RenderBacklog(max_bytes=5)), "the first one always may"


def test_nodes_come_and_go():
    farm = placement(Node("a", 1), Node("b", 1))
    need = ResourceRequest("generate")
    farm.allocate(need, "a")
    farm.update([Node("a", 1)])
    assert farm.choose([need], ROOM) is None
    farm.release(need, "a")
    assert farm.choose([need], ROOM) == (need, "a")
    farm.update([])
    assert farm.choose([need], ROOM) is None


@pytest.mark.parametrize(
    ("large", "usual"),
    [
        (ResourceRequest("generate", memory=12, large=True), ResourceRequest("generate", memory=4)),
        (
            ResourceRequest("render", gpus=1, memory=12, large=True),
            ResourceRequest("render", gpus=1, memory=4),
        ),
        (
            ResourceRequest("render", cpus=4, memory=4, large=True),
            ResourceRequest("render", gpus=1, memory=4),
        ),
    ],
)
def test_large_request_reserves_one_node_only(large, usual):
    nodes = [Node(name, cpus=8, gpus=2, memory=16) for name in "abc"]
    farm = placement(*nodes, on_gpu=True)
    work = [usual, ResourceRequest("generate", memory=4), ResourceRequest("annotate", memory=1)]
    at_work: list[tuple[ResourceRequest, str]] = []
    for _ in range(30):  # the cluster is full
        while found := farm.choose(work, ROOM, MANY):
            farm.allocate(*found)
            at_work.append(found)
        farm.release(*at_work.pop(0))
    others = 0
    for _ in range(30):
        farm.release(*at_work.pop(0))
        while found := farm.choose([*work, large], ROOM, MANY):
            farm.allocate(*found)
            at_work.append(found)
            if found[0].large:
                assert others > 0
                return
            others += 1
    raise AssertionError(f"overtaken by {others} others")


def test_oversized_attempt_goes_to_the_largest_node():
    farm = placement(Node("small", 4, memory=8), Node("large", 4, memory=32))
    need = ResourceRequest("generate", memory=40, large=True)
    farm.allocate(ResourceRequest("generate", memory=1), "large")
    assert farm.choose([need], ROOM) is None, "it has room alone, and on the large node"
    farm.release(ResourceRequest("generate", memory=1), "large")
    assert farm.choose([need], ROOM) == (need, "large")


def test_incapable_nodes_are_ignored():
    """Of the larger one CPUs are left to its GPU, or it has too few for the render."""
    fallback = ResourceRequest("render", cpus=8, memory=100, large=True)
    farm = placement(Node("a", 16, memory=64), Node("g", 8, gpus=1, memory=256), on_gpu=True)
    assert farm.choose([fallback], ROOM) == (fallback, "a")
    farm = placement(Node("s", 4, memory=256), Node("l", 64, memory=64), render_cpus=8)
    found = farm.choose([ResourceRequest("render", memory=100)], ROOM)
    assert found and (found[0].cpus, found[1]) == (8, "l")


def test_request_waits_for_a_node_that_cools_down():
    large, small = Node("large", 4, memory=256), Node("small", 4, memory=32)
    farm, need = Scheduler(), ResourceRequest("generate", memory=100, large=True)
    farm.update([small], cooling_down=[large])
    assert farm.choose([need], ROOM) is None
    farm.update([small, large])
    assert farm.choose([need], ROOM) == (need, "large")
    farm.update([small])  # it is gone for good: better a try than none
    assert farm.choose([need], ROOM) == (need, "small")


def test_gpus_do_not_wait_for_a_reservation_of_cpus():
    farm = placement(Node("a", cpus=16), Node("g", cpus=32, gpus=4), on_gpu=True)
    generate, render = ResourceRequest("generate"), ResourceRequest("render", gpus=1)
    fallback = ResourceRequest("render", cpus=8, large=True)
    at_work: list[tuple[ResourceRequest, str]] = []
    while found := farm.choose([generate, render], ROOM, MANY):
        farm.allocate(*found)
        at_work.append(found)
    for _ in range(4):  # GPUs become free before any CPU does
        one = next(found for found in at_work if found[0].gpus)
        at_work.remove(one)
        farm.release(*one)
        found = farm.choose([generate, render, fallback], ROOM, MANY)
        assert found == (render, "g")
        farm.allocate(*found)


def test_failed_seed_avoids_its_node():
    farm = placement(Node("a", 2), Node("b", 1))
    again, other = ResourceRequest("generate", avoid=frozenset("a")), ResourceRequest("generate")
    assert farm.choose([other, again], ROOM) == (again, "b")
    farm.allocate(other, "b")
    assert farm.choose([again], ROOM) is None
    assert farm.choose([other, again], ROOM) == (other, "a"), "it holds nobody up"
    farm.update([Node("a", 2)], cooling_down=[Node("b", 1)])
    assert farm.choose([again], ROOM) is None
    farm.update([Node("a", 2)])
    assert farm.choose([again], ROOM) == (again, "a")


def test_only_capable_node_is_not_avoided():
    farm = placement(Node("gpu", 4, gpus=1), Node("cpu", 8), on_gpu=True)
    again = ResourceRequest("render", gpus=1, avoid=frozenset({"gpu"}))
    assert farm.choose([again], ROOM) == (again, "gpu")
