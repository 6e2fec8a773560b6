"""Rows against each other: none twice, no scene in two splits, in order, of the same settings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.settings import RunSettings
from pipeline.shards.files import Folder
from pipeline.shards.reader import decode_image
from pipeline.shards.schema import SPLITS
from pipeline.shards.splits import draw_splits
from pipeline.shards.writer import VALIDATION_FRACTION, VALIDATION_PANORAMAS
from pipeline.verify.findings import Finding
from pipeline.verify.near_duplicates import TOLERANCE, candidates, difference, thumbnail, unpack
from pipeline.verify.shard_checks import RowFacts


@dataclass(frozen=True)
class Place:
    """A row and where it is."""

    shard: str
    row: int
    facts: RowFacts

    @property
    def split(self) -> str:
        """The split that its shard's name says."""
        return next(split for split in SPLITS if self.shard.startswith(f"{split}-"))

    @property
    def seed(self) -> int:
        return self.facts.seed

    @property
    def order(self) -> tuple[int, str, int]:
        """Packing order: by seed, then by number."""
        index = self.facts.image_id.rpartition("/")[2]
        return self.facts.seed, self.facts.scene_id, int(index) if index.isdecimal() else -1

    def finding(self, text: str) -> Finding:
        return Finding(text, self.shard, self.row, self.facts.image_id)


def compare(places: list[Place], settings: RunSettings | None) -> Iterator[Finding]:
    """Names, order, splits and settings of all rows, which come in the order of the shards."""
    first: dict[str, Place] = {}
    for place in places:
        other = first.setdefault(place.facts.image_id, place)
        if other is not place:
            yield place.finding(f"is twice in the dataset, first in {other.shard} row {other.row}")
    splits: dict[str, Place] = {}
    for place in places:
        other = splits.setdefault(place.facts.scene_id, place)
        if other.split != place.split:
            yield place.finding(f"its scene is also in {other.shard} row {other.row}")
    for before, after in pairwise(places):
        if before.split == after.split and before.order > after.order:
            yield after.finding(f"comes after {before.facts.image_id}, which has the larger seed")
    seeds: dict[int, Place] = {}
    for place in places:
        other = seeds.setdefault(place.facts.seed, place)
        if other.facts.scene_id != place.facts.scene_id:
            yield place.finding(f"has the seed of another scene, {other.facts.scene_id}")
    if places:
        usual = places[0].facts.settings_hash
        for place in places:
            if (found := place.facts.settings_hash) != usual:
                yield place.finding(f"was made with settings {found}, the first row with {usual}")
    if settings:
        yield from _check_splits(places, settings)


def _check_splits(places: list[Place], settings: RunSettings) -> Iterator[Finding]:
    """Hold the splits against those that packing draws."""
    ordered = sorted(places, key=lambda place: place.order)
    splits = draw_splits(ordered, settings, VALIDATION_FRACTION, VALIDATION_PANORAMAS)
    for split in SPLITS:
        for place in splits[split]:
            if place.split != split:
                yield place.finding(f"its scene is drawn for {split}")


def find_alike(places: list[Place], folder: Folder) -> Iterator[Finding]:
    """Pairs of panoramas that show the same, confirmed by looking at both pictures again."""
    seen = [place for place in places if place.facts.magnitudes]
    if not seen:
        return
    table = np.stack([unpack(place.facts.magnitudes) for place in seen])
    reported: set[int] = set()
    for i, j in candidates(table):
        one, other = seen[i], seen[j]
        if j in reported or one.facts.image_id == other.facts.image_id:  # said already
            continue
        try:
            apart = difference(_thumbnail(one, folder), _thumbnail(other, folder))
        except (OSError, pa.ArrowException, UserError):
            yield other.finding(f"cannot be read again to compare it with {one.facts.image_id}")
            continue
        if apart < TOLERANCE:
            reported.add(j)
            yield other.finding(
                f"shows the same as {one.facts.image_id} in {one.shard} row {one.row} "
                f"(they differ by {apart:.2f} grey levels)"
            )


def _thumbnail(place: Place, folder: Folder) -> NDArray[np.float32]:
    with folder.open(place.shard) as source, pq.ParquetFile(source) as file:
        row = file.read_row_group(place.row, columns=["image"]).to_pylist()[0]
    return thumbnail(decode_image(row["image"]))
