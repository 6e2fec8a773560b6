"""Shards of version 0.2.0, whose rows had seconds too, stay readable by all that reads shards."""

import pyarrow.parquet as pq
import pytest

from pipeline.card.template_context import OLDER_FIELD, schema_table
from pipeline.export.coco import export_coco
from pipeline.layout import RunFolder
from pipeline.preview.page import write_preview
from pipeline.shards.reader import ShardReader
from pipeline.shards.writer import pack
from pipeline.statistics.measure import measure
from tests.synthetic import SECONDS, SETTINGS, age_shards, finish_scene, older_row


@pytest.fixture
def run(tmp_path):
    run = RunFolder(tmp_path / "out")
    finish_scene(run)
    pack(run, SETTINGS, validation_fraction=0)
    return run


def test_the_reader_returns_rows_with_all_fields(run):
    new = [ShardReader(run.shards).row(index) for index in range(2)]
    age_shards(run.shards)
    expected = [older_row(row, SECONDS) for row in new]
    reader = ShardReader(run.shards)
    assert [reader.row(index) for index in range(2)] == expected
    assert reader.row(0, ["provenance.render_seconds"])["provenance"] == {"render_seconds": 4.2}


def test_statistics_ignore_the_seconds_of_older_rows(run):
    expected = measure(ShardReader(run.shards))
    age_shards(run.shards)
    assert measure(ShardReader(run.shards)) == expected


def test_preview_and_coco_accept_older_shards(run, tmp_path):
    expected = write_preview(run).read_text()
    age_shards(run.shards)
    assert write_preview(run).read_text() == expected
    export_coco(run.shards, tmp_path / "coco")


def test_a_card_names_the_fields_of_older_shards(run):
    age_shards(run.shards)
    (path,) = (run.shards / "data").iterdir()
    meanings = {row["name"]: row["meaning"] for row in schema_table(pq.read_schema(path))}
    for name in SECONDS:
        assert meanings[f"provenance.{name}"] == OLDER_FIELD
    assert OLDER_FIELD not in {meanings["provenance.device"], meanings["image_id"]}
