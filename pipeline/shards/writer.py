"""Pack finished scenes into Parquet shards, one panorama per row group.

OUT/shards/
  data/<split>-NNNNN.parquet   the shards
  manifest.json                the source, size and hash of each shard; packing again skips shards
                               that are unchanged
  .lock                        held while a process packs

The same finished scenes give byte-identical shards, in whatever order they were rendered: rows are
sorted by seed and scene, and splits and shard borders depend on the rows alone. One row is in
memory at a time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.digest import sha256_of
from pipeline.errors import UserError
from pipeline.layout import ANNOTATED, DamagedFileError, RunFolder, read_json, write_json
from pipeline.run_settings import RunSettings, settings_hash
from pipeline.shards.footers import footer_sha256
from pipeline.shards.schema import IMAGE_FILES, SHARD_NAME, SPLITS, leaf_columns, make_schema
from pipeline.shards.splits import (
    VALIDATION_FRACTION,
    VALIDATION_PANORAMAS,
    FinishedPanorama,
    collect,
    cut_into_shards,
    damaged,
    draw_splits,
    remedy,
)
from pipeline.storage import Lock, disk_full_as_user_error, exclusive_lock

SHARD_BYTES = 512 * 2**20
ROW_DIGITS = 16
"""Hex digits of a row's hash in the manifest; enough to see that a shard has only grown."""


def pack(
    run: RunFolder,
    settings: RunSettings,
    *,
    rows_hash: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    validation_fraction: float = VALIDATION_FRACTION,
    validation_panoramas: int = VALIDATION_PANORAMAS,
) -> dict[str, Any]:
    """Write the shards of the finished scenes; panoramas with defects are left out.

    Scenes are packed in the order of their seeds, up to the first seed that is neither finished
    nor quarantined; what was packed once stays where it is (see `pipeline.shards.splits`).

    New shards are written beside the old shards and then moved to their places. After that, shards
    that no longer belong to the dataset are removed; other files stay. One process at a time may
    pack a run.

    Args:
        run: The run's folder.
        settings: The run's settings; every row must have been made with them.
        rows_hash: The settings hash that every row must have; by default the hash of `settings`
            in this version. The hash in run.json lets finished rows be packed again after a
            configuration or a version has changed.
        shard_bytes: The largest size of a shard; a larger row fills a shard.
        validation_fraction: Of every 1 / validation_fraction seeds, one scene is drawn for
            validation; 0 draws none.
        validation_panoramas: Validation ends with the scene that reaches this many panoramas;
            scenes drawn later go to training.

    Returns:
        Panoramas per split (`train`, `validation`), panoramas `left_out` for their defects,
        finished scenes `waiting` for one with a smaller seed, instances `dropped` for their size,
        `unknown` categories (a Counter), and shards `written`, `unchanged`
        and `removed`.

    Raises:
        UserError: No scene is finished, rows come from other settings, a file is damaged, another
            process packs, or the disk is full. The old shards are then unchanged.
    """
    full = (
        f"no room for new shards in {run.shards}; the old ones are unchanged, free some space and "
        "pack again"
    )
    with disk_full_as_user_error(full), exclusive_lock(run.shards_lock, "packing") as lock:
        found = collect(run, settings, rows_hash or settings_hash(settings))
        if not found.panoramas:
            late = f" ({found.waiting} wait for an earlier seed)" if found.waiting else ""
            raise UserError(
                f"{run.scenes} has no finished scene with a good panorama to pack yet{late}; "
                "make render continues, make status shows how far it is"
            )
        schema = make_schema(settings.passes)
        splits = draw_splits(found.panoramas, settings, validation_fraction, validation_panoramas)
        plan = {
            f"{split}-{number:05d}.parquet": shard
            for split in SPLITS
            for number, shard in enumerate(cut_into_shards(splits[split], shard_bytes))
        }
        written, removed = update_shards(run.shards, plan, schema, lock)
    return {
        **{split: len(splits[split]) for split in SPLITS},
        "left_out": found.left_out,
        "waiting": found.waiting,
        "dropped": found.dropped,
        "unknown": found.unknown,
        "written": written,
        "unchanged": len(plan) - written,
        "removed": removed,
    }


def update_shards(
    folder: Path, plan: dict[str, list[FinishedPanorama]], schema: pa.Schema, lock: Lock
) -> tuple[int, int]:
    """Make a folder hold exactly the planned shards.

    Args:
        folder: Where data/ and manifest.json lie.
        plan: The panoramas of each shard, by its name.
        schema: Of the rows.
        lock: The folder's, which is checked before each write.

    Returns:
        How many shards were written, and how many were removed.
    """
    data, manifest = folder / "data", folder / "manifest.json"
    try:
        known = read_json(manifest)
    except (FileNotFoundError, DamagedFileError):
        known = {}
    with _fresh(folder) as fresh:
        entries, written = {}, 0
        for name, panoramas in plan.items():
            source = _source(panoramas, schema)
            entry = known.get(name)
            if entry is None or not _is_current(data / name, entry, source):
                _write_shard(fresh / name, panoramas, schema)
                entry = _entry(fresh / name, source, panoramas)
                written += 1
                lock.check()
                if storage.is_remote(folder):  # this machine may not have room for all of them
                    storage.put(fresh / name, data / name)
            entries[name] = entry
        shards = sorted(fresh.iterdir())
        write_json(fresh / manifest.name, entries)
        lock.check()
        for path in shards:  # nothing needs space any more
            storage.put(path, data / path.name)
        if entries != known:  # else its time stays: the preview page is current while it does
            storage.put(fresh / manifest.name, manifest)
    names = storage.names(data)
    stale = [name for name in names if SHARD_NAME.fullmatch(name) and name not in plan]
    for name in stale:
        storage.remove(data / name)
    return written, len(stale)


@contextmanager
def _fresh(folder: Path) -> Iterator[Path]:
    """A folder for new shards, removed at the end: beside the old ones, or local for a store."""
    if storage.is_remote(folder):
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)
        return
    fresh = folder / ".fresh"
    (folder / "data").mkdir(parents=True, exist_ok=True)
    shutil.rmtree(fresh, ignore_errors=True)  # left by a pack that was killed
    fresh.mkdir()
    try:
        yield fresh
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _source(panoramas: Iterable[FinishedPanorama], schema: pa.Schema) -> str:
    """Hash of everything that decides a shard's bytes: rows, schema and version of Arrow."""
    text = json.dumps([pa.__version__, str(schema), [p.row_sha256 for p in panoramas]])
    return hashlib.sha256(text.encode()).hexdigest()


def _entry(shard: Path, source: str, panoramas: Sequence[FinishedPanorama]) -> dict[str, Any]:
    """A new shard's entry in the manifest."""
    sha256 = sha256_of(shard)
    return {
        "source": source,
        "panoramas": len(panoramas),
        "rows": [panorama.row_sha256[:ROW_DIGITS] for panorama in panoramas],
        "bytes": (size := shard.stat().st_size),
        "footer_sha256": footer_sha256(shard, size),
        "sha256": sha256,
    }


def _is_current(shard: Path, entry: Any, source: str) -> bool:
    """Whether a shard is complete and holds the planned rows, by its size and footer.

    The footer holds the offsets, sizes and image ids of all rows, so a truncated or exchanged file
    is noticed without reading gigabytes. `pipeline.verify` reads them.
    """
    try:
        complete = {"sha256", "rows", "panoramas"} <= entry.keys()
        planned = entry["source"] == source and entry["bytes"] == storage.size(shard)
        return (
            complete and planned and entry["footer_sha256"] == footer_sha256(shard, entry["bytes"])
        )
    except (KeyError, TypeError, AttributeError):  # an entry that `pack` did not write
        return False


def _write_shard(path: Path, panoramas: Iterable[FinishedPanorama], schema: pa.Schema) -> None:
    """Write one shard to disk, row by row.

    Images are compressed already, so their bytes are stored unchanged, without dictionary and
    statistics. All other columns are small and repetitive. Pages have checksums, so every reader
    can detect a flipped bit.
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
            write_page_checksum=True,
        ) as writer,
    ):
        for panorama in panoramas:
            writer.write_table(_table(panorama, schema), row_group_size=1)
        writer.close()
        file.flush()
        os.fsync(file.fileno())


def _table(panorama: FinishedPanorama, schema: pa.Schema) -> pa.Table:
    """One panorama as a table of one row."""
    folder = panorama.folder
    names = [ANNOTATED, *(IMAGE_FILES[name] for name in IMAGE_FILES if name in schema.names)]
    found = storage.read_many([folder / name for name in names])  # from a store, all together
    files = dict(zip(names, found, strict=True))
    for name, data in files.items():
        if data is None:
            raise UserError(damaged(folder, name))
    row = json.loads(files[ANNOTATED] or b"")
    sha256 = row.pop("summary")["sha256"]
    try:
        columns = {
            name: pa.array([row[name]] if name in row else [None], schema.field(name).type)
            for name in schema.names
            if name not in IMAGE_FILES
        }
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        columns = {}
    # Arrow fills missing fields with null and drops unknown ones
    if {name: column[0].as_py() for name, column in columns.items()} != row:
        raise DamagedFileError(f"{folder / 'row.json'} does not fit the schema; {remedy(folder)}")
    for name in IMAGE_FILES:
        if name in schema.names:
            file = IMAGE_FILES[name]
            data = files[file] or b""
            if hashlib.sha256(data).hexdigest() != sha256.get(file):
                raise UserError(damaged(folder, file))
            path = row["image_id"].replace("/", "-") + "-" + file
            columns[name] = pa.array([{"bytes": data, "path": path}], schema.field(name).type)
    return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)
