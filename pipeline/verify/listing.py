"""Which shards a dataset should have, and which it has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UserError
from pipeline.layout import DamagedFileError
from pipeline.shards.files import Folder, open_folder
from pipeline.shards.manifest import MANIFEST, Shard, expected_names, locate_dataset, read_manifest
from pipeline.verify.findings import Finding


@dataclass(frozen=True)
class Listed:
    """What there is to verify.

    Attributes:
        data: The folder of the shards.
        shards: Those that are there, in order, with what the manifest says of them.
        findings: What is wrong with the list itself.
    """

    data: Folder
    shards: tuple[Shard, ...]
    findings: tuple[Finding, ...]


def list_dataset(address: Path | str, *, manifest_due: bool) -> Listed:
    """List a dataset's shards and hold them against its manifest, or against their numbers.

    Unlike the reader this goes on where something is missing: verifying names all that is wrong.

    Args:
        address: The folder with data/ and manifest.json, or its data/; a path or a URL.
        manifest_due: Whether a missing manifest is a finding.

    Raises:
        UserError: There are no shards at all, or the folder cannot be read.
    """
    data, sizes, manifest = locate_dataset(open_folder(address))
    findings: list[Finding] = []
    told: dict[str, Shard] = {}
    if manifest is not None:
        try:
            told = {shard.name: shard for shard in read_manifest(*manifest)}
        except DamagedFileError:
            findings.append(Finding(f"{MANIFEST} is damaged: no list of shards"))
    elif manifest_due:
        findings.append(Finding(f"{MANIFEST} is missing"))
    if not sizes and not told:
        raise UserError(f"{data.path()} holds no shards to verify; {data.fill}")
    for name in sorted(set(told or expected_names(sizes)) - set(sizes)):
        findings.append(Finding("is missing", shard=name))
    for name in sorted(set(sizes) - set(told)) if told else ():
        findings.append(Finding("is not in the manifest", shard=name))
    for name, shard in told.items():
        found = sizes.get(name)
        if found is not None and shard.bytes not in (None, found):
            text = f"has {found} bytes, the manifest says {shard.bytes}"
            findings.append(Finding(text, shard=name))
    shards = tuple(told.get(name) or Shard(name, sizes[name]) for name in sorted(sizes))
    return Listed(data, shards, tuple(findings))
