"""What a pack left, for its tests."""

import pyarrow.parquet as pq

SMALL = 160_000
"""Shard size that takes two of the synthetic panoramas."""


def shards(run):
    return {path.name: path.read_bytes() for path in (run.shards / "data").iterdir()}


def image_ids(run, split):
    return [
        image_id
        for path in sorted((run.shards / "data").glob(f"{split}-*.parquet"))
        for image_id in pq.read_table(path, columns=["image_id"])["image_id"].to_pylist()
    ]
