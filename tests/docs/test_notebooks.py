"""The notebooks run from top to bottom on small data that is made here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.sap_model.models import panorama, responsive
from tests.sap_model.train.conftest import packed, shards

__all__ = ["packed", "shards"]

NOTEBOOKS = Path(__file__).parents[2] / "docs" / "notebooks"


def run(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: str) -> dict:
    """The names that a notebook leaves, run in a folder with its settings in the environment."""
    monkeypatch.chdir(folder)
    for setting, value in settings.items():
        monkeypatch.setenv(setting, value)
    content = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text("utf-8"))
    names: dict = {"__name__": "__main__"}
    for number, cell in enumerate(content["cells"]):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{name}, cell {number}", "exec"), names)
            assert not cell["outputs"], "outputs are not kept in the repository"
    return names


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "nano.pt"
    torch.save({"model": responsive().state_dict()}, path)
    return path


def test_load(shards, tmp_path, monkeypatch):
    names = run("load", tmp_path, monkeypatch, DATA=str(shards))
    assert sum(names["categories"].values()) == names["total"]["instances"]["count"] > 0
    assert names["view"].shape == (512, 512, 3)


def test_segment(weights, tmp_path, monkeypatch):
    Image.fromarray(panorama()).save(tmp_path / "room.png")
    settings = {"IMAGE": "room.png", "MODEL": str(weights), "POINTS": "48"}
    names = run("segment", tmp_path, monkeypatch, **settings)
    assert names["found"].mask.any()
    assert np.array_equal(names["again"].predict(box=names["box"]).mask, names["boxed"].mask)


def test_train(shards, weights, tmp_path, monkeypatch):
    settings = {"DATA": str(shards), "MODEL": str(weights), "STEPS": "2", "IMAGE_SIZE": "64"}
    names = run("train", tmp_path, monkeypatch, **settings)
    assert names["weights"].is_file()
    assert (tmp_path / "eval" / "tables.md").is_file()
    assert (tmp_path / "tuned" / "config.json").is_file()
