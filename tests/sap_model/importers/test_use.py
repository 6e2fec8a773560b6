"""Imported panoramas are verified, exported to COCO, and imported again as they were."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.export.coco import export_coco
from pipeline.shards.reader import ShardReader, decode_ids, decode_image, masks
from pipeline.shards.schema import make_schema
from pipeline.verify.verify import verify
from sap_model.importers.coco import import_coco
from sap_model.importers.hunyuan import import_hunyuan
from sap_model.importers.pavs import import_pavs
from sap_model.train.shard_rows import ShardRows
from tests.sap_model.importers.layouts import make_coco, make_hunyuan, make_pavs


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """Two panoramas with masks that overlap."""
    folder = tmp_path_factory.mktemp("imported")
    import_coco(make_coco(folder / "in"), folder / "out")
    return folder / "out"


@pytest.fixture
def forge(imported, tmp_path):
    """Writes the shard again with a changed first row, and verifies it; the findings."""

    def write(change) -> list[str]:
        rows = pq.read_table(imported / "data" / "validation-00000.parquet").to_pylist()
        change(rows[0])
        (tmp_path / "data").mkdir()
        path = tmp_path / "data" / "validation-00000.parquet"
        with pq.ParquetWriter(path, make_schema(), write_page_checksum=True) as writer:
            for row in rows:
                writer.write_table(pa.Table.from_pylist([row], make_schema()))
        return [finding.text for finding in verify(tmp_path).findings]

    return write


def test_every_import_is_without_findings(imported, tmp_path):
    import_pavs(make_pavs(tmp_path / "pavs"), tmp_path / "1")
    import_hunyuan(make_hunyuan(tmp_path / "hunyuan"), tmp_path / "2")
    for out, panoramas in ((imported, 2), (tmp_path / "1", 9), (tmp_path / "2", 2)):
        found = verify(out)
        assert found.panoramas == panoramas and found.findings == ()


def swap_runs(row):
    one, two = row["objects"][0], row["objects"][2]
    one["segmentation"], two["segmentation"] = two["segmentation"], one["segmentation"]


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (lambda row: row["objects"][1].update(area=5), "area is 5, by its mask"),
        (lambda row: row["objects"][1].update(crosses_seam=True), "crosses_seam is True, by its"),
        (lambda row: row["objects"].pop(), "the id map and the masks differ in"),
        (lambda row: row["objects"].reverse(), "objects are not sorted by id"),
        (swap_runs, "bbox is"),
        (
            lambda row: row["objects"][0]["segmentation"].update(size=[8, 16]),
            "mask size is [8, 16]",
        ),
        (lambda row: row["objects"][0]["segmentation"].update(counts="4"), "mask has 4 pixels"),
        (
            lambda row: row["objects"][0]["segmentation"].update(counts="\x7f"),
            "mask does not decode",
        ),
        (lambda row: row.update(image_id="../b/0"), "image_id is '../b/0'"),
        (lambda row: row["image"].update(bytes=b"RIFF"), "image does not decode"),
        (lambda row: row.update(width=64), "is 64 × 64 pixels"),
        (lambda row: row.update(scene_id=None), "scene_id is missing"),
        (lambda row: row["objects"][0].update(click=None), "objects[0].click is missing"),
    ],
)
def test_forged_rows_are_found(forge, change, finding):
    texts = forge(change)
    assert any(text.startswith(finding) for text in texts), texts


def test_an_unknown_seed_excuses_no_render(forge):
    assert "seed is missing" in forge(lambda row: row.update(generator="rooms"))


def test_an_export_comes_back_as_it_was(imported, tmp_path):
    made = export_coco(imported, tmp_path / "coco", "png")
    assert made.images == {"validation": 2} and made.annotations == 4
    file = tmp_path / "coco" / "annotations" / "instances_validation.json"
    assert all(image["seed"] is None for image in json.loads(file.read_text())["images"])
    import_coco(file, tmp_path / "again", images=tmp_path / "coco" / "validation")
    one, other = ShardReader(imported), ShardReader(tmp_path / "again")
    for index in range(2):
        before, after = one.row(index), other.row(index)
        assert np.array_equal(decode_image(before["image"]), decode_image(after["image"]))
        assert [t["area"] for t in before["objects"]] == [t["area"] for t in after["objects"]]
        for left, right in zip(masks(before["objects"]), masks(after["objects"]), strict=True):
            assert np.array_equal(left, right)


def test_an_import_can_be_trained_on(tmp_path):
    import_coco(make_coco(tmp_path / "in"), tmp_path / "out", split="train")
    rows = ShardRows([tmp_path / "out"], "train")
    assert len(rows.check().scenes) == len(rows) == 2
    panorama = rows[0]
    assert panorama.image.shape == (64, 128, 3) and len(panorama.objects) == 4
    shown = np.unique(decode_ids(ShardReader(tmp_path / "out").row(0)["ids"]))
    assert set(panorama.objects) == set(shown) - {0}
