"""Plans against sums done by hand, from ledgers and from the reference measurements."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from statistics import mean

import pytest

from pipeline.cli import main
from pipeline.errors import UserError
from pipeline.farm.attempt import Attempt, record_path
from pipeline.farm.records import Cost, Done, Failed, to_json
from pipeline.layout import RunFolder, write_json
from pipeline.planning.ledgers import from_ledgers, read_samples, settings_of
from pipeline.planning.machines import Cluster, Rates
from pipeline.planning.measured import (
    ASSUMED_GPU_SPEED,
    Measured,
    Sample,
    from_reference,
    reference,
)
from pipeline.planning.plan import plan
from pipeline.planning.plan_text import plan_text
from pipeline.settings import make_settings
from pipeline.settings import to_json as settings_json

DRAFT = make_settings(profile="draft", panos=2)
FARM = make_settings(profile="farm", panos=2)
MB = 10**6


def sample(**changes) -> Sample:
    base = Sample(
        generator="indoors",
        views=2,
        good=2,
        asked=2,
        generate=100,
        serial=10,
        parallel=20,
        annotate=1,
        cpu_scene=100,
        cpu_view=21,
        scene_bytes=50 * MB,
        raw_bytes=MB,
        kept_bytes=MB // 2,
    )
    return replace(base, **changes)


def measured(*samples: Sample, ledger_bytes: int = 1000) -> Measured:
    return Measured(samples, ("by hand",), (), ledger_bytes)


def ledger(
    folder, *, scenes: int = 4, failed: int = 0, settings=DRAFT, threads: int = 1, gpu=False
):
    """A run whose scenes take 100 s, then 10 s by one thread and 40 s by all, then 2 s."""
    run = RunFolder(folder)
    write_json(run.settings, {"settings": settings_json(settings)})
    seconds = 10 + 40 / threads
    for seed in range(scenes + failed):
        generate = Cost(attempts=1, seconds=100, cpu_seconds=90, peak_rss=MB)
        render = Cost(1, seconds, 50, seconds if gpu else 0, 2 * MB)
        scene_id = f"indoors-{seed:010d}"
        if seed < scenes:
            record = Done(
                scene_id=scene_id,
                seed=seed,
                generator="indoors",
                panoramas=(0, 1),
                unfit={},
                costs={"generate": generate, "render": render, "annotate": Cost(1, 2, 1)},
                bytes={"scene": 50 * MB, "rendered": 2 * MB, "panoramas": MB},
                nodes=("a",),
                reasons={"ok": 3},
                finished=float(seed),
            )
            write_json(run.done_folder / f"{scene_id}.json", to_json(record))
            scene = run.scene(scene_id)
            one = Attempt("render", 1, "a", 1, 0.0, 0.0, 9.0, "ok")
            one = replace(one, seconds=seconds, cpu_seconds=50, cpus=threads, gpus=int(gpu))
            write_json(record_path(scene, "render", 1), asdict(one))
        else:
            given_up = Failed(
                scene_id, seed, "indoors", "generate", "crashed", "", "", "",
                {"generate": Cost(3, 300, 270)}, {"crashed": 3}, ("a",), "", 0.0,
            )  # fmt: skip
            write_json(run.failed_folder / f"{scene_id}.json", to_json(given_up))
    return str(folder)


def test_one_cpu_takes_the_sum():
    planned = plan(10, DRAFT, Cluster(1), measured=measured(*[sample()] * 3))
    assert planned.hours.value == pytest.approx(10 * (100 + 10 + 40 + 2) / 3600)
    assert planned.hours.low == planned.hours.high == planned.hours.value  # all scenes are alike
    assert planned.cpu_hours.value == pytest.approx(10 * (100 + 42) / 3600)
    assert planned.panoramas.value == 20
    assert planned.shard_bytes.value == 20 * MB // 2
    assert planned.ledger_bytes == 10 * 1000
    assert planned.scratch_bytes == 52 * MB
    assert not planned.warnings


def test_a_large_run_goes_on_at_the_pace_of_the_simulated_part():
    planned = plan(100_000, DRAFT, Cluster(10), measured=measured(*[sample()] * 3))
    assert planned.simulated == 2000
    assert planned.hours.value == pytest.approx(100_000 * 152 / 10 / 3600, rel=0.01)


def test_more_panoramas_are_paid_for_one_by_one_and_small_rooms_keep_theirs():
    full, small = sample(), sample(views=1, good=1)
    assert full.times(6, None).render_parallel == 6 * 20
    assert full.times(1, None).annotate == 1
    assert small.times(6, None).render_parallel == 20
    unfit = plan(10, DRAFT, Cluster(1), measured=measured(*[sample(good=1)] * 3))
    assert unfit.panoramas.value == 10


def test_retries_and_given_up_seeds_are_paid(tmp_path):
    found = from_ledgers([ledger(tmp_path, scenes=30, failed=10)], DRAFT)
    planned = plan(400, DRAFT, Cluster(1), measured=found)
    given_up = planned.failed
    assert given_up == pytest.approx(400 / 3, rel=0.3)
    assert planned.hours.value == pytest.approx((400 * 152 + given_up * 300) / 3600)
    assert "seeds given up" in plan_text(planned)


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_a_ledger_tells_what_one_thread_does(tmp_path, threads):
    name = ledger(tmp_path, threads=threads)
    (first, *_), about = read_samples(RunFolder(tmp_path), 2)
    if threads == 1:  # cannot be told: the reference is taken
        assert "reference" in about
        assert first.serial == reference()["render_serial"]["value"]
    else:
        assert first.serial == pytest.approx(10)
        assert first.parallel == pytest.approx(20)
    planned = plan(4, DRAFT, Cluster(1), ledgers=[name])
    assert planned.hours.value == pytest.approx(4 * 152 / 3600)


def test_a_ledger_of_gpus_needs_no_assumption(tmp_path):
    name = ledger(tmp_path, settings=FARM, gpu=True)
    planned = plan(50, FARM, Cluster(8, 1), ledgers=[name])
    assert not planned.assumptions
    assert planned.gpu_hours.value == pytest.approx(50 * 50 / 3600)
    assert planned.gpu_seconds_each == pytest.approx(25)


def test_without_a_measured_gpu_the_assumption_is_said():
    planned = plan(50, FARM, Cluster(8, 1))
    assert f"one GPU renders like {ASSUMED_GPU_SPEED:g} CPU cores: ASSUMED" in plan_text(planned)
    told = plan(50, FARM, Cluster(8, 1), gpu_speed=500)
    assert "ASSUMED" not in plan_text(told)
    assert told.gpu_hours.value < planned.gpu_hours.value / 5


def test_the_interval_covers_other_draws_and_grows_with_the_spread():
    even = [sample(generate=seconds) for seconds in (95, 100, 105) * 5]
    uneven = [sample(generate=seconds) for seconds in (20, 60, 220) * 5]
    narrow, wide = (plan(15, DRAFT, Cluster(2), measured=measured(*one)) for one in (even, uneven))
    for planned in (narrow, wide):
        assert planned.hours.low < planned.hours.value < planned.hours.high
    assert wide.hours.high - wide.hours.low > 5 * (narrow.hours.high - narrow.hours.low)
    inside = 0
    for seed in range(5):
        other = plan(15, DRAFT, Cluster(2), measured=measured(*uneven), seed=100 + seed)
        inside += wide.hours.low <= other.hours.value <= wide.hours.high
    assert inside >= 4


def test_equal_arguments_give_equal_plans():
    one, two = (plan(30, FARM, Cluster(16, 2)) for _ in range(2))
    assert one == two
    assert json.loads(json.dumps(one.to_json()))["hours"]["value"] == one.hours.value


def test_reference_at_4k_is_what_was_measured_there():
    found = from_reference(make_settings(profile="cpu"))
    assert mean(one.parallel for one in found.samples) == pytest.approx(216)
    assert {one.kept_bytes for one in found.samples} == {7 * MB}
    farm = from_reference(FARM)
    assert mean(one.parallel for one in farm.samples) == pytest.approx(216 * 64 * 1.73)
    assert any("no render with PROFILE=farm was measured" in one for one in farm.assumptions)
    wide = from_reference(make_settings(profile="cpu", width=8192, samples=4))
    assert mean(one.parallel for one in wide.samples) == pytest.approx(216 * 8)


def test_every_reference_measurement_has_a_source():
    data = reference()
    for name in ("render_serial", "full_light", "memory_4k", "ledger_bytes", "panorama_bytes"):
        assert data[name]["source"]
    assert all(one["source"] for one in data["render_4k"].values())
    assert data["scenes_source"]


def test_the_papers_size_stands_in_every_plan():
    text = plan_text(plan(12, DRAFT, Cluster(2)))
    assert "the paper's 183,440 panoramas would take" in text
    assert "40,000 GPU-hours (785 GPU-seconds each)" in text
    assert "reference measurements" in text


def test_prices_are_of_all_machines_and_only_if_rates_are_given():
    one = measured(*[sample()] * 3)
    assert plan(10, DRAFT, Cluster(4), measured=one).price is None
    planned = plan(10, DRAFT, Cluster(4), measured=one, rates=Rates(cpu_hour=0.5, gib_month=2))
    assert planned.price is not None
    kept = (2 * 20 * MB / 2 + 10 * 1000) / 2**30
    assert planned.price.value == pytest.approx(planned.hours.value * 4 * 0.5 + 2 * kept)
    assert "price" in plan_text(planned)


def test_memory_of_the_nodes_leaves_cpus_idle():
    settings = make_settings(profile="cpu")
    roomy = plan(100, settings, Cluster(16, node_memory=256 << 30))
    tight = plan(100, settings, Cluster(16, node_memory=16 << 30))
    assert tight.hours.value > roomy.hours.value
    assert "NODE_MEMORY" in plan_text(plan(2, settings, Cluster(4)))
    assert "NODE_MEMORY" not in plan_text(roomy)


def test_few_scenes_are_warned_of(tmp_path):
    planned = plan(10, DRAFT, Cluster(2), ledgers=[ledger(tmp_path, scenes=2)])
    assert "only 2 finished scenes of indoors" in plan_text(planned)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda: plan(0, DRAFT, Cluster(1)), "SCENES must be at least 1"),
        (lambda: Cluster(0), "CPUS must be at least 1"),
        (lambda: Cluster(4, -1), "GPUS must not be negative"),
        (lambda: Cluster(4, 8), "each GPU needs a CPU"),
        (lambda: plan(1, FARM, Cluster(4)), "say how many with GPUS="),
        (lambda: plan(1, DRAFT, Cluster(4, 1)), "would leave GPUS=1 idle"),
        (lambda: plan(1, FARM, Cluster(4, 1), gpu_speed=0), "GPU_SPEED must be"),
        (lambda: plan(1, make_settings(generator="house"), Cluster(4)), "no reference measure"),
        (lambda: Rates(cpu_hour=-1), "PRICE_CPU_HOUR must not"),
    ],
)
def test_what_cannot_be_planned_is_one_line(arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        arguments()
    assert "\n" not in str(caught.value)


def test_ledgers_that_do_not_fit_are_refused(tmp_path):
    name = ledger(tmp_path / "draft")
    assert settings_of(name) == DRAFT
    with pytest.raises(UserError, match="was made with PROFILE=draft"):
        from_ledgers([name], make_settings(profile="cpu"))
    with pytest.raises(UserError, match="no finished scene of GENERATOR=rooms"):
        from_ledgers([name], make_settings(profile="draft", generator="rooms"))
    with pytest.raises(UserError, match="holds no run"):
        from_ledgers([str(tmp_path / "none")], DRAFT)
    scaled = from_ledgers([name], FARM)
    assert any("scaled from draft" in one for one in scaled.assumptions)


def test_nodes_hold_all_cpus_and_gpus():
    for cluster in (Cluster(1), Cluster(100), Cluster(320, 64), Cluster(9, 9, node_cpus=2)):
        nodes = cluster.nodes()
        assert sum(node.cpus for node in nodes) == cluster.cpus
        assert sum(node.gpus for node in nodes) == cluster.gpus
        assert all(node.gpus <= node.cpus for node in nodes)


def test_a_node_with_less_memory_than_an_attempt_needs_is_a_warning():
    needs = measured(*[replace(sample(), memory={"render": 3 * 2**30})] * 3)
    small, enough = (
        plan(10, DRAFT, Cluster(2, node_memory=size * 2**30), measured=needs) for size in (2, 4)
    )
    assert "an attempt used up to 3.0 GiB, and a node has 2.0" in plan_text(small)
    assert "NODE_MEMORY" not in plan_text(enough)


def test_a_ledger_is_planned_by_with_what_is_given(tmp_path, capsys):
    folder = ledger(tmp_path / "draft")
    words = ["plan", "--scenes", "3", "--cpus", "2", "--ledger", f"{folder},{folder}"]
    for given, panos in (([], DRAFT.panos), (["--panos", "1"], 1)):
        with pytest.raises(SystemExit) as ended:
            main([*words, *given])
        said = capsys.readouterr().out
        assert ended.value.code == 0
        assert f"up to {panos} panoramas each, PROFILE=draft" in said
        assert said.count("from: ledger") == 1, "the same one twice is one"
