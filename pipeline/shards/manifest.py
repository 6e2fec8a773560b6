"""The shards of a folder: those that its manifest names, or else those that are numbered.

Folder and manifest may come from strangers. Names that do not follow our pattern are refused, so
no path leads out of the folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import storage
from pipeline.errors import UserError
from pipeline.layout import DamagedFileError
from pipeline.shards.schema import SHARD_NAME
from pipeline.storage.ranges import open_ranges

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Shard:
    """A shard, and what is known about it before it is opened; None is unknown.

    Attributes:
        name: Its file's name, such as `train-00000.parquet`.
        bytes: Its size.
        rows: The number of its panoramas.
        footer_sha256: Hash of its Parquet footer.
        sha256: Hash of the file.
        row_hashes: Hash of the source of each row, by which a grown shard is recognised.
    """

    name: str
    bytes: int | None
    rows: int | None = None
    footer_sha256: str | None = None
    sha256: str | None = None
    row_hashes: tuple[str, ...] | None = None


@dataclass(frozen=True)
class DatasetFiles:
    """Where the files of a dataset lie.

    Attributes:
        data: The folder of the shards.
        sizes: Bytes of each shard in it, by name; None where the store does not report the size.
        manifest: The manifest, if there is one, and `manifest_bytes`, its size if known.
    """

    data: Path
    sizes: dict[str, int | None]
    manifest: Path | None
    manifest_bytes: int | None


def find_shards(folder: Path, split: str | None) -> tuple[Path, list[Shard]]:
    """The shards of a dataset and the folder that they lie in.

    Args:
        folder: The folder with data/ and manifest.json, or its data/, or a run's OUT.
        split: Only this split; all splits where it is None.

    Returns:
        The folder of the shards, and the shards in order.

    Raises:
        UserError: There are none; or one is missing or has another size than the manifest says.
    """
    found = locate_dataset(folder)
    if found.manifest is not None:
        shards = read_manifest(found.manifest, found.manifest_bytes)
    else:
        shards = [Shard(name, found.sizes.get(name)) for name in expected_names(found.sizes)]
    shards = [shard for shard in shards if split is None or shard.name.startswith(f"{split}-")]
    if not shards:
        raise UserError(nothing_in(found.data, f"{split} shards" if split else "shards"))
    for shard in shards:
        if shard.name not in found.sizes:
            path = found.data / shard.name
            raise UserError(f"{storage.show(path)} is missing; {remedy(path)}")
        check_size(found.data, shard, found.sizes[shard.name])
    return found.data, shards


def locate_dataset(folder: Path) -> DatasetFiles:
    """Where the shards and the manifest of a dataset lie.

    Raises:
        UserError: The folder cannot be read.
    """
    content = storage.listing(folder)
    if "data" not in content.folders and "shards" in content.folders:  # a run's OUT
        folder = folder / "shards"
        content = storage.listing(folder)
    root, above = folder, content
    if "data" in content.folders:
        folder = folder / "data"
        content = storage.listing(folder)
    elif folder.name == "data":
        root = folder.parent
        above = storage.listing(root)
    sizes = {name: size for name, size in content.files.items() if SHARD_NAME.fullmatch(name)}
    if folder.name != "data" or MANIFEST not in above.files:
        return DatasetFiles(folder, sizes, None, None)
    return DatasetFiles(folder, sizes, root / MANIFEST, above.files[MANIFEST])


def remedy(path: Path) -> str:
    """What the user can do about a file of a dataset that is missing or damaged."""
    if storage.is_remote(path):
        return "upload it again, or ask whoever published it"
    return "pack the run again or download it again"


def nothing_in(folder: Path, kind: str) -> str:
    """What the user reads about a folder without shards."""
    fix = "check the address" if storage.is_remote(folder) else "pack the run or download them"
    return f"{storage.show(folder)} holds no {kind}; {fix}"


def check_size(folder: Path, shard: Shard, found: int | None) -> None:
    """UserError where a shard has another size than expected, as far as both are known."""
    if None not in (found, shard.bytes) and found != shard.bytes:
        path = folder / shard.name
        raise UserError(
            f"{storage.show(path)} is truncated or changed: it has {found} bytes instead of "
            f"{shard.bytes}; {remedy(path)}"
        )


def expected_names(names: Iterable[str]) -> list[str]:
    """All names up to the last number of each split; files in between may be missing."""
    last: dict[str, int] = {}
    for name in names:
        split, number = name.removesuffix(".parquet").split("-")
        last[split] = max(last.get(split, 0), int(number))
    return [
        f"{split}-{number:05d}.parquet"
        for split in sorted(last)
        for number in range(last[split] + 1)
    ]


def read_manifest(path: Path, size: int | None = None) -> list[Shard]:
    """The shards that a manifest names, in order.

    Args:
        path: The manifest.
        size: Its bytes if known, which saves a request to a store.

    Raises:
        DamagedFileError: It is no manifest of ours.
    """
    with open_ranges(path, size) as file:
        shards = parse_manifest(file.read())
    if shards is None:
        raise DamagedFileError(
            f"{storage.show(path)} is damaged (no manifest of shards); {remedy(path)}"
        )
    return shards


def parse_manifest(data: bytes) -> list[Shard] | None:
    """The shards of a manifest's text, in order; None if it is no manifest."""
    try:
        entries = json.loads(data)
        shards = [_shard(name, entry) for name, entry in entries.items()]
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
    return sorted(shards, key=lambda shard: shard.name) or None


def _shard(name: str, entry: Mapping[str, Any]) -> Shard:
    """A shard of the manifest.

    Raises:
        ValueError, TypeError, AttributeError: The entry is not one that `pack` writes.
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
