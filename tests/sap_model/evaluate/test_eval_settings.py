"""What settings become where nothing is said, and what results rest on."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.errors import UserError
from sap_model.evaluate.eval_settings import EvalSettings, label_of, provenance
from sap_model.model import checkpoints
from sap_model.scan.trajectory import Scan
from sap_model.train.settings import TrainSettings


@pytest.fixture
def shipped(tmp_path, monkeypatch) -> Path:
    """A folder of weights that differ, in place of the one that comes with the package."""
    for name in checkpoints.SHIPPED.values():
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(checkpoints, "WEIGHTS", tmp_path)
    return tmp_path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_nano_takes_what_comes_with_the_package(shipped):
    nano = EvalSettings(data="", size="nano")
    assert nano.side == 256
    assert nano.methods == ("oracle", "sam2", "sam2-pad", "scan", "sap")
    weights = [nano.weights_of(method) for method in nano.methods]
    assert weights == [None, "official", "official", "official", "sap-nano"]
    for method, name in (("sam2", "sap_nano.pt"), ("sap", "sap_nano.pt")):
        about = provenance(nano, method)
        assert about["weights_sha256"] == sha256(shipped / name)
        assert about["image_size"] == 256


def test_what_is_given_goes_before_what_comes_with_the_package(shipped, weights):
    given = EvalSettings(data="", size="nano", checkpoint=str(weights), image_size=64)
    assert given.weights_of("sap") == str(weights) and given.weights_of("erp") == str(weights)
    assert provenance(given, "sap")["weights_sha256"] == sha256(weights)
    assert provenance(given, "sap")["image_size"] == 64


def test_another_size_has_its_own_defaults(shipped):
    nano = EvalSettings(data="", size="nano")
    assert replace(nano, methods=("sam2",), size="large").side == 1024
    with pytest.raises(UserError, match="method sap needs CHECKPOINT"):
        replace(nano, size="large")


def test_weights_of_the_scan_are_not_taken_for_those_of_an_ablation(shipped):
    for method in ("erp", "sap-no-overlap", "sap-no-scan"):
        with pytest.raises(UserError, match=f"method {method} needs CHECKPOINT"):
            EvalSettings(data="", methods=(method,), size="nano")


def test_provenance_names_all_that_results_depend_on(weights):
    large = EvalSettings(data="", methods=("sam2",), sam2=str(weights))
    about = provenance(large, "sam2")
    assert about.pop("weights_sha256") == sha256(weights)
    assert about.pop("version")
    assert about == {
        "benchmark": "infinigen",
        "image_size": 1024,
        "fov": 90.0,
        "overlap": 0.5,
        "fusion": "max",
        "cycles": 1,
        "visits": "last",
        "prompted": "every",
        "clicks": 3,
        "corrections": "clicks",
        "structure": True,
        "objects": None,
        "size": "large",
        "method": "sam2",
    }
    assert provenance(large, "oracle")["image_size"] == 1024
    assert provenance(large, "warp")["fusion"] == "mean"


def test_variants_of_a_method_have_names_that_say_what_differs(weights):
    given = EvalSettings(
        data="", sam2=str(weights), checkpoint=str(weights), fusion="mean", corrections="masks"
    )
    labels = {method: label_of(given, method) for method in ("oracle", "sam2", "sap", "warp")}
    assert labels == {
        "oracle": "oracle-mean",
        "sam2": "sam2-masks",
        "sap": "sap-mean-masks",
        "warp": "warp",
    }
    assert provenance(given, "sap")["method"] == "sap-mean-masks"
    assert label_of(replace(given, fusion="max", corrections="clicks"), "sap") == "sap"


def test_training_and_evaluation_agree_on_the_scan():
    trained, scored = TrainSettings(data=("shards",)), EvalSettings
    assert trained.clip_frames == scored.cycles * len(Scan())
    assert trained.prompted == scored.prompted


def test_missing_weights_are_one_line_of_the_command(shards, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(checkpoints, "WEIGHTS", tmp_path / "none")
    with pytest.raises(SystemExit) as ended:
        main(["eval", "--size", "nano", "--data", str(shards), "--eval", str(tmp_path / "eval")])
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.startswith("error: the weights sam2-nano") and said.count("\n") == 1
