"""Scores of everything against ground truth."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pipeline.shards.reader import ShardReader
from sap_model.predict.formats import encode_rle
from sap_model.segment.everything import EverythingOptions, Segment
from sap_model.segment.scoring import (
    EverythingScores,
    Found,
    best_ious,
    score_everything,
    table,
    write_scores,
)
from tests.sap_model.models import responsive


def segment(mask: np.ndarray) -> Segment:
    return Segment(encode_rle(mask), 0.9, 0.9, (0, 0), 0.1)


def test_best_mask_of_each_object_counts():
    ids = np.zeros((8, 16), np.uint16)
    ids[0:4, 0:4], ids[0:4, 8:12] = 3, 7
    half = np.zeros(ids.shape, bool)
    half[0:4, 0:2] = True
    both = half | (ids == 7)
    best = best_ious([segment(half), segment(both)], ids, np.array([3, 7, 5]))
    assert best.tolist() == pytest.approx([0.5, 16 / 24, 0])


def test_table_has_recall_by_size_and_the_gain(tmp_path):
    better, worse = np.array([0.9, 0.6, 0.2]), np.array([0.8, 0.4, 0.1])
    ways = {"sphere": [Found(better, 5, {"encode": 1.0})], "flat": [Found(worse, 3, {})]}
    scored = EverythingScores(ways, np.array(["large", "small", "small"]), np.array([0, 0, 1]))
    lines = table(scored).splitlines()
    assert lines[2].startswith("| sphere | all | 3 | 0.567 (")
    assert any(line.startswith("| sphere | small | 2 | 0.400 (") for line in lines)
    gain = scored.gain()
    assert gain is not None and gain.mean == pytest.approx(1 / 3)
    write_scores(tmp_path / "new" / "scores.json", scored, {"points": 9})
    content = json.loads((tmp_path / "new" / "scores.json").read_text())
    assert content["points"] == 9
    assert content["ways"]["sphere"]["best"] == [0.9, 0.6, 0.2]


def test_shards_are_scored(shards):
    reader = ShardReader(shards)
    lines: list[str] = []
    options = EverythingOptions(points=48, iou=0, stability=0, follow=False)
    scored = score_everything(responsive(), reader, options, limit=1, progress=lines.append)
    objects = len(reader.row(0)["objects"])
    assert len(lines) == 1
    for way in ("sphere", "flat"):
        assert len(scored.best(way)) == objects
        assert scored.ways[way][0].masks > 0
        assert set(scored.ways[way][0].seconds) == {"encode", "decode", "merge"}
    assert scored.best("ceiling").mean() > 0.8
