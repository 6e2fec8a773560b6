"""Sums over the records of a run."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import storage
from pipeline.farm.attempt import Attempt, reset_failures
from pipeline.farm.report import status_json, status_text
from pipeline.farm.run_lock import claim
from pipeline.farm.status import read_status
from pipeline.farm.totals import Records
from pipeline.layout import RunFolder, read_json, write_json
from tests.farm.conftest import SETTINGS, Farm
from tests.farm.example_records import (
    check_against_attempts,
    example_runs,
    name,
    random_runs,
    write_record,
)


@given(scenes=example_runs(), data=st.data())
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
    run, scenes, records = RunFolder(tmp_path), random_runs(200), Records()
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


def test_reset_record_is_not_counted(tmp_path: Path) -> None:
    run, scenes, records = RunFolder(tmp_path), random_runs(30), Records()
    write_json(run.settings, {})
    for seed, (kind, tried) in enumerate(scenes):
        write_record(run, seed, kind, tried)
    read_status(run, records)
    gone = next(seed for seed, (kind, _) in enumerate(scenes) if kind == "failed")
    reset_failures(run.scene(name(gone)))
    kept = [scene for seed, scene in enumerate(scenes) if seed != gone]
    check_against_attempts(read_status(run, records), kept)


def test_quarantined_seed_is_not_done_as_well(tmp_path: Path) -> None:
    """An unreachable node finished it after all."""
    run, records = RunFolder(tmp_path), Records()
    write_json(run.settings, {})
    write_record(run, 0, "done", [])
    assert read_status(run, records).done == 1
    write_record(run, 0, "failed", [])
    for status in (read_status(run, records), read_status(run)):
        assert (status.done, status.failed, status.totals.good) == (0, 1, 0)


@pytest.mark.parametrize("kind", ["done", "failed"])
def test_damaged_records_are_named_and_do_not_stop_the_rest(farm: Farm, kind: str) -> None:
    run, scenes = farm.run, [("done", tried) for _, tried in random_runs(10)]
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


def test_leftovers_of_a_killed_process_are_no_records(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    write_json(run.settings, {})
    write_record(run, 0, "done", [])
    for leftover in (f".{name(1)}.json.0123abcd.tmp", ".DS_Store", f"{name(1)}.json~", "1.json"):
        (run.done_folder / leftover).write_text("{")
    status = read_status(run)
    assert (status.done, status.totals.damaged) == (1, ())
