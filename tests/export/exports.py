"""Helpers: shards of given rows, and the content of an export."""

from __future__ import annotations

import contextlib
import io
import json
from itertools import count, islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pycocotools.coco import COCO

from pipeline.categories import OBJECTS, STRUCTURE
from pipeline.shards.schema import make_schema

SPLITS = ("train", "validation")
ROOT = Path(__file__).parents[2]
EMPTY_WEBP = b"RIFF" + (4).to_bytes(4, "little") + b"WEBP"
IN_TABLE = len(STRUCTURE) + len(OBJECTS)


def write_shards(folder, **splits):
    """Write shards of ten rows each with the packer's layout."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    schema = make_schema()
    for split, rows in splits.items():
        for number in count():
            shard = list(islice(rows := iter(rows), 10))
            if not shard:
                break
            path = folder / "data" / f"{split}-{number:05d}.parquet"
            with pq.ParquetWriter(path, schema) as writer:
                for row in shard:
                    writer.write_table(pa.Table.from_pylist([row], schema), row_group_size=1)
    return folder


def named(row, seed, k=0, **values):
    """A row of another scene."""
    scene = f"spheres-{seed:010d}"
    return {**row, "seed": seed, "scene_id": scene, "image_id": f"{scene}/{k}", **values}


def of_category(row, name):
    """A row with a single object of this category."""
    return {**row, "objects": [{**row["objects"][0], "category": name}]}


def load(folder, split="train"):
    return json.loads((folder / "annotations" / f"instances_{split}.json").read_text())


def tree(folder):
    """All files of a folder with their bytes, without the lock."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def coco_of(folder, split):
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(folder / "annotations" / f"instances_{split}.json"))
