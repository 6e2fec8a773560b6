"""Evaluations run to the end, resume, refuse other settings, and survive killed processes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

from pipeline.errors import UserError
from pipeline.layout import RunFolder
from pipeline.shards.reader import ShardReader
from pipeline.shards.writer import pack
from sap_model.evaluate.eval_settings import EvalSettings
from sap_model.evaluate.jobs import panoramas
from sap_model.evaluate.page import write_page
from sap_model.evaluate.report import read_benchmark, write_report
from sap_model.evaluate.results import read_results
from sap_model.evaluate.run import evaluate
from sap_model.evaluate.worker import Worker, choose
from tests.synthetic import SETTINGS, finish_scene

ROOT = Path(__file__).parents[3]


def results(folder, settings):
    """All results of an evaluation as sorted plain rows."""
    methods, _ = read_benchmark(folder / "results" / settings.benchmark, wanted(settings))
    rows = [row for m in methods for table in m.tables.values() for row in table.to_pylist()]
    keys = ("method", "image_id", "object_id", "clicks")
    return sorted(rows, key=lambda row: [row[key] for key in keys])


def wanted(settings):
    return panoramas(settings, ShardReader(settings.data, settings.split))


@pytest.fixture(scope="module")
def done(settings, tmp_path_factory):
    """An evaluation that is finished."""
    folder = tmp_path_factory.mktemp("eval")
    assert evaluate(settings, folder) == 8
    return settings, folder


def test_everything_is_evaluated_once(done):
    settings, folder = done
    seen = []
    assert evaluate(settings, folder, progress=seen.append) == 0
    assert [(state.done, state.total) for state in seen] == [(8, 8)]
    found = results(folder, settings)
    assert len({row["image_id"] for row in found}) == 4
    oracle = [row["iou"] for row in found if row["method"] == "oracle"]
    assert len(oracle) == len(found) / 2 and sum(oracle) / len(oracle) > 0.8


def test_what_is_missing_is_evaluated_again_with_the_same_result(done, tmp_path):
    settings, folder = done
    before = results(folder, settings)
    path = sorted((folder / "results" / "infinigen" / "sam2-nano").glob("*.parquet"))[1]
    path.unlink()
    (path.parent / f".{path.name}.0123abcd.tmp").write_bytes(b"half")
    assert evaluate(settings, folder) == 1
    assert results(folder, settings) == before
    assert not list(path.parent.glob(".*"))


def report(folder, settings):
    return write_report(folder, settings.benchmark, wanted(settings))


def test_the_report_and_the_page(done):
    settings, folder = done
    text = report(folder, settings)
    assert "| SAM2-nano |" in text and "| oracle (ceiling) |" in text
    assert "Seam and poles" in text and "Student's t over scenes" in text
    written = json.loads((folder / "tables.json").read_text())
    assert written["tables"][0]["rows"][0]["label"] == "SAM2-nano"
    assert {about["method"] for about in written["methods"]} == {"oracle", "sam2"}
    assert len(read_results([folder / "results.parquet"])) == len(results(folder, settings))
    page = write_page(settings, folder, wanted(settings), text).read_text()
    assert 'src="http' not in page
    # the oracle's cases: from the worst on, and from the best on
    part = page[page.index("<h2>oracle</h2>") : page.index("<h2>sam2-nano</h2>")]
    worst, _, best = part.partition("best after one click")
    scores = [[float(x) for x in re.findall(r"IoU (\d\.\d\d)", half)] for half in (worst, best)]
    assert scores[0][:6] == sorted(scores[0][:6]) and scores[1] == sorted(scores[1])[::-1]
    assert scores[0][0] < scores[1][-1] and len(scores[1]) == 6


def test_other_panoramas_of_the_same_names_are_evaluated_anew(settings, tmp_path):
    """As after rendering again, or after importing another version of a benchmark."""
    oracle, folder = replace(settings, methods=("oracle",)), tmp_path / "eval"
    run = RunFolder(tmp_path / "out")
    for seed in range(2):
        finish_scene(run, seed=seed)
    pack(run, SETTINGS, validation_fraction=1)
    own = replace(oracle, data=str(run.shards))
    assert evaluate(oracle, folder) == 4 and evaluate(own, folder) == 0  # the same panoramas
    other = replace(SETTINGS, min_area=100_000)  # fewer instances
    shutil.rmtree(run.path)
    for seed in range(2):
        finish_scene(run, other, seed)
    pack(run, other, validation_fraction=1)
    assert evaluate(own, folder) == 4
    assert len(results(folder, own)) == sum(
        len(row["objects"]) for row in ShardReader(run.shards).annotations(["objects"])
    )


def test_fewer_panoramas_are_reported_alone(done):
    settings, folder = done
    one = replace(settings, limit=1)
    assert evaluate(one, folder) == 0
    assert "# infinigen: 1 panoramas" in report(folder, one)
    assert len({row["image_id"] for row in results(folder, one)}) == 1
    assert "# infinigen: 4 panoramas" in report(folder, settings)


def test_a_damaged_result_is_evaluated_again(done):
    settings, folder = done
    before = results(folder, settings)
    path = next((folder / "results" / "infinigen" / "oracle").glob("*.parquet"))
    path.write_bytes(path.read_bytes()[:100])
    assert evaluate(settings, folder) == 1
    assert results(folder, settings) == before


@pytest.fixture(scope="module")
def compared(settings, weights, tmp_path_factory):
    """SAM2 and SAP with different weights for three clicks, added to one folder one by one."""
    other = tmp_path_factory.mktemp("weights") / "tuned.pt"
    state = torch.load(weights, weights_only=True)["model"]
    torch.save({"model": {name: weight * 1.05 for name, weight in state.items()}}, other)
    folder = tmp_path_factory.mktemp("compared")
    given = replace(settings, clicks=3, objects=2, limit=1, structure=False)
    scan = replace(given, methods=("scan",))
    sap = replace(given, methods=("sap",), checkpoint=str(other))
    again = replace(given, methods=("sam2",), benchmark="other")
    for one in (scan, sap, again):
        evaluate(one, folder)
    return scan, sap, folder


def test_each_method_has_its_weights_and_all_rounds(compared):
    scan, _, folder = compared
    rows = results(folder, scan)
    assert {row["method"] for row in rows} == {"scan", "sap"}
    assert len({row["object_id"] for row in rows}) == 2
    things = ShardReader(scan.data).row(0, ["objects"])["objects"]
    loose = {thing["id"] for thing in things if not thing["is_structure"]}
    assert {row["object_id"] for row in rows} <= loose
    for row in rows:
        assert len(row["points"]) == row["clicks"] and row["points"][0][2] == 1
    by_method = {
        name: [row["prediction"] for row in rows if row["method"] == name]
        for name in ("scan", "sap")
    }
    assert len(by_method["scan"]) == 6 and by_method["scan"] != by_method["sap"]


def test_the_fusion_is_the_one_that_was_asked_for(compared, tmp_path):
    """A variant of a method stands beside the method, in the same folder and tables."""
    scan, _, folder = compared
    shutil.copytree(folder, tmp_path / "eval")
    mean = replace(scan, fusion="mean", clicks=3)
    evaluate(mean, tmp_path / "eval")
    rows = results(tmp_path / "eval", scan)
    areas = {
        label: sum(
            coco.area({"size": [128, 256], "counts": row["prediction"]})
            for row in rows
            if row["method"] == label and row["clicks"] == 1
        )
        for label in ("scan", "scan-mean")
    }
    assert 0 < areas["scan-mean"] < areas["scan"], "a maximum is larger than a mean"
    assert "| scan-mean-nano |" in report(tmp_path / "eval", scan)


def test_corrections_may_come_with_the_previous_masks(compared, tmp_path):
    scan, _, folder = compared
    evaluate(replace(scan, corrections="masks"), tmp_path)
    masks, clicks = (
        {(row["object_id"], row["clicks"]): row for row in results(path, scan)
         if row["method"].startswith("scan")}
        for path in (tmp_path, folder)
    )  # fmt: skip
    assert masks.keys() == clicks.keys()
    for (_, number), row in masks.items():
        assert row["method"] == "scan-masks"
        other = clicks[row["object_id"], number]["prediction"]
        assert (row["prediction"] == other) == (number == 1)


def test_what_was_added_one_by_one_is_reported_together(compared):
    scan, _, folder = compared
    text = report(folder, scan)
    assert "| SAM2-nano+scan |" in text and "| SAP-nano |" in text
    assert "# other: 1 panoramas" in text and "| SAM2-nano |" in text
    assert "3-click overall" in text
    (folder / "results" / "unfinished").mkdir()
    assert "unfinished is left out: " in report(folder, scan)


def test_more_workers_than_cpus_do_not_wait_for_ever(settings, tmp_path):
    oracle = replace(settings, methods=("oracle",))
    assert evaluate(oracle, tmp_path, workers=64) == 4


def test_a_file_is_no_folder(settings, tmp_path):
    (tmp_path / "eval").touch()
    with pytest.raises(UserError, match="is a file; choose a folder"):
        evaluate(settings, tmp_path / "eval")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"clicks": 2}, "clicks"),
        ({"cycles": 2}, "cycles"),
        ({"visits": "all"}, "visits"),
        ({"prompted": "first"}, "prompted"),
        ({"image_size": 128}, "image_size"),
    ],
)
def test_results_of_other_settings_do_not_mix(done, change, named):
    settings, folder = done
    with pytest.raises(UserError, match=f"holds results of other settings .*{named}") as caught:
        evaluate(replace(settings, **change), folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "named"), [({"precision": "bf16"}, "precision"), ({"max_batch": 8}, "batch")]
)
def test_results_of_other_runtimes_do_not_mix(done, change, named):
    settings, folder = done
    (lost, *_) = (folder / "results" / "infinigen" / "sam2-nano").glob("*.parquet")
    kept = lost.read_bytes()
    lost.unlink()
    with pytest.raises(UserError, match=rf"holds results of other settings \({named} differ"):
        evaluate(replace(settings, **change), folder)
    lost.write_bytes(kept)
    (about,) = (m.about for m in read_benchmark(lost.parents[1], wanted(settings))[0]
                if m.name == "sam2-nano")  # fmt: skip
    assert (about["device"], about["precision"], about["batch"]) == ("cpu", "float32", 1)


def test_thresholds_of_sizes_apply_to_results_that_exist(done):
    settings, folder = done
    areas = np.array([row["area"] for row in results(folder, settings) if row["method"] == "sam2"])
    medium, large = np.quantile(areas, [0.3, 0.6])

    def counts():
        tables = json.loads((folder / "tables.json").read_text())["tables"]
        return [column["instances"] for column in tables[0]["columns"][1:4]]

    text = write_report(folder, settings.benchmark, wanted(settings), (medium, large))
    assert f"Medium from {medium:g} pixels" in text
    expected = [(areas < medium).sum(), (areas < large).sum(), len(areas)]
    assert counts() == [*np.diff([0, *expected])]
    report(folder, settings)
    assert counts() != [*np.diff([0, *expected])]


def test_other_weights_do_not_mix(done, tmp_path):
    settings, folder = done
    other = tmp_path / "other.pt"
    state = torch.load(settings.sam2, weights_only=True)
    torch.save({**state, "note": "another file"}, other)
    with pytest.raises(UserError, match="weights_sha256 differ"):
        evaluate(replace(settings, sam2=str(other)), folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": ("magic",)}, "METHODS=magic"),
        ({"methods": ()}, "METHODS is empty"),
        ({"methods": ("sam2", "sam2")}, "names a method twice"),
        ({"methods": ("sap",), "size": "large"}, "method sap needs CHECKPOINT"),
        ({"methods": ("erp",)}, "method erp needs CHECKPOINT"),
        ({"clicks": 0}, "CLICKS=0"),
        ({"limit": 0}, "LIMIT=0"),
        ({"fusion": "min"}, "FUSION=min"),
    ],
)
def test_settings_are_strict(settings, change, message):
    with pytest.raises(UserError, match=message):
        replace(settings, **change)


def test_processes_of_ray_give_the_same(done, tmp_path):
    settings, folder = done
    assert evaluate(settings, tmp_path, workers=2) == 8
    assert results(tmp_path, settings) == results(folder, settings)


def test_a_panorama_that_ends_its_process_is_named(settings, tmp_path, monkeypatch):
    """The worker of one panorama is killed each time; the others are evaluated."""
    evaluate_one = Worker.evaluate

    def deadly(self, job):
        if job.panorama.index == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return evaluate_one(self, job)

    monkeypatch.setattr(Worker, "evaluate", deadly)
    oracle = replace(settings, methods=("oracle",))
    with pytest.raises(UserError, match=r"oracle on .* ended its process 3 times"):
        evaluate(oracle, tmp_path, workers=2)
    monkeypatch.undo()
    assert 1 <= evaluate(oracle, tmp_path) <= 2  # the fourth may have been done meanwhile
    assert evaluate(oracle, tmp_path) == 0


@given(st.lists(st.integers(1, 99), max_size=30), st.integers(1, 40))
def test_as_many_objects_as_asked_for_from_small_to_large(areas, limit):
    things = [{"id": i, "area": a, "is_structure": False} for i, a in enumerate(areas)]
    found = choose(things, EvalSettings(data="", methods=("oracle",), objects=limit))
    assert len(found) == min(limit, len(areas))
    assert [thing["id"] for thing in found] == sorted(thing["id"] for thing in found)


EVALUATE = [sys.executable, "-m", "sap_model", "eval"]


def test_the_command(shards, weights, tmp_path):
    command = [*EVALUATE, "--data", str(shards), "--sam2", str(weights), "--image-size", "64"]
    command += ["--clicks", "1", "--limit", "1", "--eval", str(tmp_path)]
    methods = ["--methods", "oracle,sam2", "--size", "nano"]
    done = subprocess.run([*command, *methods], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2 of 2 evaluated" in done.stdout and (tmp_path / "index.html").exists()
    assert len(pq.read_table(tmp_path / "results.parquet")) > 4
    refused = subprocess.run(
        [*command, "--methods", "sap", "--size", "large"], cwd=ROOT, capture_output=True, text=True
    )
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
