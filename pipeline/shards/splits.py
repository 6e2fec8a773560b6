"""Which panoramas go into which shard: decided from the rows alone, before anything is written.

A dataset grows at its end only. Scenes are taken in the order of their seeds, up to the first seed
that is neither finished nor quarantined, so a scene that is late can not come between others:
what was packed once keeps its split, its shard and its row, and packing again after more scenes are
finished adds shards and rewrites at most the last one of each split.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, groupby
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pipeline import storage
from pipeline.errors import UserError
from pipeline.layout import ANNOTATED, RunFolder, SceneFolder
from pipeline.settings import RunSettings, scene_id
from pipeline.shards.schema import SPLITS

BATCH = 20
"""Scenes whose JSON files are read at once; a row.json at 4K may take 100 kB."""

ROW_GROUP_BYTES = 16 * 2**10
"""More than what Parquet adds to a row: page headers and the footer's part about its columns."""


@dataclass(frozen=True, slots=True)
class Panorama:
    """A row to be, in few bytes: there may be hundreds of thousands.

    Attributes:
        parent: The folder that its own lies in, the same object for all panoramas of a scene, and
            `name`, that of its own.
        size: Bytes, an upper bound of its share of a shard: its files, and Parquet's frame.
        row_digest: SHA-256 of row.json, which holds the hashes of the images.
    """

    parent: Path
    name: str
    seed: int
    size: int
    row_digest: bytes

    @property
    def folder(self) -> Path:
        """Where its files lie."""
        return self.parent / self.name

    @property
    def row_sha256(self) -> str:
        return self.row_digest.hex()


@dataclass(frozen=True)
class Collected:
    """What a run has for its shards.

    Attributes:
        panoramas: The good ones, by (seed, index).
        left_out: How many are annotated but unfit.
        waiting: Finished scenes that wait for one with a smaller seed.
        dropped: Instances that were too small to be kept.
        unknown: How often an object had a category that the table does not know, by its name.
    """

    panoramas: list[Panorama]
    left_out: int
    waiting: int
    dropped: int
    unknown: Counter[str]


def collect(run: RunFolder, settings: RunSettings, expected_hash: str) -> Collected:
    """The panoramas of all scenes before the first seed that is not decided yet.

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
        abouts = _read_abouts(batch)
        taken += len(batch)
        for about in abouts:
            unknown.update(about.get("unknown_categories", {}))
        for panorama, found, unfit, small in _look_at(batch, abouts):
            dropped += small
            if found != expected_hash:
                raise UserError(
                    f"{panorama.folder} was made with settings {found}, this run has "
                    f"{expected_hash}; pack with the settings and versions that made it, or use a "
                    "new OUT"
                )
            if unfit:
                left_out += 1
            else:
                panoramas.append(panorama)
    finished = sum(not name.startswith(".") for name in done)
    return Collected(panoramas, left_out, finished - taken, dropped, unknown)


def _decided(
    run: RunFolder, settings: RunSettings, done: set[str], failed: set[str]
) -> Iterator[SceneFolder]:
    """Finished scenes in the order of their seeds, until a seed is not decided."""
    for seed in count(settings.seed):
        scene = run.scene(scene_id(settings, seed))
        if scene.scene_id in failed:
            continue
        if scene.scene_id not in done:
            return
        yield scene


def _read_abouts(scenes: Sequence[SceneFolder]) -> list[dict[str, Any]]:
    """The scene.json of each of some finished scenes."""
    abouts = []
    found = storage.read_many([scene.generated for scene in scenes])
    for scene, data in zip(scenes, found, strict=True):
        try:
            about = json.loads(data or b"")
            len(about["viewpoints"])
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f"{scene.generated} is missing or damaged; delete {scene.path} and {scene.done} "
                "and run make render again to make it anew"
            ) from None
        abouts.append(about)
    return abouts


def _look_at(
    scenes: Sequence[SceneFolder], abouts: Sequence[dict[str, Any]]
) -> Iterator[tuple[Panorama, str, bool, int]]:
    """Finished panoramas, each with its settings hash, whether it is unfit, instances dropped."""
    parents = [scene.panorama(0).parent for scene in scenes]
    places = [
        (parent, str(index))
        for parent, about in zip(parents, abouts, strict=True)
        for index in range(len(about["viewpoints"]))
    ]
    found = storage.read_many([parent / name / ANNOTATED for parent, name in places])
    for (parent, name), data in zip(places, found, strict=True):
        yield _panorama(parent, name, data or b"")


def _panorama(parent: Path, name: str, data: bytes) -> tuple[Panorama, str, bool, int]:
    """One of them, by its row.json."""
    folder = parent / name
    try:
        row = json.loads(data)
        summary = dict(row["summary"])
        files = summary.get("bytes")
        if files is None:  # of a version that did not write it down
            files = sum(storage.size(folder / name) for name in dict(summary["sha256"]))
        panorama = Panorama(
            parent=parent,
            name=name,
            seed=int(row["seed"]),
            size=len(data) + int(files) + ROW_GROUP_BYTES,
            row_digest=hashlib.sha256(data).digest(),
        )
        settings = row["provenance"]["settings_hash"]
        return panorama, settings, bool(summary["defects"]), int(summary.get("dropped", 0))
    except (ValueError, KeyError, TypeError):
        raise UserError(damaged(folder, ANNOTATED)) from None


class _Seeded(Protocol):
    @property
    def seed(self) -> int: ...


_Row = TypeVar("_Row", bound=_Seeded)


def draw_splits(
    panoramas: Iterable[_Row], settings: RunSettings, fraction: float, enough: int
) -> dict[str, list[_Row]]:
    """Whole scenes to splits, in the order given, which is that of their seeds.

    Drawn scenes go to validation until it holds `enough` panoramas, all others to training. So
    where a scene goes depends on it and on those before it, and never changes as more follow.
    """
    splits: dict[str, list[_Row]] = {split: [] for split in SPLITS}
    for seed, scene in groupby(panoramas, key=lambda panorama: panorama.seed):
        room = len(splits["validation"]) < enough
        drawn = room and is_drawn_for_validation(settings, seed, fraction)
        splits["validation" if drawn else "train"].extend(scene)
    return splits


def is_drawn_for_validation(settings: RunSettings, seed: int, fraction: float) -> bool:
    """Whether the scene of a seed is drawn for validation: a hash of the scenes' names decides.

    Of every 1 / fraction consecutive seeds of a run it is the scene whose name has the smallest
    hash, so that already a run of that many scenes has one.
    """
    if not fraction:
        return False
    block = round(1 / fraction)
    first = seed - (seed - settings.seed) % block
    names = [scene_id(settings, other) for other in range(first, first + block)]
    return scene_id(settings, seed) == min(names, key=_hash_of)


def _hash_of(name: str) -> bytes:
    return hashlib.sha256(f"split {name}".encode()).digest()


def cut_into_shards(panoramas: Iterable[Panorama], limit: int) -> Iterator[list[Panorama]]:
    """Cut a split into shards: each is filled in order until the next row would exceed it."""
    shard: list[Panorama] = []
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
    """The user's line about a file of a finished panorama."""
    return f"{folder / name} is missing or damaged; {made_anew(folder)}"


def made_anew(folder: Path) -> str:
    """What the user can do about panoramas/<k>/ of a finished scene."""
    done = SceneFolder(folder.parent.parent).done
    return f"delete {folder} and {done} and run make render again to make it anew"
