"""Pack finished scenes into Parquet shards, one panorama per row group.

OUT/shards/
  data/<split>-NNNNN.parquet   the shards
  manifest.json                what each was made from; packing again skips what is unchanged
  .lock                        held (flock) while a process packs

The same finished scenes give byte-identical shards, whatever the order they were made in: rows are
sorted by seed and scene, and splits and shard borders depend on the rows alone. One row is in
memory at a time.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import UserError
from pipeline.outputs import (
    DISK_FULL,
    DamagedFileError,
    RunFolder,
    SceneFolder,
    read_json,
    write_json,
)
from pipeline.settings import RunSettings, settings_hash
from pipeline.shards.schema import IMAGE_FILES, SHARD_NAME, SPLITS, leaf_columns, make_schema

SHARD_BYTES = 512 * 2**20
ROW_GROUP_BYTES = 16 * 2**10
"""More than what Parquet adds to a row: page headers and the footer's part about its columns."""
VALIDATION_FRACTION = 0.1
VALIDATION_PANORAMAS = 200
"""The paper's validation set (section 4.1)."""


@dataclass(frozen=True)
class _Panorama:
    """A row to be: where its files lie, and what is needed to plan the shards."""

    folder: Path
    scene_id: str
    seed: int
    bytes: int  # an upper bound of its share of a shard: its files, and Parquet's frame
    row_sha256: str  # of row.json, which holds the hashes of the images


def pack(
    run: RunFolder,
    settings: RunSettings,
    *,
    rows_hash: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    validation_fraction: float = VALIDATION_FRACTION,
    validation_panoramas: int = VALIDATION_PANORAMAS,
) -> dict[str, Any]:
    """Write the shards of all finished scenes; panoramas with defects are left out.

    New shards are first written beside the old ones and then moved to their places; only then are
    shards removed that are no longer part of the dataset; other files stay. One process at a time
    may pack a run, a second one is refused.

    Args:
        run: The run's folder.
        settings: Its settings; every row must have been made with them.
        rows_hash: The settings hash that every row must bear; by default that of `settings` in
            this checkout. The one in run.json lets finished rows be packed again after a
            configuration or a version has changed.
        shard_bytes: A shard grows up to this size (a single larger row makes its own).
        validation_fraction: Share of the scenes that are drawn for validation.
        validation_panoramas: Validation ends with the scene that reaches this many panoramas;
            scenes drawn later go to training.

    Returns:
        Panoramas per split (`train`, `validation`), panoramas `left_out` for their defects, and
        shards `written`, `unchanged` and `removed`.

    Raises:
        UserError: Nothing is finished, rows come from other settings, a file is corrupt, another
            process packs, or the disk is full; the shards are then what they were before.
    """
    with _disk_full_is_for_the_user(run.shards), _only_packer(run.shards):
        panoramas, left_out = _collect(run, rows_hash or settings_hash(settings))
        if not panoramas:
            raise UserError(f"{run.scenes} has no finished scene with a good panorama to pack yet")
        schema = make_schema(settings.passes)
        splits = _split(panoramas, validation_fraction, validation_panoramas)
        plan = {
            f"{split}-{number:05d}.parquet": shard
            for split in SPLITS
            for number, shard in enumerate(_shards(splits[split], shard_bytes))
        }
        written, removed = _update(run.shards, plan, schema)
    return {
        **{split: len(splits[split]) for split in SPLITS},
        "left_out": left_out,
        "written": written,
        "unchanged": len(plan) - written,
        "removed": removed,
    }


def _collect(run: RunFolder, expected_hash: str) -> tuple[list[_Panorama], int]:
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


def _look_at(folder: Path) -> tuple[_Panorama, str, bool]:
    """A finished panorama, the settings hash it was made with, and whether it is unfit."""
    data = _read(folder, "row.json")
    try:
        row = json.loads(data)
        summary = row["summary"]
        files = [folder / name for name in dict(summary["sha256"])]
        size = len(data) + sum(file.stat().st_size for file in files if file.exists())
        panorama = _Panorama(
            folder=folder,
            scene_id=str(row["scene_id"]),
            seed=int(row["seed"]),
            bytes=size + ROW_GROUP_BYTES,
            row_sha256=hashlib.sha256(data).hexdigest(),
        )
        return panorama, row["provenance"]["settings_hash"], bool(summary["defects"])
    except (ValueError, KeyError, TypeError):
        raise UserError(_damaged(folder, "row.json")) from None


def _split(
    panoramas: Sequence[_Panorama], fraction: float, enough: int
) -> dict[str, list[_Panorama]]:
    """Whole scenes to splits, drawn by a hash of the scene's name.

    Scenes with later seeds change nothing. A scene that was late and has an earlier seed may take
    the last one's place in validation, but nothing moves from training to validation.
    """
    splits: dict[str, list[_Panorama]] = {split: [] for split in SPLITS}
    for scene_id, scene in groupby(panoramas, key=lambda panorama: panorama.scene_id):
        digest = hashlib.sha256(f"split {scene_id}".encode()).digest()
        drawn = int.from_bytes(digest[:8], "big") / 2**64 < fraction
        room = len(splits["validation"]) < enough
        splits["validation" if drawn and room else "train"].extend(scene)
    return splits


def _shards(panoramas: Iterable[_Panorama], limit: int) -> Iterator[list[_Panorama]]:
    """Cut a split into shards: each is filled in order until the next row would exceed it."""
    shard: list[_Panorama] = []
    for panorama in panoramas:
        if shard and sum(other.bytes for other in shard) + panorama.bytes > limit:
            yield shard
            shard = []
        shard.append(panorama)
    if shard:
        yield shard


def _update(folder: Path, plan: dict[str, list[_Panorama]], schema: pa.Schema) -> tuple[int, int]:
    """Make the folder hold exactly the planned shards; returns how many were written, removed."""
    data, fresh, manifest = folder / "data", folder / ".fresh", folder / "manifest.json"
    data.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(fresh, ignore_errors=True)  # of a pack that was killed
    fresh.mkdir()
    try:
        known = read_json(manifest)
    except (FileNotFoundError, DamagedFileError):
        known = {}
    try:
        entries = {}
        for name, panoramas in plan.items():
            source = _source(panoramas, schema)
            entry = known.get(name)
            if entry is None or entry != _entry(data / name, source, len(panoramas)):
                _write_shard(fresh / name, panoramas, schema)
                entry = _entry(fresh / name, source, len(panoramas))
            entries[name] = entry
        written = sorted(fresh.iterdir())
        write_json(fresh / manifest.name, entries)
        for path in written:  # nothing needs space any more
            os.replace(path, data / path.name)
        if entries != known:  # else its time stays, which tells that the preview page is current
            os.replace(fresh / manifest.name, manifest)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    stale = [
        path for path in data.iterdir() if SHARD_NAME.fullmatch(path.name) and path.name not in plan
    ]
    for path in stale:
        path.unlink()
    return len(written), len(stale)


def _source(panoramas: Iterable[_Panorama], schema: pa.Schema) -> str:
    """Hash of all that decides a shard's bytes: its rows, the schema and the Parquet writer."""
    text = json.dumps([pa.__version__, str(schema), [p.row_sha256 for p in panoramas]])
    return hashlib.sha256(text.encode()).hexdigest()


def _entry(shard: Path, source: str, panoramas: int) -> dict[str, Any] | None:
    """A shard's entry in the manifest; None where there is no whole Parquet file.

    The footer's hash stands for the file: it holds the offsets, sizes and image ids of all rows,
    so truncated and exchanged files are noticed without reading gigabytes.
    """
    try:
        with open(shard, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(size - 8)
            length, magic = int.from_bytes(file.read(4), "little"), file.read(4)
            file.seek(size - 8 - length)
            footer = file.read(length)
    except (OSError, ValueError):
        return None
    if magic != b"PAR1":
        return None
    sha256 = hashlib.sha256(footer).hexdigest()
    return {"source": source, "panoramas": panoramas, "bytes": size, "footer_sha256": sha256}


def _write_shard(path: Path, panoramas: Iterable[_Panorama], schema: pa.Schema) -> None:
    """Write one shard to disk, row by row.

    The images are compressed already: their bytes are stored as they are, without a dictionary
    and statistics. Everything else is small and repetitive.
    """
    leaves = leaf_columns(schema)
    images = {f"{name}.bytes" for name in IMAGE_FILES}
    others = [leaf for leaf in leaves if leaf not in images]
    with (
        open(path, "wb") as file,
        pq.ParquetWriter(
            file,
            schema,
            compression={leaf: "NONE" if leaf in images else "ZSTD" for leaf in leaves},
            use_dictionary=others,
            write_statistics=others,
        ) as writer,
    ):
        for panorama in panoramas:
            writer.write_table(_table(panorama, schema), row_group_size=1)
        writer.close()
        file.flush()
        os.fsync(file.fileno())


def _table(panorama: _Panorama, schema: pa.Schema) -> pa.Table:
    """One panorama as a table of one row."""
    folder = panorama.folder
    row = json.loads(_read(folder, "row.json"))
    sha256 = row.pop("summary")["sha256"]
    try:
        columns = {
            name: pa.array([row[name]] if name in row else [None], schema.field(name).type)
            for name in schema.names
            if name not in IMAGE_FILES
        }
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        columns = {}
    # Arrow fills in nulls for what is missing and drops what it does not know
    if {name: column[0].as_py() for name, column in columns.items()} != row:
        raise DamagedFileError(
            f"{folder / 'row.json'} does not fit the schema; {_made_anew(folder)}"
        )
    for name in IMAGE_FILES:
        if name in schema.names:
            file = IMAGE_FILES[name]
            data = _read(folder, file)
            if hashlib.sha256(data).hexdigest() != sha256.get(file):
                raise UserError(_damaged(folder, file))
            path = row["image_id"].replace("/", "-") + "-" + file
            columns[name] = pa.array([{"bytes": data, "path": path}], schema.field(name).type)
    return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)


def _read(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except FileNotFoundError:
        raise UserError(_damaged(folder, name)) from None


def _damaged(folder: Path, name: str) -> str:
    return f"{folder / name} is missing or damaged; {_made_anew(folder)}"


def _made_anew(folder: Path) -> str:
    """What the user can do about panoramas/<k>/ of a finished scene."""
    done = SceneFolder(folder.parent.parent).done
    return f"delete {folder} and {done} and run make render again to make it anew"


@contextmanager
def _only_packer(folder: Path) -> Iterator[None]:
    """Hold the lock of OUT/shards; the kernel drops it with its process, also after `kill -9`."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a") as lock:
        try:
            fcntl.flock(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is packing {folder}; wait for it, then run the same command again"
            ) from None
        yield


@contextmanager
def _disk_full_is_for_the_user(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise UserError(
            f"the disk is full: no room for new shards in {folder}; the old ones are unchanged, "
            "free some space and pack again"
        ) from error
