"""Decide which panorama goes into which split and shard, before anything is written.

A dataset grows at its end only. Scenes are taken in the order of their seeds, up to the first seed
that is neither finished nor quarantined, so a late scene never comes between others. A packed
panorama keeps its split, shard and row. Packing again after more scenes are finished adds shards
and rewrites at most the last shard of each split.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, groupby
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from pipeline import storage
from pipeline.errors import UserError
from pipeline.layout import ANNOTATED, RunFolder, SceneFolder
from pipeline.run_settings import RunSettings, scene_id
from pipeline.shards.schema import SPLITS

VALIDATION_FRACTION = 0.1
VALIDATION_PANORAMAS = 200
"""The paper's validation set (section 4.1)."""

BATCH = 20
"""Number of scenes whose JSON files are read together; a row.json at 4K may take 100 kB."""

ROW_GROUP_BYTES = 16 * 2**10
"""An upper bound of what Parquet adds to a row: page headers, and its columns in the footer."""


@dataclass(frozen=True, slots=True)
class FinishedPanorama:
    """A finished panorama. It takes few bytes, because there may be hundreds of thousands.

    Attributes:
        parent: The folder of the panorama's folder; one object for all panoramas of a scene.
        name: The name of the panorama's folder in it.
        seed: The seed of its scene.
        size: An upper bound of its bytes in a shard: its files, and what Parquet adds.
        row_digest: SHA-256 of row.json, which holds the hashes of the images.
    """

    parent: Path
    name: str
    seed: int
    size: int
    row_digest: bytes

    @property
    def folder(self) -> Path:
        """The folder of its files."""
        return self.parent / self.name

    @property
    def row_sha256(self) -> str:
        return self.row_digest.hex()


@dataclass(frozen=True)
class Collected:
    """The finished panoramas of a run.

    Attributes:
        panoramas: Those without defects, by (seed, index).
        left_out: Number of panoramas with defects.
        waiting: Number of finished scenes that wait for one with a smaller seed.
        dropped: Number of instances that were too small to be kept.
        unknown: Number of objects whose category the table does not know, by that category.
    """

    panoramas: list[FinishedPanorama]
    left_out: int
    waiting: int
    dropped: int
    unknown: Counter[str]


def collect(run: RunFolder, settings: RunSettings, expected_hash: str) -> Collected:
    """Collect the panoramas of all scenes before the first undecided seed.

    Raises:
        UserError: A row was made with other settings, or a file of a finished scene is damaged.
    """
    done = {name.removesuffix(".json") for name in storage.names(run.done_folder)}
    failed = {name.removesuffix(".json") for name in storage.names(run.failed_folder)}
    panoramas, left_out, taken, dropped = [], 0, 0, 0
    unknown: Counter[str] = Counter()
    scenes = list(_decided(run, settings, done, failed))
    for start in range(0, len(scenes), BATCH):
        batch = scenes[start : start + BATCH]
        records = _read_scene_records(batch)
        taken += len(batch)
        for record in records:
            unknown.update(record.get("unknown_categories", {}))
        for row in _read_rows(batch, records):
            dropped += row.dropped
            if row.settings_hash != expected_hash:
                raise UserError(
                    f"{row.panorama.folder} was made with settings {row.settings_hash}, this run "
                    f"has {expected_hash}; pack with the settings and versions that made it, or "
                    "use a new OUT"
                )
            if row.has_defects:
                left_out += 1
            else:
                panoramas.append(row.panorama)
    finished = sum(not name.startswith(".") for name in done)
    return Collected(panoramas, left_out, finished - taken, dropped, unknown)


def _decided(
    run: RunFolder, settings: RunSettings, done: set[str], failed: set[str]
) -> Iterator[SceneFolder]:
    """Finished scenes in the order of their seeds, up to the first undecided seed."""
    for seed in count(settings.seed):
        scene = run.scene(scene_id(settings, seed))
        if scene.scene_id in failed:
            continue
        if scene.scene_id not in done:
            return
        yield scene


def _read_scene_records(scenes: Sequence[SceneFolder]) -> list[dict[str, Any]]:
    """Read the scene.json of each of some finished scenes."""
    records = []
    found = storage.read_many([scene.generated for scene in scenes])
    for scene, data in zip(scenes, found, strict=True):
        try:
            record = json.loads(data or b"")
            len(record["viewpoints"])
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f"{scene.generated} is missing or damaged; delete {scene.path} and {scene.done} "
                "and run make render again"
            ) from None
        records.append(record)
    return records


class _Row(NamedTuple):
    """What a row.json says about a finished panorama."""

    panorama: FinishedPanorama
    settings_hash: str
    has_defects: bool
    dropped: int


def _read_rows(scenes: Sequence[SceneFolder], records: Sequence[dict[str, Any]]) -> Iterator[_Row]:
    """Read the row.json of each panorama of some finished scenes."""
    parents = [scene.panorama(0).parent for scene in scenes]
    places = [
        (parent, str(index))
        for parent, record in zip(parents, records, strict=True)
        for index in range(len(record["viewpoints"]))
    ]
    found = storage.read_many([parent / name / ANNOTATED for parent, name in places])
    for (parent, name), data in zip(places, found, strict=True):
        yield _parse_row(parent, name, data or b"")


def _parse_row(parent: Path, name: str, data: bytes) -> _Row:
    folder = parent / name
    try:
        row = json.loads(data)
        summary = dict(row["summary"])
        files = summary.get("bytes")
        if files is None:  # written by an older version
            files = sum(storage.size(folder / name) for name in dict(summary["sha256"]))
        panorama = FinishedPanorama(
            parent=parent,
            name=name,
            seed=int(row["seed"]),
            size=len(data) + int(files) + ROW_GROUP_BYTES,
            row_digest=hashlib.sha256(data).digest(),
        )
        return _Row(
            panorama=panorama,
            settings_hash=row["provenance"]["settings_hash"],
            has_defects=bool(summary["defects"]),
            dropped=int(summary.get("dropped", 0)),
        )
    except (ValueError, KeyError, TypeError):
        raise UserError(damaged(folder, ANNOTATED)) from None


class Seeded(Protocol):
    """Anything made from a seed."""

    @property
    def seed(self) -> int: ...


SeededItem = TypeVar("SeededItem", bound=Seeded)


def draw_splits(
    panoramas: Iterable[SeededItem], settings: RunSettings, fraction: float, enough: int
) -> dict[str, list[SeededItem]]:
    """Assign scenes to splits.

    Drawn scenes go to validation until it holds `enough` panoramas, all others to training. The
    split of a scene depends on it and on the scenes before it, so it never changes as more follow.

    Args:
        panoramas: In the order of their seeds.
        settings: Of the run.
        fraction: Of every 1 / fraction seeds, one scene is drawn for validation.
        enough: The size of validation, in panoramas.
    """
    splits: dict[str, list[SeededItem]] = {split: [] for split in SPLITS}
    for seed, scene in groupby(panoramas, key=lambda panorama: panorama.seed):
        room = len(splits["validation"]) < enough
        drawn = room and is_drawn_for_validation(settings, seed, fraction)
        splits["validation" if drawn else "train"].extend(scene)
    return splits


def is_drawn_for_validation(settings: RunSettings, seed: int, fraction: float) -> bool:
    """Whether the scene of a seed is drawn for validation.

    Of every 1 / fraction consecutive seeds of a run, the scene whose name has the smallest hash is
    drawn, so a run of that many scenes has one.
    """
    if not fraction:
        return False
    block = round(1 / fraction)
    first = seed - (seed - settings.seed) % block
    names = [scene_id(settings, other) for other in range(first, first + block)]
    return scene_id(settings, seed) == min(names, key=_hash_of)


def _hash_of(name: str) -> bytes:
    return hashlib.sha256(f"split {name}".encode()).digest()


def cut_into_shards(
    panoramas: Iterable[FinishedPanorama], limit: int
) -> Iterator[list[FinishedPanorama]]:
    """Cut a split into shards; each is filled until the next row would exceed the limit."""
    shard: list[FinishedPanorama] = []
    size = 0
    for panorama in panoramas:
        if shard and size + panorama.size > limit:
            yield shard
            shard, size = [], 0
        shard.append(panorama)
        size += panorama.size
    if shard:
        yield shard


def damaged(folder: Path, name: str) -> str:
    """The error message about a file of a finished panorama."""
    return f"{folder / name} is missing or damaged; {remedy(folder)}"


def remedy(folder: Path) -> str:
    """What the user can do about a damaged panoramas/<k>/ of a finished scene."""
    done = SceneFolder(folder.parent.parent).done
    return f"delete {folder} and {done} and run make render again"
