"""What publishing would change: local files against those of the repository. No network.

A published dataset only ever grows at its end: packing adds shards and rewrites at most the last
one of each split. So a repository whose other shards are not ours, byte for byte, is another
dataset, and is refused rather than overwritten.

What readers see is decided by two files, README.md (its `configs` list the shards) and
manifest.json. New shards may therefore arrive in several commits; everything that replaces
something, and these two files, come in the last one. Whoever reads before it sees the old dataset,
afterwards the new one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline.errors import UserError
from pipeline.shards.schema import SHARD_NAME

COMMIT_FILES = 100
"""The Hub asks for no more than 50 to 100 files in one commit."""

OURS = re.compile(rf"data/{SHARD_NAME.pattern}|figures/[a-z_]+\.(png|jpg)")
"""Files that are removed when the dataset no longer has them; all others stay."""

UNBEGUN = {".gitattributes", "README.md", "LICENSE"}
"""What a repository made on the Hub's own pages holds."""


@dataclass(frozen=True)
class LocalFile:
    """A file to publish.

    Attributes:
        name: Its path in the repository.
        path: Where it lies.
        sha256: Hash of its content.
    """

    name: str
    path: Path
    sha256: str

    @cached_property
    def size(self) -> int:
        return self.path.stat().st_size

    @cached_property
    def git_sha1(self) -> str:
        """The name that Git gives a file which is not in large file storage."""
        data = self.path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@dataclass(frozen=True)
class RemoteFile:
    """A file of the repository; one in large file storage has a sha256, others a git_sha1."""

    name: str
    size: int
    sha256: str | None
    git_sha1: str | None

    def holds(self, local: LocalFile) -> bool:
        """Whether its content is that of the local file."""
        if self.sha256:
            return self.sha256 == local.sha256
        return self.size == local.size and self.git_sha1 == local.git_sha1


@dataclass(frozen=True)
class Plan:
    """What is different."""

    added: tuple[LocalFile, ...]
    changed: tuple[LocalFile, ...]
    removed: tuple[str, ...]
    unchanged: tuple[LocalFile, ...]

    @property
    def is_done(self) -> bool:
        return not (self.added or self.changed or self.removed)

    @property
    def bytes(self) -> int:
        """Size of the files to send."""
        return sum(file.size for file in (*self.added, *self.changed))

    def commits(self, max_files: int = COMMIT_FILES) -> list[list[LocalFile]]:
        """The files of each commit. Removals belong to the last one."""
        new = [file for file in self.added if is_shard(file.name)]
        others = [file for file in self.added if not is_shard(file.name)]
        batches = [new[i : i + max_files] for i in range(0, len(new), max_files)] or [[]]
        return [*batches[:-1], [*batches[-1], *self.changed, *others]]


def local_files(folders: Mapping[str, Path], shards: Mapping[str, str]) -> list[LocalFile]:
    """All files of a dataset, by name.

    Args:
        folders: Path in the repository to a local file or folder, hidden files left out.
        shards: sha256 of each shard, as verified, by file name.

    Raises:
        UserError: One of them is missing.
    """
    found = []
    for name, path in folders.items():
        if path.is_dir():
            found += [
                (f"{name}/{file.relative_to(path).as_posix()}".lstrip("/"), file)
                for file in sorted(path.rglob("*"))
                if file.is_file() and not file.name.startswith(".")
            ]
        elif path.is_file():
            found.append((name, path))
        else:
            raise UserError(f"{path} is missing; run the same command again")
    files = []
    for name, path in sorted(found):
        if is_shard(name):
            if path.name not in shards:  # somebody else's file beside ours
                continue
            sha256 = shards[path.name]
        else:
            sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        files.append(LocalFile(name, path, sha256))
    return files


def make_plan(local: Iterable[LocalFile], remote: Iterable[RemoteFile]) -> Plan:
    """Compare; nothing is decided here about whether it may be done."""
    there = {file.name: file for file in remote}
    here = {file.name: file for file in local}
    return Plan(
        added=tuple(file for name, file in here.items() if name not in there),
        changed=tuple(
            file for name, file in here.items() if name in there and not there[name].holds(file)
        ),
        removed=tuple(n for n in sorted(there) if OURS.fullmatch(n) and n not in here),
        unchanged=tuple(
            file for name, file in here.items() if name in there and there[name].holds(file)
        ),
    )


def refuse_foreign(
    plan: Plan, remote: Iterable[RemoteFile], manifest: Iterable[str] | None, repo: str
) -> None:
    """Refuse to write into a repository that does not hold this dataset's earlier state.

    Args:
        plan: What would be changed.
        remote: The repository's files.
        manifest: The shards that its manifest names; None where it has no (readable) one.
        repo: Its name, for the message.

    Raises:
        UserError: It holds something else.
    """
    names = {file.name for file in remote}
    shards = {name for name in names if is_shard(name)}
    # without a manifest, the shards are those of a first upload that was interrupted; with one,
    # those that it does not name are of an interrupted later one, and nobody sees them yet
    seen = shards if manifest is None else {f"data/{name}" for name in manifest}
    may_grow = {max(s for s in seen if s.startswith(split)) for split in set(map(_split, seen))}
    changed = {file.name for file in plan.changed} - may_grow
    foreign = sorted(seen & (changed | set(plan.removed)))
    other = "choose another REPO, or give REPLACE=1 to replace what it holds"
    if foreign:
        raise UserError(
            f"{repo} holds another dataset: {len(foreign)} of its {len(shards)} shards are not "
            f"those of this run, {foreign[0]} first; {other}"
        )
    if manifest is None and names - UNBEGUN - shards:
        raise UserError(
            f"{repo} holds files that were not published from here, such as "
            f"{min(names - UNBEGUN - shards)}; {other}"
        )


def describe(plan: Plan) -> Iterator[str]:
    """What would change, a line for each file."""
    for sign, files in (("+", plan.added), ("~", plan.changed)):
        for file in files:
            yield f"{sign} {file.name}  {readable(file.size)}"
    for name in plan.removed:
        yield f"- {name}"
    if plan.unchanged:
        size = readable(sum(file.size for file in plan.unchanged))
        yield f"= {len(plan.unchanged)} files are there already ({size})"
    if plan.is_done:
        yield "nothing to send"
    else:
        yield f"{readable(plan.bytes)} to send in {_count(len(plan.commits()), 'commit')}"


def readable(size: float) -> str:
    """
    >>> readable(1536)
    '1.5 KiB'
    """
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def is_shard(name: str) -> bool:
    """Whether a path in the repository is that of a shard."""
    return bool(re.fullmatch(rf"data/{SHARD_NAME.pattern}", name))


def _split(name: str) -> str:
    """`data/train-` of `data/train-00000.parquet`."""
    return name.rpartition("-")[0] + "-"
