"""Imported panoramas to shards, in the form that packing gives them.

OUT/
  data/<split>-NNNNN.parquet      one panorama per row group
  manifest.json                   as `pipeline.shards.writer` writes it
  import.json                     which importer wrote this, with which options, and what it found
  .importing/                     rows that are not in a shard yet; may be deleted

Importing the same files again changes nothing. A folder that is not an import's is refused.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline import __version__
from pipeline.errors import UserError
from pipeline.layout import read_json, write_atomic, write_json
from pipeline.shards.schema import IMAGE_FILES, SPLITS, make_schema
from pipeline.shards.splits import ROW_GROUP_BYTES, FinishedPanorama, cut_into_shards
from pipeline.shards.writer import SHARD_BYTES, update_shards
from pipeline.storage import disk_full_as_user_error, exclusive_lock
from sap_model.importers.annotated_row import PictureSource, make_row
from sap_model.importers.tally import Tally

_OURS = "import.json"
_STAGING = ".importing"


def store(
    out: Path,
    importer: str,
    options: dict[str, Any],
    sources: Iterable[PictureSource],
    *,
    min_area: int = 1,
    split: str = "validation",
    tally: Tally | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Tally:
    """Write the shards of a benchmark.

    Args:
        out: The folder to be.
        importer: Name of the importer.
        options: What decides its rows, in JSON types and without paths of this machine.
        sources: The panoramas, in the order of the rows to be.
        min_area: Objects with fewer pixels are left out.
        split: Of all rows: "validation" to score on them, "train" to train on them.
        tally: Counts so far, and whether what is damaged is skipped.
        shard_bytes: A shard grows up to this size.

    Returns:
        The tally, complete.

    Raises:
        UserError: OUT is somebody else's, there is no such split, or a file of the benchmark is
            missing or damaged and not skipped; shards that were there before are unchanged.
    """
    if split not in SPLITS:
        raise UserError(f"SPLIT={split} is no split; choose {' or '.join(SPLITS)}")
    _refuse_foreign(out, importer)
    tally = tally or Tally()
    options = {**options, "min_area": min_area}
    text = json.dumps([importer, options, __version__], sort_keys=True)
    settings_hash = hashlib.sha256(text.encode()).hexdigest()[:12]
    staging = out / _STAGING
    full = f"no room in {out}; the old shards are unchanged, free some space and import again"
    with disk_full_as_user_error(full), exclusive_lock(out / ".lock", "importing into") as lock:
        about = {"importer": importer, "options": options, "pipeline": __version__}
        write_json(out / _OURS, about)
        shutil.rmtree(staging, ignore_errors=True)  # of an import that was killed
        try:
            panoramas: list[FinishedPanorama] = []
            known: dict[str, Path] = {}
            for source in sources:
                try:
                    row, images = make_row(source, importer, settings_hash, min_area, tally)
                    if first := known.get(row["image_id"]):
                        raise UserError(
                            f"{first} and {source.picture} have the same name "
                            f"{row['image_id']}; rename one"
                        )
                except UserError as error:
                    tally.bad(str(error))
                    tally.leave_out("in pictures that were skipped", source.annotations)
                    continue
                known[row["image_id"]] = source.picture
                panoramas.append(_stage(staging / f"{len(panoramas):06d}", row, images))
                tally.instances += len(row["objects"])
                tally.sizes.update(thing["size"] for thing in row["objects"])
            if not panoramas:
                raise UserError(
                    f"no panorama of {len(tally.skipped)} could be imported, the first: "
                    f"{tally.skipped[0]}"
                    if tally.skipped
                    else "the benchmark holds no panorama to import; check its folder"
                )
            tally.panoramas = len(panoramas)
            plan = {
                f"{split}-{number:05d}.parquet": shard
                for number, shard in enumerate(cut_into_shards(panoramas, shard_bytes))
            }
            update_shards(out, plan, make_schema(), lock)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        write_json(out / _OURS, {**about, "split": split, **tally.to_json()})
    return tally


def _refuse_foreign(out: Path, importer: str) -> None:
    """UserError where OUT holds anything else than an earlier import of this kind.

    Writing removes shards that are not part of the new ones: never those of somebody else.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"{out} is a file; choose another folder")
    try:
        found = read_json(out / _OURS, f"choose another folder, or delete {out}")["importer"]
    except FileNotFoundError:
        if any(path.name not in (".lock", _STAGING) for path in out.iterdir()):
            raise UserError(f"{out} holds other files; choose a new or empty folder") from None
        return
    except KeyError:
        found = "something else"
    if found != importer:
        raise UserError(f"{out} was imported by {found}, not by {importer}; choose another folder")


def _stage(folder: Path, row: dict[str, Any], images: dict[str, bytes]) -> FinishedPanorama:
    """Write a row's files as an annotated panorama's, from which shards are packed."""
    for column, data in images.items():
        write_atomic(folder / IMAGE_FILES[column], data)
    write_json(folder / "row.json", row)
    text = (folder / "row.json").read_bytes()
    return FinishedPanorama(
        parent=folder.parent,
        name=folder.name,
        seed=0,
        size=len(text) + sum(map(len, images.values())) + ROW_GROUP_BYTES,
        row_digest=hashlib.sha256(text).digest(),
    )
