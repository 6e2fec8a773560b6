"""Which shards a folder holds: as its manifest says, or else as their names count.

Both may come from strangers. A name that is not one of ours is refused, so that no path leads out
of the folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.errors import UserError
from pipeline.layout import DamagedFileError
from pipeline.shards.files import Folder
from pipeline.shards.schema import SHARD_NAME

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Shard:
    """A shard and what is known about it before it is opened; None is not known.

    Attributes:
        rows: How many panoramas it holds.
        footer_sha256, sha256: Hashes of its Parquet footer and of the whole file.
        row_hashes: What each row was packed from, so that a grown shard can be told from another.
    """

    name: str
    bytes: int | None
    rows: int | None = None
    footer_sha256: str | None = None
    sha256: str | None = None
    row_hashes: tuple[str, ...] | None = None


def find_shards(folder: Folder, split: str | None) -> tuple[Folder, list[Shard]]:
    """The shards of a dataset and the folder that they lie in.

    Args:
        folder: The folder with data/ and manifest.json, or its data/, or a run's OUT.
        split: Only this split; all of them where it is None.

    Returns:
        The folder of the shards, and the shards in order.

    Raises:
        UserError: There are none; or one is missing, or has not the size that the manifest says.
    """
    folder, present, manifest = locate_dataset(folder)
    if manifest is not None:
        shards = read_manifest(*manifest)
    else:
        shards = [Shard(name, present.get(name)) for name in expected_names(present)]
    shards = [shard for shard in shards if split is None or shard.name.startswith(f"{split}-")]
    if not shards:
        kind = f"{split} shards" if split else "shards"
        raise UserError(f"{folder.path()} holds no {kind}; {folder.fill}")
    for shard in shards:
        if shard.name not in present:
            raise UserError(f"{folder.path(shard.name)} is missing; {folder.remedy}")
        check_size(folder, shard, present[shard.name])
    return folder, shards


def locate_dataset(
    folder: Folder,
) -> tuple[Folder, dict[str, int | None], tuple[Folder, int | None] | None]:
    """The folder of the shards, their sizes, and the folder and size of the manifest if any."""
    listing = folder.listing()
    if "data" not in listing.folders and "shards" in listing.folders:  # a run's OUT
        folder = folder.folder("shards")
        listing = folder.listing()
    root, above = folder, listing
    if "data" in listing.folders:
        folder = folder.folder("data")
        listing = folder.listing()
    elif folder.name == "data":
        root = folder.parent
        above = root.listing()
    present = {name: size for name, size in listing.files.items() if SHARD_NAME.fullmatch(name)}
    has_manifest = folder.name == "data" and MANIFEST in above.files
    return folder, present, (root, above.files[MANIFEST]) if has_manifest else None


def check_size(folder: Folder, shard: Shard, found: int | None) -> None:
    """UserError where a shard has another size than it should have, as far as both are known."""
    if None not in (found, shard.bytes) and found != shard.bytes:
        raise UserError(
            f"{folder.path(shard.name)} is truncated or changed: it has {found} bytes instead of "
            f"{shard.bytes}; {folder.remedy}"
        )


def expected_names(names: Iterable[str]) -> list[str]:
    """The names up to the last number of each split: one in between may be missing."""
    last: dict[str, int] = {}
    for name in names:
        split, number = name.removesuffix(".parquet").split("-")
        last[split] = max(last.get(split, 0), int(number))
    return [
        f"{split}-{number:05d}.parquet"
        for split in sorted(last)
        for number in range(last[split] + 1)
    ]


def read_manifest(folder: Folder, size: int | None) -> list[Shard]:
    """The shards that a folder's manifest names, in order.

    Raises:
        DamagedFileError: It is no manifest of ours.
    """
    with folder.open(MANIFEST, size) as file:
        data = file.read()
    shards = parse_manifest(data)
    if shards is None:
        where = folder.path(MANIFEST)
        raise DamagedFileError(f"{where} is damaged (no manifest of shards); {folder.remedy}")
    return shards


def parse_manifest(data: bytes) -> list[Shard] | None:
    """The shards of a manifest's text, in order; None if it is something else."""
    try:
        entries = json.loads(data)
        shards = [_shard(name, entry) for name, entry in entries.items()]
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
    return sorted(shards, key=lambda shard: shard.name) or None


def _shard(name: str, entry: Mapping[str, Any]) -> Shard:
    """A shard of the manifest; what the manifest does not tell is not known.

    Raises:
        ValueError, TypeError, AttributeError: It is something else.
    """
    if not SHARD_NAME.fullmatch(name):
        raise ValueError(name)
    rows = entry.get("rows")
    shard = Shard(
        name,
        entry.get("bytes"),
        entry.get("panoramas"),
        entry.get("footer_sha256"),
        entry.get("sha256"),
        None if rows is None else tuple(map(str, rows)),
    )
    for number in (shard.bytes, shard.rows):
        if number is not None and (type(number) is not int or number < 1):
            raise ValueError(number)
    for text in (shard.footer_sha256, shard.sha256):
        if text is not None and not isinstance(text, str):
            raise ValueError(text)
    return shard
