"""The simulated farm against sums done by hand, and the claim that GPUs do not wait."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.farm.resource_estimates import FIRST_DISK
from pipeline.farm.scheduler import Node
from pipeline.planning.measured import from_reference
from pipeline.planning.simulate import SceneTimes, simulate
from tests.benchmarks import farm_gpus

MB = 10**6


def several(count: int, **times) -> list[SceneTimes]:
    return [SceneTimes(**times) for _ in range(count)]


def test_one_cpu_takes_the_sum_of_all_times():
    rng = random.Random(1)
    scenes = [
        SceneTimes(
            generate=rng.uniform(1, 99),
            render_serial=rng.uniform(1, 9),
            render_parallel=rng.uniform(1, 99),
            annotate=rng.uniform(1, 5),
        )
        for _ in range(40)
    ]
    whole = sum(s.generate + s.render_serial + s.render_parallel + s.annotate for s in scenes)
    result = simulate([Node("a", 1)], scenes)
    assert result.seconds == pytest.approx(whole)
    assert result.cpu_seconds == pytest.approx(whole)
    assert result.cpu_busy == pytest.approx(1)
    assert result.ended == 40


def test_one_scene_takes_its_stages_one_after_the_other():
    scene = SceneTimes(generate=100, render_serial=10, render_parallel=80, annotate=3)
    result = simulate([Node("a", 8)], [scene])  # the last render gets all CPUs
    assert result.seconds == pytest.approx(100 + 10 + 80 / 8 + 3)
    assert result.cpu_seconds == pytest.approx(100 + 8 * 20 + 3)


def test_gpu_bound_throughput_is_the_renders():
    scenes = several(400, generate=50, render_gpu=30, annotate=1)
    result = simulate([Node("g", 16, 2), Node("c", 8)], scenes, on_gpu=True)
    assert result.gpu_busy == pytest.approx(1, abs=0.01)
    assert result.seconds_between == pytest.approx(30 / 2, rel=0.02)
    assert result.gpu_seconds == pytest.approx(400 * 30)


def test_generation_bound_throughput_is_the_generators():
    """7 of the 8 CPUs may generate, for one is kept for the GPU; it renders for a tenth of that."""
    scenes = several(700, generate=70, render_gpu=1, annotate=0)
    result = simulate([Node("g", 8, 1)], scenes, on_gpu=True)
    assert result.seconds_between == pytest.approx(70 / 7, rel=0.02)
    assert result.gpu_busy == pytest.approx(1 / 10, rel=0.1)


def test_on_cpus_throughput_is_all_the_work_on_all_the_cpus():
    scenes = several(1000, generate=40, render_serial=5, render_parallel=25, annotate=2)
    result = simulate([Node("a", 16), Node("b", 16)], scenes)
    assert result.seconds_between == pytest.approx((40 + 5 + 25 + 2) / 32, rel=0.03)
    assert result.cpu_busy == pytest.approx(1, abs=0.01)


def test_a_seed_that_is_given_up_costs_its_time_and_goes_no_further():
    scenes = [
        *several(3, generate=10, render_parallel=20, annotate=1),
        *several(2, generate=10, last="generate", scene_bytes=MB),
        SceneTimes(generate=10, render_parallel=20, last="render", scene_bytes=MB),
    ]
    result = simulate([Node("a", 1)], scenes)
    assert result.ended == 6
    assert result.seconds == pytest.approx(6 * 10 + 4 * 20 + 3)


def test_a_slow_driver_starts_one_attempt_after_the_other():
    scenes = several(10, generate=1, render_parallel=1, annotate=1)
    fast, slow = (simulate([Node("a", 1)], scenes, latency=pause) for pause in (0, 2))
    assert fast.seconds == pytest.approx(30)
    assert slow.seconds == pytest.approx(30 + 30 * 2)


def test_a_render_that_fits_on_no_node_is_told():
    with pytest.raises(UserError, match="no node has room for the stage render"):
        simulate([Node("a", 2)], several(1, generate=1, render_gpu=1), on_gpu=True)


def test_equal_scenes_give_equal_results():
    measured = from_reference(farm_gpus.SETTINGS)
    results = [
        farm_gpus.run("mixed", 8, 40, farm_gpus.scenes_of(measured, 300, 100.0, seed=5))
        for _ in range(2)
    ]
    assert results[0] == results[1]


seconds = st.floats(0.1, 500)
scene_lists = st.lists(
    st.builds(
        SceneTimes,
        generate=seconds,
        render_serial=st.floats(0, 20),
        render_parallel=seconds,
        render_gpu=seconds,
        annotate=st.floats(0, 9),
        scene_bytes=st.integers(1, 300).map(lambda size: size * MB),
        raw_bytes=st.integers(0, 9).map(lambda size: size * MB),
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
def test_nothing_is_lost_or_taken_twice_and_the_disk_holds(nodes, scenes, on_gpu, gib):
    """Scene files stay within their room once it is known how large they are."""
    on_gpu = on_gpu and any(node.gpus for node in nodes)
    of = {node.name: node for node in nodes}
    largest = max(scene.scene_bytes for scene in scenes)
    disk, over = gib << 30, []

    def watch(time, placement, ahead):
        for name, used in placement.used.items():
            assert 0 <= used.cpus <= of[name].cpus
            assert 0 <= used.gpus <= of[name].gpus
        assert 0 <= ahead.scenes <= placement.max_ahead
        over.append(ahead.bytes - disk)

    result = simulate(nodes, scenes, on_gpu=on_gpu, disk=disk, watch=watch)
    assert result.ended == len(scenes)
    # one that is larger than all before it takes more than it was counted as; those in the making
    cpus = sum(node.cpus for node in nodes)
    assert max(over) <= cpus * (largest - min(scene.scene_bytes for scene in scenes))
    ends = Counter(scene.last for scene in scenes)
    rendered = ends["render"] + ends["annotate"]
    assert (result.gpu_seconds > 0) == (on_gpu and rendered > 0)


@settings(max_examples=40, deadline=None)
@given(clusters, st.lists(seconds, min_size=2, max_size=60), st.integers(1, 4))
def test_the_disk_is_never_exceeded_by_scenes_of_a_known_size(nodes, times, gib):
    scenes = [
        SceneTimes(generate=one, render_parallel=10 * one, annotate=1, scene_bytes=FIRST_DISK)
        for one in times
    ]
    result = simulate(nodes, scenes, disk=gib << 30)
    assert result.ended == len(scenes)
    assert result.peak_waiting_bytes <= gib << 30


@pytest.mark.parametrize("shape", farm_gpus.SHAPES)
@pytest.mark.parametrize(
    ("gpus", "speed", "cpus"), [(1, 500, 6), (8, 500, 40), (64, 500, 320), (64, 50, 96)]
)
def test_gpus_wait_for_less_than_a_twentieth_of_the_time(shape, gpus, speed, cpus):
    """With scenes that take as long, and vary as much, as measured ones; too few CPUs show."""
    scenes = farm_gpus.scenes_of(from_reference(farm_gpus.SETTINGS), 400 + 30 * gpus, speed)
    result = farm_gpus.run(shape, gpus, cpus, scenes)
    assert farm_gpus.idle(result) < farm_gpus.MOST_IDLE
    assert result.peak_waiting_bytes <= farm_gpus.WAITING_BYTES
    if gpus == 8:
        assert farm_gpus.idle(farm_gpus.run(shape, gpus, 16, scenes)) > 0.3
