"""The whole way as a user goes it: make render → make train → make eval, as real processes.

At its smallest: scenes of spheres, which Blender really renders, a small and untrained model, two
steps. The same commands as README's, which renders rooms.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import torch

from pipeline.shards.reader import ShardReader
from sap_model.model.build import build

ROOT = Path(__file__).parents[3]
MODEL = ["--size", "nano", "--image-size", "64"]


def call(package: str, *words: str | Path | int) -> str:
    """`python -m package …`; what it says."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-m", package, *map(str, words)],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_trained_weights_are_evaluated_beside_those_they_came_from(tmp_path):
    call(
        "pipeline", "render", "--out", tmp_path / "out", "--scenes", 2, "--generator", "spheres",
        "--profile", "draft", "--width", 256, "--panos", 1,
    )  # fmt: skip
    data, fresh, run = tmp_path / "out" / "shards", tmp_path / "fresh.pt", tmp_path / "run"
    torch.save({"model": build("nano", 64).state_dict()}, fresh)
    said = call(
        "sap_model", "train", "--data", data, "--run", run, *MODEL, "--checkpoint", fresh,
        "--steps", 2, "--batch", 1, "--frames", 3, "--objects", 2,
        "--min-pixels", 16, "--workers", 0,
    )  # fmt: skip
    assert "step 2 of 2: loss" in said and f"weights: {run / 'weights.pt'}" in said
    before, after = (torch.load(path)["model"] for path in (fresh, run / "weights.pt"))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and not any(name.startswith("image_encoder.") for name in changed)
    about = json.loads((run / "settings.json").read_text())
    assert about["settings"]["steps"] == 2
    assert about["data"]["rows"] == [len(ShardReader(data, "train"))]

    out = tmp_path / "eval"
    said = call(
        "sap_model", "eval", "--data", data, "--split", "all", "--eval", out, *MODEL,
        "--checkpoint", run / "weights.pt", "--sam2", fresh, "--methods", "sam2,scan,sap",
        "--limit", 1, "--objects", 2, "--clicks", 1, "--workers", 1,
    )  # fmt: skip
    assert (out / "index.html").is_file() and str(out / "tables.md") in said
    results = pq.read_table(out / "results.parquet").to_pylist()
    assert {row["method"] for row in results} == {"sam2", "scan", "sap"}
    tables = (out / "tables.md").read_text()
    assert all(name in tables for name in ("sam2", "scan", "sap"))
