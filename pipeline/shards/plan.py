"""Which panoramas go into which shard: decided from the rows alone, before anything is written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from pipeline.errors import UserError
from pipeline.outputs import RunFolder, SceneFolder, read_json
from pipeline.shards.schema import SPLITS

ROW_GROUP_BYTES = 16 * 2**10
"""More than what Parquet adds to a row: page headers and the footer's part about its columns."""


@dataclass(frozen=True)
class Panorama:
    """A row to be: where its files lie, and what is needed to plan the shards."""

    folder: Path
    scene_id: str
    seed: int
    bytes: int  # an upper bound of its share of a shard: its files, and Parquet's frame
    row_sha256: str  # of row.json, which holds the hashes of the images


def collect(run: RunFolder, expected_hash: str) -> tuple[list[Panorama], int]:
    """Good panoramas of the finished scenes by (seed, scene, index), and how many are not good."""
    panoramas, left_out = [], 0
    for path in sorted(run.scenes.iterdir()) if run.scenes.is_dir() else []:
        scene = SceneFolder(path)
        if not scene.done.exists():
            continue
        for index in range(_viewpoints(scene)):
            panorama, found, unfit = _look_at(scene.panorama(index))
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
    panoramas.sort(key=lambda panorama: (panorama.seed, panorama.scene_id))  # stable: index stays
    return panoramas, left_out


def _viewpoints(scene: SceneFolder) -> int:
    """Number of panoramas of a finished scene."""
    try:
        return len(read_json(scene.generated)["viewpoints"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{scene.generated} is missing or damaged; delete {scene.path} and run make render "
            "again to make it anew"
        ) from None


def _look_at(folder: Path) -> tuple[Panorama, str, bool]:
    """A finished panorama, the settings hash it was made with, and whether it is unfit."""
    data = read_file(folder, "row.json")
    try:
        row = json.loads(data)
        summary = row["summary"]
        files = [folder / name for name in dict(summary["sha256"])]
        size = len(data) + sum(file.stat().st_size for file in files if file.exists())
        panorama = Panorama(
            folder=folder,
            scene_id=str(row["scene_id"]),
            seed=int(row["seed"]),
            bytes=size + ROW_GROUP_BYTES,
            row_sha256=hashlib.sha256(data).hexdigest(),
        )
        return panorama, row["provenance"]["settings_hash"], bool(summary["defects"])
    except (ValueError, KeyError, TypeError):
        raise UserError(damaged(folder, "row.json")) from None


def draw_splits(
    panoramas: Sequence[Panorama], fraction: float, enough: int
) -> dict[str, list[Panorama]]:
    """Whole scenes to splits, drawn by a hash of the scene's name.

    Scenes with later seeds change nothing. A scene that was late and has an earlier seed may take
    the last one's place in validation, but nothing moves from training to validation.
    """
    splits: dict[str, list[Panorama]] = {split: [] for split in SPLITS}
    for scene_id, scene in groupby(panoramas, key=lambda panorama: panorama.scene_id):
        digest = hashlib.sha256(f"split {scene_id}".encode()).digest()
        drawn = int.from_bytes(digest[:8], "big") / 2**64 < fraction
        room = len(splits["validation"]) < enough
        splits["validation" if drawn and room else "train"].extend(scene)
    return splits


def cut_into_shards(panoramas: Iterable[Panorama], limit: int) -> Iterator[list[Panorama]]:
    """Cut a split into shards: each is filled in order until the next row would exceed it."""
    shard: list[Panorama] = []
    for panorama in panoramas:
        if shard and sum(other.bytes for other in shard) + panorama.bytes > limit:
            yield shard
            shard = []
        shard.append(panorama)
    if shard:
        yield shard


def read_file(folder: Path, name: str) -> bytes:
    """A file of a finished panorama; UserError where it is missing."""
    try:
        return (folder / name).read_bytes()
    except FileNotFoundError:
        raise UserError(damaged(folder, name)) from None


def damaged(folder: Path, name: str) -> str:
    """The user's line about a file of a finished panorama."""
    return f"{folder / name} is missing or damaged; {made_anew(folder)}"


def made_anew(folder: Path) -> str:
    """What the user can do about panoramas/<k>/ of a finished scene."""
    done = SceneFolder(folder.parent.parent).done
    return f"delete {folder} and {done} and run make render again to make it anew"
