"""The scheduler in virtual time: no resource is oversold, GPUs do not wait, estimates hold."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.farm.plan_estimate import Cluster, estimate
from pipeline.farm.resource_requests import FIRST_DISK
from pipeline.farm.scheduler import Node
from pipeline.run_settings import make_settings
from tests.benchmarks import farm_gpus
from tests.farm.simulation import WAITING_BYTES, SceneTimes, simulate

MB = 10**6


def test_one_cpu_takes_the_sum_of_all_times():
    scenes = [SceneTimes(generate=10 + k, serial=1, parallel=2 * k, annotate=1) for k in range(40)]
    result = simulate([Node("a", 1)], scenes)
    assert result.seconds == pytest.approx(sum(12 + 3 * k for k in range(40)))
    assert (result.ended, result.cpu_busy) == (40, pytest.approx(1))


def test_quarantined_seed_takes_its_time():
    scenes = [
        *[SceneTimes(generate=10, parallel=20, annotate=1)] * 3,
        *[SceneTimes(generate=10, last="generate", scene_bytes=MB)] * 2,
        SceneTimes(generate=10, parallel=20, last="render", scene_bytes=MB),
    ]
    result = simulate([Node("a", 1)], scenes)
    assert (result.ended, result.seconds) == (6, pytest.approx(6 * 10 + 4 * 20 + 3))


def test_slow_driver_delays_every_start():
    scenes = [SceneTimes(generate=1, parallel=1, annotate=1)] * 10
    fast, slow = (simulate([Node("a", 1)], scenes, latency=pause) for pause in (0, 2))
    assert (fast.seconds, slow.seconds) == (pytest.approx(30), pytest.approx(90))


seconds = st.floats(0.1, 500)
scene_lists = st.lists(
    st.builds(
        SceneTimes,
        generate=seconds,
        serial=st.floats(0, 20),
        parallel=seconds,
        gpu=seconds,
        annotate=st.floats(0, 9),
        scene_bytes=st.integers(1, 300).map(lambda size: size * MB),
        memory=st.fixed_dictionaries(
            {"generate": st.integers(1, 4), "render": st.integers(1, 9)}
        ).map(lambda sizes: {stage: size << 30 for stage, size in sizes.items()}),
        last=st.sampled_from(["annotate"] * 8 + ["generate", "render"]),
    ),
    min_size=1,
    max_size=60,
)
clusters = st.lists(
    st.tuples(st.integers(1, 12), st.integers(0, 4), st.sampled_from([None, 8 << 30, 64 << 30])),
    min_size=1,
    max_size=4,
).map(
    lambda rows: [
        Node(f"n{i}", cpus, min(gpus, cpus), memory) for i, (cpus, gpus, memory) in enumerate(rows)
    ]
)


@settings(max_examples=60, deadline=None)
@given(clusters, scene_lists, st.booleans(), st.integers(1, 6))
def test_all_scenes_end_and_no_node_is_oversold(nodes, scenes, on_gpu, gib):
    on_gpu = on_gpu and any(node.gpus for node in nodes)
    by_name = {node.name: node for node in nodes}
    disk, excess = gib << 30, []

    def watch(scheduler, backlog):
        for name, used in scheduler.used.items():
            assert 0 <= used.cpus <= by_name[name].cpus
            assert 0 <= used.gpus <= by_name[name].gpus
        assert 0 <= backlog.scenes <= scheduler.max_backlog
        excess.append(backlog.bytes - disk)

    assert simulate(nodes, scenes, on_gpu=on_gpu, disk=disk, watch=watch).ended == len(scenes)
    # scenes being generated may turn out larger than all before them
    sizes = [scene.scene_bytes for scene in scenes]
    assert max(excess) <= sum(node.cpus for node in nodes) * (max(sizes) - min(sizes))


@settings(max_examples=40, deadline=None)
@given(clusters, st.lists(seconds, min_size=2, max_size=60), st.integers(1, 4))
def test_scenes_of_known_size_stay_within_the_disk(nodes, times, gib):
    scenes = [
        SceneTimes(generate=time, parallel=10 * time, annotate=1, scene_bytes=FIRST_DISK)
        for time in times
    ]
    result = simulate(nodes, scenes, disk=gib << 30)
    assert result.ended == len(scenes)
    assert result.backlog_bytes <= gib << 30


@pytest.mark.parametrize("shape", farm_gpus.SHAPES)
@pytest.mark.parametrize(
    ("gpus", "speed", "cpus"), [(1, 500, 6), (8, 500, 40), (64, 500, 320), (64, 50, 96)]
)
def test_gpus_are_idle_for_less_than_a_twentieth_of_the_time(shape, gpus, speed, cpus):
    """With scenes that take as long, and vary as much, as measured ones."""
    scenes = farm_gpus.draw_scenes(farm_gpus.reference_costs(), 400 + 30 * gpus, speed)
    result = farm_gpus.run(shape, gpus, cpus, scenes)
    assert farm_gpus.idle(result) < farm_gpus.MAX_IDLE
    assert result.backlog_bytes <= WAITING_BYTES
    if gpus == 8:  # too few CPUs are noticed
        assert farm_gpus.idle(farm_gpus.run(shape, gpus, 16, scenes)) > 0.3


@pytest.mark.parametrize(
    ("profile", "scenes", "cpus", "gpus", "speed"),
    [
        ("draft", 1, 2, 0, 1),
        ("draft", 12, 2, 0, 1),
        ("draft", 300, 16, 0, 1),
        ("cpu", 500, 64, 0, 1),
        ("farm", 60, 8, 1, 500),
        ("farm", 400, 64, 8, 50),
        ("farm", 400, 16, 8, 500),
    ],
)
def test_estimated_hours_match_the_simulated_scheduler(profile, scenes, cpus, gpus, speed):
    """The closed formula is within a tenth of the scheduler's own decisions in virtual time."""
    run = make_settings(profile=profile)
    estimated = estimate(scenes, run, Cluster(cpus, gpus), gpu_speed=speed).hours.value
    costs = farm_gpus.reference_costs(run)
    simulated = []
    for seed in range(5):
        drawn = farm_gpus.draw_scenes(costs, scenes, speed, seed)
        nodes = [Node("a", cpus, gpus)]
        simulated.append(simulate(nodes, drawn, on_gpu=gpus > 0).seconds / 3600)
    assert estimated == pytest.approx(sum(simulated) / len(simulated), rel=0.1)
