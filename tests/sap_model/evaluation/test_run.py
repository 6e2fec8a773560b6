"""Evaluations run to the end, resume, refuse other settings, and survive killed processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from sap_model.evaluation.page import write_page
from sap_model.evaluation.report import read_methods, write_report
from sap_model.evaluation.results import read_results
from sap_model.evaluation.run import evaluate
from sap_model.evaluation.settings import EvalSettings
from sap_model.evaluation.worker import Worker, choose

ROOT = Path(__file__).parents[3]


def results(folder, methods):
    """All results as sorted plain rows."""
    table, _ = read_methods(folder, methods)
    return sorted(table.to_pylist(), key=lambda r: (r["method"], r["image_id"], r["object_id"]))


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
    found = results(folder, settings.methods)
    assert len({row["image_id"] for row in found}) == 4
    oracle = [row["iou"] for row in found if row["method"] == "oracle"]
    assert len(oracle) == len(found) / 2 and sum(oracle) / len(oracle) > 0.8


def test_what_is_missing_is_evaluated_again_with_the_same_result(done, tmp_path):
    settings, folder = done
    before = results(folder, settings.methods)
    path = sorted((folder / "results" / "sam2").glob("*.parquet"))[1]
    path.unlink()
    (path.parent / f".{path.name}.0123abcd.tmp").write_bytes(b"half")
    assert evaluate(settings, folder) == 1
    assert results(folder, settings.methods) == before
    assert not list(path.parent.glob(".*"))


def test_the_report_and_the_page(done):
    settings, folder = done
    text = write_report(folder, settings.methods, settings.benchmark, settings.clicks)
    assert "| SAM2-nano |" in text and "| oracle (ceiling) |" in text
    assert "Seam and poles" in text
    tables = json.loads((folder / "tables.json").read_text())["tables"]
    assert tables[0]["rows"][0]["label"] == "SAM2-nano"
    assert len(read_results([folder / "results.parquet"])) == len(results(folder, settings.methods))
    page = write_page(settings, folder, text).read_text()
    assert page.count("<figure>") >= 12 and "worst after one click" in page
    assert 'src="http' not in page


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"clicks": 2}, "clicks"),
        ({"fusion": "mean"}, "fusion"),
        ({"benchmark": "other"}, "benchmark"),
        ({"image_size": 128}, "image_size"),
    ],
)
def test_results_of_other_settings_do_not_mix(done, change, named):
    settings, folder = done
    with pytest.raises(UserError, match=f"holds results of other settings .*{named}") as caught:
        evaluate(replace(settings, **change), folder)
    assert "\n" not in str(caught.value)


def test_other_weights_do_not_mix(done, tmp_path):
    import torch

    settings, folder = done
    other = tmp_path / "other.pt"
    state = torch.load(settings.sam2, weights_only=True)
    torch.save({**state, "note": "another file"}, other)
    with pytest.raises(UserError, match="weights_sha256 differ"):
        evaluate(replace(settings, sam2=str(other)), folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": ("magic",)}, "method 'magic': choose from"),
        ({"methods": ()}, "METHODS is empty"),
        ({"methods": ("sam2", "sam2")}, "names a method twice"),
        ({"methods": ("sap",)}, "method sap needs CHECKPOINT="),
        ({"clicks": 0}, "CLICKS must be at least 1"),
        ({"limit": 0}, "LIMIT must be at least 1"),
        ({"fusion": "min"}, "FUSION must be max or mean"),
    ],
)
def test_settings_are_strict(settings, change, message):
    with pytest.raises(UserError, match=message):
        replace(settings, **change)


def test_processes_of_ray_give_the_same(done, tmp_path):
    settings, folder = done
    assert evaluate(settings, tmp_path, workers=2) == 8
    assert results(tmp_path, settings.methods) == results(folder, settings.methods)


def test_a_panorama_that_ends_its_process_is_named(settings, tmp_path, monkeypatch):
    """The worker of one panorama is killed each time; the others are evaluated."""
    evaluate_one = Worker.evaluate

    def deadly(self, name, index):
        if index == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return evaluate_one(self, name, index)

    monkeypatch.setattr(Worker, "evaluate", deadly)
    oracle = replace(settings, methods=("oracle",))
    with pytest.raises(UserError, match=r"oracle on .* ended its process 3 times"):
        evaluate(oracle, tmp_path, workers=2)
    monkeypatch.undo()
    left = evaluate(oracle, tmp_path)
    assert 1 <= left <= 2


@given(st.lists(st.integers(1, 99), max_size=30), st.integers(1, 40))
def test_as_many_objects_as_asked_for_from_small_to_large(areas, limit):
    things = [{"id": i, "area": a, "is_structure": False} for i, a in enumerate(areas)]
    found = choose(things, EvalSettings(data="", methods=("oracle",), objects=limit))
    assert len(found) == min(limit, len(areas))
    assert [thing["id"] for thing in found] == sorted(thing["id"] for thing in found)


EVALUATE = [sys.executable, "-m", "sap_model", "eval", "--methods", "oracle,sam2", "--size", "nano"]


def test_the_command(shards, weights, tmp_path):
    command = [*EVALUATE, "--data", str(shards), "--sam2", str(weights), "--image-size", "64"]
    command += ["--clicks", "1", "--limit", "1", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2 of 2 evaluated" in done.stdout and (tmp_path / "index.html").exists()
    assert len(pq.read_table(tmp_path / "results.parquet")) > 4
    refused = subprocess.run(
        [*command, "--methods", "sap"], cwd=ROOT, capture_output=True, text=True
    )
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
