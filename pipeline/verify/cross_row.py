"""Checks across rows: unique names, splits, order, settings, near duplicates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.run_settings import RunSettings
from pipeline.shards.reader import decode_image
from pipeline.shards.schema import SPLITS
from pipeline.shards.splits import VALIDATION_FRACTION, VALIDATION_PANORAMAS, draw_splits
from pipeline.storage.ranges import open_ranges
from pipeline.verify.findings import Finding
from pipeline.verify.near_duplicates import TOLERANCE, candidates, difference, thumbnail, unpack
from pipeline.verify.shard_checks import RowFacts


@dataclass(frozen=True)
class LocatedRow:
    """The facts of a row, with its shard and row number."""

    shard: str
    row: int
    facts: RowFacts

    @property
    def split(self) -> str:
        """The split in the shard's name."""
        return next(split for split in SPLITS if self.shard.startswith(f"{split}-"))

    @property
    def seed(self) -> int:
        """The seed; -1 of an imported panorama."""
        return -1 if self.facts.seed is None else self.facts.seed

    @property
    def order(self) -> tuple[int, str, int]:
        """The packing order: by seed, then by panorama number."""
        index = self.facts.image_id.rpartition("/")[2]
        return self.seed, self.facts.scene_id, int(index) if index.isdecimal() else -1

    def finding(self, text: str) -> Finding:
        return Finding(text, self.shard, self.row, self.facts.image_id)

    def __str__(self) -> str:
        return f"{self.shard} row {self.row}"


def check_rows(rows: list[LocatedRow], settings: RunSettings | None) -> Iterator[Finding]:
    """Check names, splits, order and settings of all rows, given in the order of the shards."""
    first: dict[str, LocatedRow] = {}
    for row in rows:
        other = first.setdefault(row.facts.image_id, row)
        if other is not row:
            yield row.finding(f"repeats the image_id of {other}")
    splits: dict[str, LocatedRow] = {}
    for row in rows:
        other = splits.setdefault(row.facts.scene_id, row)
        if other.split != row.split:
            yield row.finding(f"its scene is also in another split: {other}")
    made = [row for row in rows if row.facts.seed is not None]  # imported ones come in any order
    for before, after in pairwise(made):
        if before.split == after.split and before.order > after.order:
            yield after.finding(f"comes after {before.facts.image_id}, which has the larger seed")
    seeds: dict[int, LocatedRow] = {}
    for row in made:
        other = seeds.setdefault(row.seed, row)
        if other.facts.scene_id != row.facts.scene_id:
            yield row.finding(f"has the seed of another scene, {other.facts.scene_id}")
    if rows:
        expected = rows[0].facts.settings_hash
        for row in rows:
            if (found := row.facts.settings_hash) != expected:
                yield row.finding(f"settings_hash is {found}, that of the first row {expected}")
    if settings:
        yield from _check_splits(rows, settings)


def _check_splits(rows: list[LocatedRow], settings: RunSettings) -> Iterator[Finding]:
    """Compare the splits with those that packing draws."""
    ordered = sorted(rows, key=lambda row: row.order)
    splits = draw_splits(ordered, settings, VALIDATION_FRACTION, VALIDATION_PANORAMAS)
    for split in SPLITS:
        for row in splits[split]:
            if row.split != split:
                yield row.finding(f"its scene belongs to {split}")


def find_near_duplicates(rows: list[LocatedRow], folder: Path) -> Iterator[Finding]:
    """Find panoramas that show the same; each pair is confirmed on the images themselves."""
    with_image = [row for row in rows if row.facts.magnitudes]
    if not with_image:
        return
    table = np.stack([unpack(row.facts.magnitudes) for row in with_image])
    reported: set[int] = set()
    for i, j in candidates(table):
        one, other = with_image[i], with_image[j]
        if j in reported or one.facts.image_id == other.facts.image_id:  # has a finding already
            continue
        if one.facts.seed is None and one.facts.scene_id == other.facts.scene_id:
            continue  # frames of an imported video may show the same
        try:
            grey_levels = difference(_thumbnail(one, folder), _thumbnail(other, folder))
        except (OSError, pa.ArrowException, UserError):
            yield other.finding(f"cannot be read again to compare it with {one.facts.image_id}")
            continue
        if grey_levels < TOLERANCE:
            reported.add(j)
            yield other.finding(
                f"shows the same as {one.facts.image_id} in {one} "
                f"(they differ by {grey_levels:.2f} grey levels)"
            )


def _thumbnail(row: LocatedRow, folder: Path) -> NDArray[np.float32]:
    with open_ranges(folder / row.shard) as source, pq.ParquetFile(source) as file:
        values = file.read_row_group(row.row, columns=["image"]).to_pylist()[0]
    return thumbnail(decode_image(values["image"]))
