"""The smallest real run of all ablations: six trainings of one step, evaluated and compared."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from pipeline.errors import UserError
from sap_model.evaluate.results import read_results
from sap_model.model.checkpoints import SHIPPED
from sap_model.train.ablation_tables import PAPER, TABLES
from sap_model.train.ablations import VARIANTS, Scored, ablate, base_settings, scan_settings
from sap_model.train.run_folder import export
from sap_model.train.settings import TrainSettings, settings_hash
from tests.sap_model.models import responsive

SCORED = Scored(objects=2, limit=1)


class Ablated(NamedTuple):
    settings: TrainSettings
    run: Path
    text: str

    @property
    def content(self) -> dict:
        return json.loads((self.run / "ablations.json").read_text())


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("start") / SHIPPED["sam2-nano"]
    export(responsive(), path)
    return path


@pytest.fixture(scope="module")
def ablated(shards, weights, tmp_path_factory) -> Ablated:
    settings = replace(
        base_settings([str(shards)], str(weights), steps=1),
        image_size=64, batch_size=1, micro_batch_size=1, clip_objects=2, clip_frames=2,
        crop_frames=2, min_pixels=4,
    )  # fmt: skip
    run = tmp_path_factory.mktemp("ablations")
    return Ablated(settings, run, ablate(settings, run, SCORED))


def test_every_variant_is_the_recipe_with_one_thing_changed(ablated):
    recipe = scan_settings(ablated.settings.data)
    base = base_settings(ablated.settings.data, "sam2-nano")
    assert base == replace(recipe, checkpoint="sam2-nano")
    kept = {}
    for name, changes in VARIANTS.items():
        assert len(changes) == (name != "both")
        kept[name] = json.loads((ablated.run / name / "settings.json").read_text())
        assert kept[name]["hash"] == settings_hash(replace(ablated.settings, **changes))
    assert len({about["hash"] for about in kept.values()}) == 6
    assert {about["settings"]["method"] for about in kept.values()} == {
        "sap", "sap-no-scan", "sap-no-overlap", "erp",
    }  # fmt: skip


def test_each_is_evaluated_by_its_own_method_on_the_same_objects(ablated):
    seen = {}
    for name in VARIANTS:
        (folder,) = (ablated.run / name / "eval" / "results" / "0").iterdir()
        found = read_results([folder])
        assert folder.name.startswith(VARIANTS[name].get("method", "sap"))
        rows = found.select(["image_id", "object_id"]).to_pylist()
        seen[name] = {(row["image_id"], row["object_id"]) for row in rows}
    assert all(objects == seen["both"] and len(objects) == 2 for objects in seen.values())


def test_the_tables_hold_the_means_and_the_papers_figures(ablated):
    tables = {table["title"]: table for table in ablated.content["tables"]}
    for title, lines in TABLES.items():
        rows, paper = tables[title]["rows"], tables[title]["paper"]
        overall = {}
        for row, line in zip(rows, lines, strict=False):
            folder = ablated.run / line.variant / "eval" / "results" / "0"
            (results,) = (read_results([path]) for path in folder.iterdir())
            overall[line.variant] = 100 * results["iou"].to_numpy().mean()
            assert row["label"] == line.label
            assert row["cells"][0]["mean"] == pytest.approx(overall[line.variant], abs=1e-4)
        for row, line in zip(rows[len(lines) :], lines, strict=False):
            gain = overall["both"] - overall[line.variant]
            assert row["kind"] == "difference"
            assert row["cells"][0]["mean"] == pytest.approx(gain, abs=1e-4)
        assert len(paper[PAPER[0]]) == len(rows)
        assert len(set(overall.values())) > 1, "or the differences would show nothing"
    assert tables["Table 5, strategy"]["paper"]["PAV-SOD"] == [73.0, 66.5, 77.3, 4.3, 10.8]


def test_the_report_says_what_it_rests_on(ablated):
    assert ablated.text == (ablated.run / "ablations.md").read_text()
    for words in ("trained on 4 panoramas of 2 scenes: 1 step of 1 clip with 2 objects each",
                  "evaluated on 2 objects (at most 2 of a panorama) in 1 panorama of 1 scene of",
                  "Stand-ins", "never figures with the paper's"):  # fmt: skip
        assert words in ablated.text
    for name, about in ablated.content["variants"].items():
        assert re.search(rf"^\| {name} \|.*\| {about['hash']} \|", ablated.text, re.MULTILINE)
    grids = re.findall(r"(?:^\|.*\n)+", ablated.text, re.MULTILINE)
    assert len(grids) == 4  # every table is whole: all lines have as many cells as its head
    for grid in grids:
        assert len({line.count("|") for line in grid.splitlines()}) == 1


def test_a_second_call_trains_and_evaluates_nothing(ablated, capsys):
    before = {path: path.stat().st_mtime_ns for path in ablated.run.rglob("*.parquet")}
    results = ablated.run / "no-scan" / "eval" / "results"
    (lost,) = results.rglob("*.parquet")
    lost.unlink()
    assert ablate(ablated.settings, ablated.run, SCORED) == ablated.text
    assert "loss" not in capsys.readouterr().out
    after = {path: path.stat().st_mtime_ns for path in ablated.run.rglob("*.parquet")}
    assert [path for path in after if after[path] != before[path]] == [lost]


def test_other_data_or_settings_are_refused(ablated, packed):
    with pytest.raises(UserError, match="begun with other data"):
        ablate(replace(ablated.settings, data=(str(packed(0.25)),)), ablated.run, SCORED)
    with pytest.raises(UserError, match="other settings"):
        ablate(replace(ablated.settings, lr=1e-3), ablated.run, SCORED)


def test_data_without_a_validation_split_is_refused(ablated, packed, tmp_path):
    with pytest.raises(UserError, match="no validation panoramas"):
        ablate(replace(ablated.settings, data=(str(packed(0.0)),)), tmp_path)


def test_a_run_of_nano_gives_the_weights_to_start_from(weights, tmp_path):
    assert base_settings(["data"], str(weights.parent)).checkpoint == str(weights)
    with pytest.raises(UserError, match="finish make nano"):
        base_settings(["data"], str(tmp_path))


def test_fewer_steps_have_a_shorter_warm_up():
    recipe = base_settings(["data"])
    assert base_settings(["data"], steps=recipe.steps) == recipe
    half = base_settings(["data"], steps=recipe.steps // 2)
    assert half.warmup_steps == recipe.warmup_steps // 2 and half.lr == recipe.lr
    assert base_settings(["data"], steps=1).warmup_steps == 0


def test_all_variants_begin_with_the_given_weights(ablated, weights):
    start = torch.load(weights, weights_only=True)["model"]
    name = "image_encoder.trunk.stem.weight"  # frozen
    for variant in VARIANTS:
        end = torch.load(ablated.run / variant / "weights.pt", weights_only=True)["model"]
        assert torch.equal(end[name], start[name])
        assert any(not torch.equal(end[key], value) for key, value in start.items())
