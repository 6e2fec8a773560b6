"""The small configuration: rows, sizes within the viewer's limit, and its description."""

from __future__ import annotations

import io
import json

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.card.preview_rows import (
    PAGE_BYTES,
    PAGE_ROWS,
    PREVIEW_WIDTH,
    preview_row,
    preview_schema,
    write_previews,
)
from pipeline.shards.reader import ShardReader


def test_rows_are_those_of_the_shards(published):
    reader = ShardReader(published.folder)
    found = datasets.load_dataset("parquet", data_dir=str(published.folder / "preview"))
    small = [row for split in ("train", "validation") for row in found[split]]
    assert len(small) == len(reader) == 8
    for one, row in zip(small, map(reader.row, range(len(reader))), strict=True):
        assert one["image_id"] == row["image_id"]
        assert one["image"].size == one["overlay"].size == (256, 128)
        assert one["instances"] == len(row["objects"])
        assert one["objects"] == sum(not thing["is_structure"] for thing in row["objects"])
        assert one["small"] + one["medium"] + one["large"] == one["instances"]
        assert "ball" in one["categories"] and "floor" not in one["categories"]


def test_a_page_of_the_largest_rows_is_within_the_limit_of_the_viewer(published):
    """Noise is what JPEG compresses least, and 4K rows become no larger than this."""
    row = ShardReader(published.folder).row(0)
    noise = np.random.default_rng(0).integers(0, 256, (PREVIEW_WIDTH // 2, PREVIEW_WIDTH, 3))
    row["image"]["bytes"] = webp(noise.astype(np.uint8))
    row["ids"]["bytes"] = png(noise[..., 0].astype(np.uint16))
    row["objects"] = [{**row["objects"][0], "id": number} for number in range(256)]
    small = preview_row(row)
    size = sum(len(small[name]["bytes"]) for name in ("image", "overlay"))
    assert PAGE_ROWS * (size + 20_000) < PAGE_BYTES


def webp(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "webp", lossless=True, method=0, quality=0)
    return file.getvalue()


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def test_a_row_group_is_at_most_a_page(published):
    for path in (published.folder / "preview").iterdir():
        metadata = pq.read_metadata(path)
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            assert group.num_rows <= PAGE_ROWS and group.total_byte_size < PAGE_BYTES


def test_features_equal_those_of_datasets():
    theirs = datasets.Features.from_arrow_schema(preview_schema()).arrow_schema
    assert preview_schema().equals(theirs)
    key = b"huggingface"
    assert json.loads(preview_schema().metadata[key]) == json.loads(theirs.metadata[key])


def test_unchanged_files_stay(published, tmp_path):
    reader = ShardReader(published.folder)
    first = write_previews(reader, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in first}
    (tmp_path / "train-00007.parquet").write_bytes(b"of a larger dataset")
    (tmp_path / "notes.txt").write_text("mine")
    assert write_previews(reader, tmp_path) == first
    assert {path: path.stat().st_mtime_ns for path in first} == before
    assert {path.name for path in tmp_path.iterdir()} == {
        *(path.name for path in first),
        "notes.txt",
    }


def test_croissant_is_valid_and_loads(published):
    about = json.loads((published.folder / "croissant.json").read_text())
    assert {field["name"] for field in about["recordSet"][0]["field"]} >= {
        "preview/image",
        "preview/instances",
    }
    assert any(key.startswith("rai:") for key in about)
    mlcroissant = pytest.importorskip("mlcroissant", reason="a package of its users")
    dataset = mlcroissant.Dataset(
        jsonld=str(published.folder / "croissant.json"), mapping={"repo": str(published.folder)}
    )
    assert not dataset.metadata.ctx.issues.errors
    names = [record["preview/image_id"] for record in dataset.records("preview")]
    assert len(names) == 8
