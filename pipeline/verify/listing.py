"""Which shards a dataset should have, and which it has."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.shards.contents import MANIFEST
from pipeline.shards.files import Folder, open_folder
from pipeline.shards.schema import SHARD_NAME
from pipeline.verify.findings import Finding


@dataclass(frozen=True)
class Listed:
    """What there is to verify.

    Attributes:
        data: The folder of the shards.
        shards: Names of those that are there, in order.
        manifest: What the manifest says of each; empty where there is none.
        findings: What is wrong with the list itself.
    """

    data: Folder
    shards: tuple[str, ...]
    manifest: dict[str, dict[str, Any]]
    findings: tuple[Finding, ...]


def list_dataset(address: Path | str) -> Listed:
    """List a dataset's shards and hold them against its manifest, or against their numbers.

    Unlike the reader this goes on where something is missing: verifying names all that is wrong.

    Args:
        address: The folder with data/ and manifest.json, or its data/; a path or a URL.

    Raises:
        UserError: There are no shards at all, or the folder cannot be read.
    """
    root = open_folder(address)
    listing = root.listing()
    data = root.folder("data") if "data" in listing.folders else root
    if data is root and root.name == "data":
        root, listing = root.parent, root.parent.listing()
    sizes = {n: s for n, s in data.listing().files.items() if SHARD_NAME.fullmatch(n)}
    findings: list[Finding] = []
    manifest = _read_manifest(root, findings) if MANIFEST in listing.files else {}
    if not sizes and not manifest:
        raise UserError(f"{data.path()} holds no shards to verify; {data.fill}")
    for name in sorted(set(manifest or _numbered(sizes)) - set(sizes)):
        findings.append(Finding("is missing", shard=name))
    if manifest:
        for name in sorted(set(sizes) - set(manifest)):
            findings.append(Finding("is not in the manifest", shard=name))
    for name, entry in manifest.items():
        told, found = entry.get("bytes"), sizes.get(name)
        if found is not None and found != told:
            findings.append(Finding(f"has {found} bytes, the manifest says {told}", shard=name))
    return Listed(data, tuple(sorted(sizes)), manifest, tuple(findings))


def _read_manifest(root: Folder, findings: list[Finding]) -> dict[str, dict[str, Any]]:
    try:
        with root.open(MANIFEST) as file:
            entries = json.loads(file.read())
        strange = [name for name in entries if not SHARD_NAME.fullmatch(name)]
        if strange or not all(isinstance(entry, dict) for entry in entries.values()):
            raise ValueError
        return entries
    except (ValueError, AttributeError, TypeError):
        findings.append(Finding(f"{MANIFEST} is damaged: no list of shards"))
        return {}


def _numbered(names: dict[str, Any]) -> set[str]:
    """The names that their highest numbers call for."""
    found = set()
    for name in names:
        split, number = name.removesuffix(".parquet").split("-")
        found |= {f"{split}-{other:05d}.parquet" for other in range(int(number))}
    return found
