"""What may start when: the rules, and the whole farm simulated without Ray."""

from __future__ import annotations

import heapq
from collections import Counter

import pytest

from pipeline.farm.options import FarmSettings
from pipeline.farm.schedule import (
    FINISH,
    Slots,
    choose,
    missing,
    next_stage,
    open_panoramas,
    start_over,
)
from pipeline.farm.worker import Limits
from pipeline.outputs import STAGES, SceneFolder, write_json
from tests.farm.conftest import Farm


def test_render_is_not_overtaken_by_generators() -> None:
    slots = Slots(cpus=4, render_cpus=4)
    assert choose({"generate": 9, "render": 1}, {"generate": 3}, slots) is None
    assert choose({"generate": 9, "render": 1}, {}, slots) == "render"
    assert choose({"generate": 9, "render": 1, "annotate": 1}, {}, slots) == "annotate"


def test_gpu_waits_for_no_annotation() -> None:
    slots = Slots(cpus=4, gpus=1, render_on_gpu=True)
    assert choose({"generate": 9, "render": 1, "annotate": 1}, {"generate": 3}, slots) == "render"
    assert choose({"generate": 9, "render": 1, "annotate": 1}, {"render": 1}, slots) == "annotate"
    assert choose({"generate": 9, "render": 1}, {"generate": 2, "render": 1}, slots) == "generate"


def test_one_cpu_does_everything() -> None:
    for slots in (Slots(cpus=1), Slots(cpus=1, gpus=1, render_on_gpu=True)):
        for stage in STAGES:
            assert choose({stage: 1}, {}, slots) == stage


def test_a_render_must_fit_on_one_node() -> None:
    slots = Slots(cpus=24, render_cpus=8, nodes=(12, 12))
    assert slots.renders == 2
    assert choose({"render": 1}, {"render": 1}, slots) == "render"
    assert choose({"render": 1}, {"render": 2}, slots) is None
    assert choose({"generate": 1, "render": 1}, {"render": 2}, slots) == "generate"


def test_a_cpu_beside_each_gpu_is_kept_free_of_generators() -> None:
    slots = Slots(cpus=8, gpus=2, render_on_gpu=True)
    assert choose({"generate": 1}, {"generate": 5}, slots) == "generate"
    assert choose({"generate": 1}, {"generate": 6}, slots) is None
    assert Slots(cpus=8, gpus=2).generators == 8
    assert Slots(cpus=8, gpus=8, render_on_gpu=True).generators == 4


@pytest.mark.parametrize(
    ("cpus", "render_cpus", "renders"),
    [((1, 8), 8, 1), ((1, 6, 6), 6, 2), ((4,), 4, 1), ((64, 64), 8, 16)],
)
def test_one_small_node_does_not_set_the_size_of_renders(
    cpus: tuple[int, ...], render_cpus: int, renders: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.farm import cluster
    from tests.farm.conftest import SETTINGS

    nodes = [{"Alive": True, "Resources": {"CPU": float(count)}} for count in cpus]
    monkeypatch.setattr(cluster.ray, "nodes", lambda: nodes)
    slots = cluster.count_slots(SETTINGS, FarmSettings())
    assert (slots.render_cpus, slots.renders) == (render_cpus, renders)


def test_scene_files_are_bounded() -> None:
    slots = Slots(cpus=8, gpus=1, render_on_gpu=True)
    waiting = slots.max_ahead
    assert choose({"generate": 9, "render": waiting}, {"render": 1}, slots) is None
    assert choose({"generate": 9, "render": waiting - 1}, {"render": 1}, slots) == "generate"


@pytest.mark.parametrize(
    ("slots", "seconds"),
    [
        (Slots(cpus=2, render_cpus=2), {"generate": 240, "render": 400, "annotate": 5}),
        (Slots(cpus=64, render_cpus=8), {"generate": 240, "render": 100, "annotate": 5}),
        (
            Slots(cpus=32, gpus=1, render_on_gpu=True),
            {"generate": 240, "render": 30, "annotate": 5},
        ),
        (Slots(cpus=8, gpus=8, render_on_gpu=True), {"generate": 240, "render": 30, "annotate": 5}),
    ],
)
def test_simulated_farm(slots: Slots, seconds: dict[str, float]) -> None:
    """Every scene is made, no slot is oversold, scene files stay bounded, a fed GPU stays busy."""
    ready, running = Counter(generate=200), Counter[str]()
    events: list[tuple[float, int, str]] = []
    now, started, done, busy_render, most_waiting = 0.0, 0, 0, 0.0, 0
    while ready.total() or running.total():
        while stage := choose(ready, running, slots):
            ready[stage] -= 1
            running[stage] += 1
            jitter = 0.8 + 0.4 * (started * 0.618 % 1)
            started += 1
            heapq.heappush(events, (now + seconds[stage] * jitter, started, stage))
            busy_render += seconds[stage] * jitter * (stage == "render")
        used = sum(count * slots.cpus_of(stage) for stage, count in running.items())
        assert used <= slots.cpus
        assert running["render"] <= slots.renders
        most_waiting = max(most_waiting, ready["render"])
        now, _, stage = heapq.heappop(events)
        running[stage] -= 1
        if stage == "annotate":
            done += 1
        else:
            ready[STAGES[STAGES.index(stage) + 1]] += 1
    assert done == 200
    assert most_waiting <= slots.max_ahead
    if slots.render_on_gpu and slots.cpus == 32:  # enough CPUs for this one GPU
        assert busy_render / (now - seconds["generate"]) > 0.95


def test_next_stage_goes_by_files(farm: Farm) -> None:
    scene = farm.run.scene("spheres-0000000000")
    assert next_stage(scene) == "generate"
    write_json(scene.generated, {"viewpoints": [{}, {}]})
    assert next_stage(scene) == "generate"  # scene.json without scene.blend
    assert missing(scene, "generate") == "scene.blend"
    scene.blend.touch()
    assert (next_stage(scene), missing(scene, "generate")) == ("render", None)
    scene.rendered(0).mkdir(parents=True)
    assert (next_stage(scene), missing(scene, "render")) == ("render", "rendered/1")
    scene.panorama(1).mkdir(parents=True)
    assert (next_stage(scene), missing(scene, "render")) == ("annotate", None)
    assert missing(scene, "annotate") == "panoramas/0"
    scene.panorama(0).mkdir()
    assert (next_stage(scene), missing(scene, "annotate")) == (FINISH, None)
    scene.done.touch()
    assert next_stage(scene) is None


def test_time_goes_by_the_panoramas_that_are_left(farm: Farm) -> None:
    scene = farm.run.scene("spheres-0000000000")
    limits = FarmSettings(render_limits=Limits(wall=10), annotate_limits=Limits(wall=2)).limits
    assert open_panoramas(scene, "generate") == 0
    write_json(scene.generated, {"viewpoints": [{}, {}, {}]})
    scene.rendered(0).mkdir(parents=True)
    scene.panorama(1).mkdir(parents=True)
    assert (open_panoramas(scene, "render"), open_panoramas(scene, "annotate")) == (1, 2)
    assert limits("render", 3).wall == 30
    assert limits("annotate", 2).wall == 4
    assert limits("generate", 0).wall == 3600


def test_damaged_scene_json_means_generate_again(farm: Farm) -> None:
    scene: SceneFolder = farm.run.scene("spheres-0000000000")
    write_json(scene.generated, {"viewpoints": [{}]})
    scene.blend.touch()
    scene.panorama(0).mkdir(parents=True)
    scene.generated.write_text('{"viewpoi')
    assert next_stage(scene) == "generate"
    start_over(scene)
    assert list(scene.path.iterdir()) == []
