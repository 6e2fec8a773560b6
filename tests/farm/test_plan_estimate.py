"""Estimates against sums done by hand, from records and from the reference measurements."""

from __future__ import annotations

import json
from dataclasses import replace
from statistics import mean

import pytest

from pipeline.cli import main
from pipeline.farm.plan_estimate import (
    ASSUMED_GPU_SPEED,
    Cluster,
    SceneCost,
    estimate,
    measured_costs,
    read_costs,
    reference,
)
from pipeline.farm.records import Cost, Done, Failed, to_json
from pipeline.layout import RunFolder, write_json
from pipeline.run_settings import make_settings
from pipeline.run_settings import to_json as settings_json
from tests.errors import raises_user_error

DRAFT = make_settings(profile="draft", panos=2)
FARM = make_settings(profile="farm", panos=2)
MB = 10**6


def cost(**changes) -> SceneCost:
    """A scene that takes 100 s, then 10 s by one thread and 40 s by all, then 2 s."""
    base = SceneCost(
        generator="indoors",
        panoramas=2,
        requested=2,
        good=2,
        generate=100,
        serial=10,
        parallel=40,
        annotate=2,
        scene_bytes=50 * MB,
        raw_bytes=2 * MB,
        kept_bytes=MB,
        memory=3 * MB,
    )
    return replace(base, **changes)


def write_run(folder, *, scenes=4, failed=0, settings=DRAFT, gpu=False):
    """A run whose records have the costs of `cost`, and quarantined seeds of 300 s."""
    run = RunFolder(folder)
    write_json(run.settings, {"settings": settings_json(settings), "settings_hash": "0" * 12})
    generate = Cost(attempts=1, seconds=100, cpu_seconds=100, peak_rss=MB)
    render = Cost(1, 50, 50, 50 if gpu else 0, 3 * MB)
    for seed in range(scenes):
        scene_id = f"indoors-{seed:010d}"
        done = Done(
            scene_id=scene_id,
            seed=seed,
            generator="indoors",
            panoramas=(0, 1),
            unfit={},
            costs={"generate": generate, "render": render, "annotate": Cost(1, 2, 2)},
            bytes={"scene": 50 * MB, "rendered": 2 * MB, "panoramas": MB},
            nodes=("a",),
            reasons={"ok": 3},
            finished=float(seed),
        )
        write_json(run.scene(scene_id).done, to_json(done))
    for seed in range(scenes, scenes + failed):
        scene_id = f"indoors-{seed:010d}"
        quarantined = Failed(
            scene_id, seed, "indoors", "generate", "crashed", "", "", "",
            {"generate": Cost(3, 300, 300)}, {"crashed": 3}, ("a",), "", 0.0,
        )  # fmt: skip
        write_json(run.scene(scene_id).failed, to_json(quarantined))
    return str(folder)


def test_one_cpu_takes_the_sum():
    found = estimate(10, DRAFT, Cluster(1), costs=[cost()] * 3)
    assert found.hours.value == pytest.approx(10 * 152 / 3600)
    assert found.hours.low == found.hours.high == found.hours.value  # equal costs
    assert found.cpu_hours.value == pytest.approx(10 * 152 / 3600)
    assert found.panoramas.value == 20
    assert found.shard_bytes.value == 10 * MB
    assert found.out_bytes == 20 * MB + 10 * reference()["record_bytes"]["value"]
    assert found.scratch_bytes == 3 * 52 * MB  # one scene per CPU and render, and one more
    assert found.memory_bytes == 3 * MB
    assert found.bottleneck == "CPUs"


def test_gpus_are_the_bottleneck_of_slow_renders():
    costs = [cost(serial=0, parallel=5, gpu=500.0)] * 3
    found = estimate(1000, FARM, Cluster(16, 2), costs=costs)
    assert found.bottleneck == "GPUs"
    assert found.hours.value == pytest.approx(1000 * 500 / 2 / 3600, rel=0.01)
    assert found.gpu_hours.value == pytest.approx(1000 * 500 / 3600)
    assert found.cpu_hours.value == pytest.approx(1000 * 107 / 3600)
    assert not found.notes


def test_generating_is_the_bottleneck_of_fast_renders():
    """Of four CPUs, two are left beside the GPUs."""
    found = estimate(1000, FARM, Cluster(4, 2), costs=[cost(serial=0, gpu=1.0)] * 3)
    assert found.bottleneck == "CPUs"
    assert found.hours.value == pytest.approx(1000 * 102 / 2 / 3600, rel=0.01)


def test_panoramas_scale_and_small_rooms_keep_theirs():
    six = make_settings(profile="draft", panos=6)
    full = estimate(10, six, Cluster(1), costs=[cost()] * 3)
    assert full.cpu_hours.value == pytest.approx(10 * (100 + 10 + 120 + 6) / 3600)
    small = estimate(10, six, Cluster(1), costs=[cost(panoramas=1, good=1)] * 3)
    assert small.panoramas.value == 10
    unfit = estimate(10, DRAFT, Cluster(1), costs=[cost(good=1)] * 3)
    assert unfit.panoramas.value == 10


def test_quarantined_seeds_are_included(tmp_path):
    run = write_run(tmp_path, scenes=30, failed=10)
    found = estimate(400, DRAFT, Cluster(1), runs=[run])
    assert found.seeds == pytest.approx(400 * 4 / 3)
    assert found.hours.value == pytest.approx((400 * 152 + 400 / 3 * 300) / 3600)


def test_records_of_a_busy_machine_slow_down_the_renders(tmp_path):
    write_run(tmp_path)
    path = RunFolder(tmp_path).scene("indoors-0000000000").done
    record = json.loads(path.read_text())
    record["costs"]["generate"]["seconds"] = 500  # 800 s of wall-clock time for 400 s of CPU time
    path.write_text(json.dumps(record))
    first, *_ = costs = read_costs(RunFolder(tmp_path), 2)
    assert {one.slowdown for one in costs} == {2.0}
    assert (first.serial, first.parallel) == (13, 37)
    found = estimate(100, DRAFT, Cluster(1), costs=costs)
    assert found.hours.value == pytest.approx(100 * (800 / 4 + 2 * 50 + 2) / 3600)


def test_gpu_records_need_no_assumption(tmp_path):
    run = write_run(tmp_path, settings=FARM, gpu=True)
    found = estimate(50, FARM, Cluster(8, 1), runs=[run])
    assert not any(note.startswith("assumed") for note in found.notes)
    assert found.gpu_hours.value == pytest.approx(50 * 50 / 3600)


def test_gpu_speed_is_an_assumption_unless_it_is_set():
    assumed = estimate(50, FARM, Cluster(8, 1))
    given = estimate(50, FARM, Cluster(8, 1), gpu_speed=500)
    assert any(f"{ASSUMED_GPU_SPEED:g} CPU cores" in note for note in assumed.notes)
    assert any("GPU_SPEED" in note and "500" in note for note in given.notes)
    assert given.gpu_hours.value < assumed.gpu_hours.value / 5


def test_interval_grows_with_the_spread_and_shrinks_with_more_measurements():
    def width(seconds, repeats):
        costs = [cost(generate=time) for time in seconds * repeats]
        hours = estimate(50, DRAFT, Cluster(2), costs=costs).hours
        assert hours.low < hours.value < hours.high
        return hours.high - hours.low

    even, uneven = (95, 100, 105), (20, 60, 220)
    assert width(uneven, 5) > 5 * width(even, 5)
    assert width(uneven, 50) < 0.8 * width(uneven, 5)


def test_reference_at_4k_is_the_measured_one():
    costs, _ = measured_costs((), make_settings(profile="cpu"))
    assert mean(one.parallel / one.panoramas for one in costs) == pytest.approx(216)
    assert {one.kept_bytes / one.panoramas for one in costs} == {7 * MB}
    farm, notes = measured_costs((), FARM)
    each = mean(one.parallel / one.panoramas for one in farm)
    assert each == pytest.approx(216 * 64 * 1.73)
    assert any("PROFILE=farm" in note for note in notes)
    wide, _ = measured_costs((), make_settings(profile="cpu", width=8192, samples=4))
    assert mean(one.parallel / one.panoramas for one in wide) == pytest.approx(216 * 8)


def test_every_reference_measurement_has_a_source():
    data = reference()
    for name in ("render_serial", "full_light", "memory_4k", "record_bytes", "panorama_bytes"):
        assert data[name]["source"]
    assert all(entry["source"] for entry in data["render_4k"].values())
    assert data["scenes_source"]


def test_price_covers_all_machines_and_storage():
    prices = {"cpu_hour": 0.5, "gib_month": 2.0}
    found = estimate(10, DRAFT, Cluster(4, **prices), costs=[cost()] * 3)
    storage = found.out_bytes / 2**30 * 2
    assert found.price.value == pytest.approx(found.hours.value * 4 * 0.5 + storage)


@pytest.mark.parametrize(
    ("settings", "cluster", "named"),
    [
        (FARM, Cluster(4), ("PROFILE=farm", "GPUS=0")),
        (DRAFT, Cluster(4, 1), ("PROFILE=draft", "GPUS=1")),
        (FARM, Cluster(4, 8), ("CPUS=4", "GPUS=8")),
        (make_settings(generator="house"), Cluster(4), ("GENERATOR=house",)),
    ],
)
def test_impossible_run_is_rejected(settings, cluster, named):
    with raises_user_error(*named):
        estimate(1, settings, cluster)


def test_runs_with_other_settings_are_rejected(tmp_path):
    run = write_run(tmp_path / "draft")
    with raises_user_error(f"RUNS={run}", "PROFILE=draft"):
        measured_costs([run], make_settings(profile="cpu"))
    with raises_user_error("GENERATOR=rooms"):
        estimate(1, make_settings(profile="draft", generator="rooms"), Cluster(1), runs=[run])
    with raises_user_error(f"RUNS={tmp_path / 'none'}"):
        measured_costs([str(tmp_path / "none")], DRAFT)
    _, notes = measured_costs([run], FARM)
    assert any("PROFILE=draft" in note for note in notes)


def plan(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["plan", "--scenes", "3", "--cpus", "2", *arguments])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_command_takes_the_settings_of_the_first_run(tmp_path, capsys):
    run = write_run(tmp_path, scenes=2)
    for given, panos in (([], DRAFT.panos), (["--panos", "1"], 1)):
        text = plan(capsys, "--runs", f"{run},{run}", *given)
        assert f"up to {panos} panoramas each, PROFILE=draft" in text
        assert text.count(f"from: {run}") == 1
        assert "warning: the intervals are too narrow: 2 measured scenes of indoors" in text


def test_command_compares_with_the_paper(capsys):
    text = plan(capsys, "--profile", "draft", "--price-cpu-hour", "1")
    for figure in ("183,440 panoramas", "40,000 GPU-hours", "785 GPU-seconds each", "price"):
        assert figure in text
    found = json.loads(plan(capsys, "--profile", "draft", "--json"))
    assert found["hours"][0] > 0
    assert found["settings"]["profile"] == "draft"
