"""The card of the shipped weights: what the Hub reads of it, and that it says what was measured."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import pytest
from huggingface_hub import ModelCard

from pipeline.cli import COMMANDS, read_settings
from pipeline.errors import UserError
from pipeline.layout import read_json
from pipeline.shards.reader import ShardReader
from sap_model.evaluate.eval_settings import EvalSettings
from sap_model.evaluate.jobs import panoramas
from sap_model.evaluate.report import write_report
from sap_model.evaluate.run import evaluate
from sap_model.train import nano
from sap_model.train.card import card, table_of, write_card
from sap_model.train.run_folder import export
from tests.sap_model.models import responsive

FILE = "sap_nano.pt"


class Made(NamedTuple):
    """Weights with their records, and an evaluation of them."""

    weights: Path
    scores: Path

    @property
    def record(self) -> dict:
        return read_json(self.weights / "sap_nano.json")


@pytest.fixture(scope="module")
def made(shards, tmp_path_factory) -> Made:
    """As `make nano` and `make eval` leave them, but untrained and at 64 pixels."""
    folder, scores = tmp_path_factory.mktemp("weights"), tmp_path_factory.mktemp("eval")
    export(responsive(), folder / "fresh.pt")
    about = json.loads(json.dumps(asdict(nano.NanoSettings())))
    phase = {"phase": "masks", "settings": about, **nano.contents([str(shards)])}
    nano.give_away(folder / "fresh.pt", folder / FILE, [phase])
    settings = EvalSettings(
        str(shards), ("oracle", "sam2", "scan", "zoom"), "synthetic", size="nano", image_size=64,
        sam2=str(folder / FILE), clicks=1, objects=2, limit=3,
    )  # fmt: skip
    evaluate(settings, scores, workers=1)
    write_report(scores, "synthetic", panoramas(settings, ShardReader(str(shards), "validation")))
    return Made(folder, scores / "tables.json")


@pytest.fixture(scope="module")
def readme(made) -> str:
    return write_card(made.weights, made.scores, "someone/sap-nano", "someone/rooms").read_text()


def test_the_hub_reads_licence_library_data_and_results(readme, made):
    data = ModelCard(readme).data
    assert (data.license, data.library_name) == ("apache-2.0", "sap-panorama")
    assert data.pipeline_tag == "mask-generation" and data.datasets == ["someone/rooms"]
    assert {"sam2", "panorama"} <= set(data.tags)
    (table,) = (t for t in read_json(made.scores)["tables"] if t["title"] == "synthetic"
                and t["metric"] == "iou")  # fmt: skip
    (zoom,) = (row for row in table["rows"] if row["label"] == "zoom-nano")
    (result,) = data.eval_results
    assert result.metric_value == round(zoom["cells"][0]["mean"], 1)
    assert result.dataset_name == "synthetic" and result.metric_name.startswith("1-click")


def test_file_stands_with_its_real_hash(readme, made):
    digest = hashlib.sha256((made.weights / FILE).read_bytes()).hexdigest()
    assert re.search(rf"^\| `{FILE}` \|.* MiB \| `{digest}` \|$", readme, re.MULTILINE)


def test_phase_has_a_row_from_its_record(readme, made):
    (phase,) = made.record["phases"]
    s = phase["settings"]
    work = f"{s['steps']} × {s['images']} × {sum(s['asked'].values())}"
    assert re.search(rf"^\| masks \|.*\| 256² \| {work} \|.*\| 4 \| 2 \|", readme, re.MULTILINE)


def test_the_tables_are_those_of_the_evaluation(readme, made):
    reported = made.scores.with_name("tables.md").read_text()
    tables = re.findall(r"^\*\*.*?\n\n(?:\|.*\n)+", reported, re.MULTILINE)
    shown = [table for table in tables if "Mean IoU in percent" in table]
    assert len(shown) == 2 and all(table in readme for table in shown)
    for content in read_json(made.scores)["tables"]:
        assert table_of(content).markdown() in reported


def test_its_commands_and_headings_are_whole(readme, made):
    for command in re.findall(r"^python -m sap_model\.predict (.*)$", readme, re.MULTILINE):
        read_settings("predict", COMMANDS["predict"].load_settings(), command.split())
    assert "someone/sap-nano:sap_nano.pt" in readme
    assert "at most 2 objects" in readme and "None of the 2 scenes was trained on." in readme
    assert "{SAP}: Segment Any 4K Panorama" in readme and "\n\n\n" not in readme
    for words in ("{{", "{%", "None |", "Undefined", str(made.weights)):
        assert words not in readme.replace("{{SAP}", "")
    for table in re.findall(r"(?:^\|.*\n)+", readme, re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_without_names_on_the_hub_it_names_none(made):
    text = card(made.record, read_json(made.scores), ["elsewhere"])
    assert "someone" not in text and 'from_pretrained("sap-nano")' in text
    assert not ModelCard(text).data.datasets


def test_scenes_that_were_trained_on_are_owned_up_to(made):
    scene = made.record["phases"][0]["scenes"][0]
    text = card(made.record, read_json(made.scores), [scene, "elsewhere"])
    assert "1 of the 2 scenes were also trained on" in text


@pytest.mark.parametrize("method", ["zoom", "scan"])
def test_scores_of_other_weights_are_refused(made, method):
    scores = copy.deepcopy(read_json(made.scores))
    for about in scores["methods"]:
        if about["method"] == method:
            about["weights_sha256"] = "0" * 64
    with pytest.raises(UserError, match=f"other weights \\({method}\\)"):
        card(made.record, scores, [])


def test_what_is_missing_is_named_with_its_command(made, tmp_path):
    with pytest.raises(UserError, match=r"sap_nano\.json is missing; it is made by make nano"):
        write_card(tmp_path, made.scores)
    with pytest.raises(UserError, match="make eval"):
        write_card(made.weights, tmp_path / "tables.json")


def test_judged_pictures_are_counted(made):
    judged = {"right": 11, "half": 5, "wrong": 4, "picture": "judged.jpg"}
    text = card(made.record | {"judged": judged}, read_json(made.scores), [])
    assert "11 right, 5 half right,\n4 wrong" in text and "(judged.jpg)" in text
    assert "judged" not in card(made.record, read_json(made.scores), [])
