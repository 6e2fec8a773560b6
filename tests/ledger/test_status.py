"""How a run stands, against a naive sum over what its attempts cost."""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import storage
from pipeline.errors import UserError
from pipeline.ledger import attempts
from pipeline.ledger.attempts import Attempt
from pipeline.ledger.claim import claim
from pipeline.ledger.outcome import Outcome
from pipeline.ledger.records import Done, Failed, costs_of, to_json
from pipeline.ledger.status import Status, current_step, read_status, time_left
from pipeline.ledger.status_text import status_json, status_text
from pipeline.ledger.totals import Records
from pipeline.outputs import STAGES, RunFolder, SceneFolder, read_json, write_json
from tests.farm.conftest import SETTINGS, Farm

REASONS = ("ok", "crashed", "memory", "timeout", "node", "interrupted")


def name(seed: int) -> str:
    return f"spheres-{seed:010d}"


@st.composite
def ledgers(draw: st.DrawFn) -> list[tuple[str, list[Attempt]]]:
    """Scenes, each finished or failed, with all their attempts."""
    number = st.floats(0, 1e6, allow_nan=False)
    attempt = st.builds(
        lambda stage, reason, node, **numbers: Attempt(
            stage, 1, "host", 1, 0.0, 0.0, ended=1.0, reason=reason, node=node, **numbers
        ),
        stage=st.sampled_from(STAGES),
        reason=st.sampled_from(REASONS),
        node=st.sampled_from(("node-a", "node-b", "node-c")),
        seconds=number,
        cpu_seconds=number,
        peak_rss=st.integers(0, 2**36),
        gpus=st.integers(0, 2),
        bytes=st.integers(0, 2**36),
    )
    scene = st.tuples(st.sampled_from(("done", "failed")), st.lists(attempt, max_size=6))
    return draw(st.lists(scene, max_size=8))


def some_ledgers(count: int) -> list[tuple[str, list[Attempt]]]:
    """Many scenes, a tenth of them failed."""
    draw = random.Random(0)
    return [
        (
            "failed" if draw.random() < 0.1 else "done",
            [
                Attempt(
                    *(draw.choice(STAGES), 1, "host", 1, 0.0, 0.0, 1.0, draw.choice(REASONS)),
                    seconds=draw.uniform(0, 1000),
                    cpu_seconds=draw.uniform(0, 1000),
                    peak_rss=draw.randrange(2**36),
                    gpus=draw.randrange(2),
                    node=draw.choice("abc"),
                    bytes=draw.randrange(2**30),
                )
                for _ in range(draw.randrange(8))
            ],
        )
        for _ in range(count)
    ]


def write_record(
    run: RunFolder, seed: int, kind: str, tried: list[Attempt], when: float = 100.0
) -> None:
    """What the farm leaves of a scene: panorama 0 is unfit, 1 and 2 are good."""
    common = {
        "scene_id": name(seed),
        "seed": seed,
        "generator": "spheres",
        "costs": costs_of(tried),
        "reasons": dict(Counter(str(one.reason) for one in tried)),
        "nodes": tuple(sorted({one.node for one in tried})),
    }
    if kind == "done":
        taken = {stage: sum(one.bytes for one in tried if one.stage == stage) for stage in STAGES}
        what = dict(zip(("scene", "rendered", "panoramas"), taken.values(), strict=True))
        record: Done | Failed = Done(
            **common, panoramas=(1, 2), unfit={"0": ["black"]}, bytes=what, finished=when
        )
    else:
        end = tried[-1] if tried else Attempt("generate", 1, "", 0, 0.0, 0.0, reason="crashed")
        record = Failed(
            **common,
            stage=end.stage,
            reason=str(end.reason),
            detail="boom",
            log=f"attempts/{end.stage}-1.log",
            log_tail="boom",
            run_again="make render",
            when=when,
        )
    folder = run.done_folder if kind == "done" else run.failed_folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name(seed)}.json").write_text(json.dumps(to_json(record)))


def check_against_attempts(status: Status, scenes: list[tuple[str, list[Attempt]]]) -> None:
    """Compare all sums with naive ones."""
    totals = status.totals
    done = [tried for kind, tried in scenes if kind == "done"]
    failed = [tried for kind, tried in scenes if kind == "failed"]
    assert (status.done, status.failed) == (len(done), len(failed))
    assert (totals.good, totals.unfit) == (2 * len(done), len(done))
    for costs, some in ((totals.costs, done + failed), (totals.failed_costs, failed)):
        for stage in STAGES:
            tried = [one for scene in some for one in scene if one.stage == stage]
            cost = costs[stage]
            assert cost.attempts == len(tried)
            assert cost.seconds == pytest.approx(sum(one.seconds for one in tried))
            assert cost.cpu_seconds == pytest.approx(sum(one.cpu_seconds for one in tried))
            held = sum(one.seconds * one.gpus for one in tried)
            assert cost.gpu_seconds == pytest.approx(held)
            assert cost.peak_rss == max((one.peak_rss for one in tried), default=0)
    every = [one for scene in done + failed for one in scene]
    assert status.cost.attempts == len(every)
    assert totals.reasons == Counter(one.reason for one in every)
    assert sum(totals.kinds.values()) == len(failed)
    stored = sum(one.bytes for scene in done for one in scene if one.stage == "annotate")
    assert totals.bytes["panoramas"] == stored
    for node in {one.node for one in every}:
        took_part = [sum(node in {one.node for one in t} for t in some) for some in (done, failed)]
        assert totals.nodes[node] == tuple(took_part)
    seconds = sorted((sum(one.seconds for one in tried) for tried in done + failed), reverse=True)
    assert [slow.seconds for slow in totals.slowest] == pytest.approx(seconds[:5])


@given(scenes=ledgers(), data=st.data())
@settings(max_examples=60, deadline=None)
def test_sums_are_those_of_all_attempts(
    scenes: list[tuple[str, list[Attempt]]], data: st.DataObject
) -> None:
    """Read at once, and bit by bit while scenes finish."""
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder))
        write_json(run.settings, {})
        records = Records()
        for seed, (kind, tried) in enumerate(scenes):
            write_record(run, seed, kind, tried)
            if data.draw(st.booleans()):
                read_status(run, records)
        check_against_attempts(read_status(run), scenes)
        check_against_attempts(read_status(run, records), scenes)


def test_sums_of_a_run_of_200_scenes(tmp_path: Path) -> None:
    run, scenes, records = RunFolder(tmp_path), some_ledgers(200), Records()
    write_json(run.settings, {})
    for seed, (kind, tried) in enumerate(scenes):
        write_record(run, seed, kind, tried)
        if seed % 50 == 0:
            check_against_attempts(read_status(run, records), scenes[: seed + 1])
    check_against_attempts(read_status(run, records), scenes)
    data = json.loads(status_json(run))
    cpu = sum(one.cpu_seconds for _, tried in scenes for one in tried)
    done = sum(kind == "done" for kind, _ in scenes)
    assert data["per_panorama"]["cpu_seconds"] == pytest.approx(cpu / (2 * done))
    lost = sum(one.cpu_seconds for kind, tried in scenes if kind == "failed" for one in tried)
    assert data["failed_seeds"]["cpu_seconds"] == pytest.approx(lost)


def test_a_record_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, records, read = RunFolder(tmp_path), Records(), list[str]()
    write_json(run.settings, {})
    real = storage.read_many
    monkeypatch.setattr(
        storage,
        "read_many",
        lambda paths: (read.extend(path.name for path in paths), real(paths))[1],
    )
    for seed in range(20):
        write_record(run, seed, "done", [])
        assert read_status(run, records).done == seed + 1
    assert read == [f"{name(seed)}.json" for seed in range(20)]


def test_a_record_that_is_taken_back_counts_no_more(tmp_path: Path) -> None:
    run, scenes, records = RunFolder(tmp_path), some_ledgers(30), Records()
    write_json(run.settings, {})
    for seed, (kind, tried) in enumerate(scenes):
        write_record(run, seed, kind, tried)
    read_status(run, records)
    gone = next(seed for seed, (kind, _) in enumerate(scenes) if kind == "failed")
    attempts.forgive(run.scene(name(gone)))
    kept = [scene for seed, scene in enumerate(scenes) if seed != gone]
    check_against_attempts(read_status(run, records), kept)


def test_a_seed_that_was_given_up_is_not_done_as_well(tmp_path: Path) -> None:
    """A node out of reach finished it after all."""
    run, records = RunFolder(tmp_path), Records()
    write_json(run.settings, {})
    write_record(run, 0, "done", [])
    assert read_status(run, records).done == 1
    write_record(run, 0, "failed", [])
    for status in (read_status(run, records), read_status(run)):
        assert (status.done, status.failed, status.totals.good) == (0, 1, 0)


@pytest.mark.parametrize("kind", ["done", "failed"])
def test_damaged_records_are_named_and_do_not_stop_the_rest(farm: Farm, kind: str) -> None:
    run, scenes = farm.run, [("done", tried) for _, tried in some_ledgers(10)]
    with claim(run, SETTINGS, 30):
        pass
    for seed, (_, tried) in enumerate(scenes):
        write_record(run, seed, "done", tried)
    before = read_status(run)
    write_record(run, 10, kind, scenes[0][1])
    folder = run.done_folder if kind == "done" else run.failed_folder
    good = read_json(folder / f"{name(10)}.json")
    odd = [
        *(b"", b"\xff{", b"[]", b"{}", b'{"scene', b"null", b"[" * 10**5),
        json.dumps({**good, "scene_id": name(10)}).encode(),  # in another one's place
    ]
    costs = next(iter(good["costs"].values()))
    wrong = [
        {"costs": {"render": {**costs, "seconds": value}}}
        for value in (-1.0, float("nan"), float("inf"), "3", None)
    ]
    wrong += [{"costs": {"bake": costs}}, {"costs": {"render": {}}}, {"costs": []}]
    wrong += [{"reasons": {"ok": -1}}, {"reasons": []}, {"nodes": None}]
    wrong += [{"bytes": {"scene": None}}, {"panoramas": 3}, {"finished": "now"}] * (kind == "done")
    for seed, data in enumerate(odd, start=11):
        (folder / f"{name(seed)}.json").write_bytes(data)
    for seed, fields in enumerate(wrong, start=11 + len(odd)):
        text = json.dumps({**good, **fields, "scene_id": name(seed)})
        (folder / f"{name(seed)}.json").write_text(text)
    (folder / f"{name(10)}.json").unlink()
    status = read_status(run)
    count = len(odd) + len(wrong)
    assert len(status.totals.damaged) == count
    assert (status.done + status.failed) == 10 + count
    assert asdict(status.cost) == pytest.approx(asdict(before.cost))
    assert status.totals.reasons == before.totals.reasons
    assert status.totals.bytes == before.totals.bytes
    assert status.totals.good == before.totals.good
    text = status_text(run)
    assert f"{folder / name(11)}.json is damaged; delete it" in text
    assert f"and {count - 3} more" in text
    assert len(json.loads(status_json(run))["damaged"]) == count


def test_what_a_killed_process_leaves_is_no_record(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    write_json(run.settings, {})
    write_record(run, 0, "done", [])
    for leftover in (f".{name(1)}.json.0123abcd.tmp", ".DS_Store", f"{name(1)}.json~", "1.json"):
        (run.done_folder / leftover).write_text("{")
    status = read_status(run)
    assert (status.done, status.totals.damaged) == (1, ())


@pytest.fixture
def working(farm: Farm) -> Iterator[None]:
    """A driver that was asked for 10 scenes is at work."""
    with claim(farm.run, SETTINGS, 10):
        yield


@pytest.mark.usefixtures("working")
def test_what_is_at_work_shows_in_the_ledger(farm: Farm) -> None:
    for seed in range(4):
        write_record(farm.run, seed, "done", [])
    write_record(farm.run, 4, "failed", [])
    running = farm.run.scene(name(5))
    attempts.begin(running, "render", 2)
    attempts.log_path(running, "render", 2).write_text("stage: render 2/2\n")
    ended = farm.run.scene(name(6))
    attempts.begin(ended, "generate", 1)
    attempts.end(ended, "generate", 1, Outcome("ok"))
    attempts.begin(farm.run.scene(name(0)), "render", 9)  # of a finished scene: never looked at
    status = read_status(farm.run)
    assert (status.wanted, status.done, status.failed, status.waiting) == (10, 4, 1, 5)
    assert [(one.scene_id, one.step) for one in status.running] == [(name(5), "render 2/2")]
    assert status.working
    text, data = status_text(farm.run), json.loads(status_json(farm.run))
    assert "4 of 10 done, 1 failed, 1 running, 5 waiting" in text
    assert f"{name(5)}  render 2/2, attempt 2" in text
    assert (data["done"], data["failed"], data["waiting"]) == (4, 1, 5)


def test_status_without_a_driver(farm: Farm) -> None:
    with pytest.raises(UserError, match="no run"):
        read_status(farm.run)
    with claim(farm.run, SETTINGS, 3):
        pass
    attempts.begin(farm.run.scene(name(0)), "generate", 1)
    status = read_status(farm.run)
    assert (status.working, status.running, status.wanted) == (False, (), 3)
    assert (status.scenes_per_hour, status.left) == (None, None)
    assert "no driver is working" in status_text(farm.run)


@pytest.mark.usefixtures("working")
def test_attempts_on_other_machines_count_as_running_while_a_driver_works(farm: Farm) -> None:
    scene = farm.run.scene(name(0))
    attempts.begin(scene, "generate", 1)
    path = attempts.record_path(scene, "generate", 1)
    write_json(path, {**read_json(path), "host": "node-7", "pid": 2**22 - 1})
    assert len(read_status(farm.run).running) == 1


@pytest.mark.usefixtures("working")
def test_other_files_among_the_scenes_do_not_matter(farm: Farm) -> None:
    farm.run.scenes.mkdir()
    (farm.run.scenes / ".DS_Store").touch()
    (farm.run.scenes / "empty").mkdir()
    assert "0 of 10 done, 0 failed, 0 running" in status_text(farm.run)


def test_status_of_many_scenes_is_quick(tmp_path: Path) -> None:
    run, records = RunFolder(tmp_path), Records()
    write_json(run.settings, {})
    write_record(run, 0, "done", some_ledgers(1)[0][1])
    text = (run.done_folder / f"{name(0)}.json").read_text()
    for seed in range(3000):
        path = run.done_folder / f"{name(seed)}.json"
        path.write_text(text.replace(name(0), name(seed)))
    times = [time.process_time()]
    for _ in range(2):
        assert read_status(run, records).done == 3000
        times.append(time.process_time())
    first, again = np.diff(times)
    assert first < 0.5  # 0.1 s of CPU, measured
    assert again < 0.05  # 4 ms, measured


def test_current_step(farm: Farm) -> None:
    scene: SceneFolder = farm.run.scene(name(0))
    assert current_step(scene, "render", 1) == "render"
    scene.attempts.mkdir(parents=True)
    log = attempts.log_path(scene, "render", 1)
    for text, step in [
        ("", "render"),
        ("stage: load scene", "load scene"),
        ("noise\n" * 1000, "render"),
        ("stage: a\nstage: render 1/2\nFra:1 stage: no\n" + "x" * 10**6, "render 1/2"),
    ]:
        log.write_text(text)
        assert current_step(scene, "render", 1) == step


def test_rates(tmp_path: Path) -> None:
    """Scenes of an earlier driver do not count, nor what is older than an hour."""
    run = RunFolder(tmp_path)
    write_json(run.settings, {})
    start = 1_000_000.0
    ends = [start - 5, *(start + 60 * minute for minute in (10, 20, 30, 100, 110, 120))]
    for seed, when in enumerate(ends):
        write_record(run, seed, "done", [], when)
    status = replace(read_status(run), working=True, wanted=20, started=start, now=start + 7200)
    assert status.done_since == 6
    assert status.scenes_per_hour == 3
    assert status.scenes_last_hour == 3
    early = replace(status, now=start + 7260)
    assert early.scenes_last_hour == 3
    assert early.scenes_per_hour == pytest.approx(6 / 7260 * 3600)
    left = status.left
    assert left is not None
    assert left.low < left.seconds < left.high
    assert left.seconds == pytest.approx(13 * 22 * 60)  # 110 minutes between 6 ends
    assert replace(status, wanted=3).left == time_left([0.0] * 5, 0, 1, 1.0)


def test_time_left_is_not_told_too_early() -> None:
    ends = [60.0 * k for k in range(10)]
    assert time_left(ends[:4], 100, 1, 240.0) is None
    assert time_left(ends[:5], 100, 1, 240.0) is not None
    assert time_left(ends, 100, 11, 600.0) is None  # some place has not finished one yet
    assert time_left([5.0] * 9, 100, 1, 5.0) is None


def test_a_farm_that_stands_still_has_ever_more_time_left() -> None:
    ends = [60.0 * k for k in range(10)]
    times = [time_left(ends, 100, 1, ends[-1] + pause) for pause in (0, 600, 6000)]
    seconds = [left.seconds for left in times if left]
    assert seconds == sorted(seconds)
    assert seconds[2] > 5 * seconds[0]


@pytest.mark.parametrize(("workers", "spread"), [(1, 0.3), (1, 1.0), (4, 0.5), (16, 0.5)])
def test_the_limits_of_the_time_left_hold(workers: int, spread: float) -> None:
    """In simulated farms, whose workers take one scene after the other."""
    draw = np.random.default_rng(0)
    within = 0
    for _ in range(100):
        free = np.zeros(workers)
        ends = []
        for _ in range(400):
            worker = free.argmin()
            free[worker] += draw.lognormal(5, spread)
            ends.append(free[worker])
        ends.sort()
        left = time_left(ends[:100], 300, workers, ends[99])
        assert left is not None
        within += left.low <= ends[-1] - ends[99] <= left.high
    assert within >= 80


def test_keys_of_the_json_stay(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    write_json(run.settings, {})
    empty = json.loads(status_json(run))
    assert empty["per_panorama"] is None
    for seed, (kind, tried) in enumerate(some_ledgers(30)):
        write_record(run, seed, kind, tried)
    data = json.loads(status_json(run))
    assert (
        data.keys()
        == empty.keys()
        == {
            *("wanted", "done", "failed", "waiting", "done_since", "working", "started", "now"),
            *("running", "scenes_per_hour", "scenes_last_hour", "seconds_left", "seconds_left_90"),
            *(
                "panoramas",
                "stages",
                "total",
                "failed_seeds",
                "per_panorama",
                "attempts",
                "failures",
            ),
            *("slowest", "bytes", "nodes", "damaged"),
        }
    )
    cost = {"attempts", "seconds", "cpu_seconds", "gpu_seconds", "peak_rss"}
    assert data["stages"].keys() == set(STAGES)
    assert all(stage.keys() == cost for stage in data["stages"].values())
    assert data["total"].keys() == data["failed_seeds"].keys() == cost
    assert data["failures"][0].keys() == {"stage", "reason", "seeds"}
    assert data["slowest"][0].keys() == {"scene_id", "seconds", "stages", "failed"}
    assert data["nodes"]["a"].keys() == {"scenes", "failed_seeds"}
    assert data["total"] == pytest.approx(asdict(read_status(run).cost))
