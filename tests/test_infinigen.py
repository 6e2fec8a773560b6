"""One real InfiniGen v2 scene, 512 wide, from its seed to a loaded shard."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
from pycocotools import mask as coco

ROOT = Path(__file__).parents[1]
SEED = 1  # a bedroom, and one of the quick ones


@pytest.mark.timeout(1200)  # six minutes on two idle cores
def test_a_real_scene_becomes_a_shard(tmp_path):
    command = [sys.executable, "-m", "pipeline", "render", "--out", str(tmp_path / "out")]
    command += ["--generator", "rooms", "--seed", str(SEED), "--panos", "1"]
    command += ["--profile", "draft", "--width", "512", "--samples", "2"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1100)
    assert result.returncode == 0, result.stdout + result.stderr

    shards = tmp_path / "out" / "shards" / "data"
    (rows,) = datasets.load_dataset("parquet", data_dir=str(shards)).values()
    (row,) = rows
    ids, image = np.array(row["ids"]), np.array(row["image"])
    assert image.shape == (256, 512, 3)
    assert 20 < image.mean() < 235

    objects = row["objects"]
    categories = {thing["category"] for thing in objects}
    assert {"wall", "floor", "ceiling", "bed", "window"} <= categories
    assert sum(not thing["is_structure"] for thing in objects) >= 20
    assert not [t["name"] for t in objects if "COLLIDE" in t["name"] or "affordance" in t["name"]]
    for thing in objects:
        mask = coco.decode(thing["segmentation"]).astype(bool)
        assert np.array_equal(mask, ids == thing["id"])
        x, y = thing["click"]
        assert mask[y, x]
    assert row["camera"]["room"].startswith("room_floor")
    assert row["provenance"]["infinigen"] == "2.0.0a3"
