"""Compare local files with those of a repository. No network access.

A published dataset grows at its end only: packing adds shards, and rewrites at most the last shard
of each split. The manifest lists the hash of every row. So a repository whose rows are not the
beginning of the local rows holds another dataset, and is rejected rather than overwritten.

Two files decide what readers see: README.md, whose `configs` list the shards, and manifest.json.
New shards may therefore arrive in several commits. The last commit holds everything that replaces
a file, and these two. Before it, readers see the old dataset; after it, the new one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline.digest import sha256_of
from pipeline.errors import UserError
from pipeline.shards.manifest import Shard
from pipeline.shards.schema import SHARD_NAME
from pipeline.units import format_bytes, format_count

COMMIT_FILES = 100
"""The Hub recommends at most 50 to 100 files per commit."""

SHARD_PATH = re.compile(rf"data/{SHARD_NAME.pattern}")

PREVIEW_PATH = re.compile(rf"preview/{SHARD_NAME.pattern}")

MANAGED = re.compile(rf"{SHARD_PATH.pattern}|{PREVIEW_PATH.pattern}|figures/[a-z_]+\.(png|jpg)")
"""Files that are removed when the dataset no longer has them; other files stay."""

INITIAL_FILES = {".gitattributes", "README.md", "LICENSE"}
"""Files of a repository that was just created on the Hub's website."""


@dataclass(frozen=True)
class LocalFile:
    """A file to publish.

    Attributes:
        name: Its path in the repository.
        path: Its local path.
        sha256: Hash of its content.
    """

    name: str
    path: Path
    sha256: str

    @property
    def is_shard(self) -> bool:
        return bool(SHARD_PATH.fullmatch(self.name))

    @property
    def is_parquet(self) -> bool:
        """Whether it is a shard or a preview, which no reader sees before README.md names it."""
        return self.is_shard or bool(PREVIEW_PATH.fullmatch(self.name))

    @cached_property
    def size(self) -> int:
        return self.path.stat().st_size

    @cached_property
    def git_sha1(self) -> str:
        """Git's hash of a file outside large file storage."""
        data = self.path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository. Files in large file storage have a sha256, others a git_sha1."""

    name: str
    size: int
    sha256: str | None
    git_sha1: str | None

    def equals(self, local: LocalFile) -> bool:
        """Whether its content is that of the local file."""
        if self.sha256:
            return self.sha256 == local.sha256
        return self.size == local.size and self.git_sha1 == local.git_sha1


@dataclass(frozen=True)
class Changes:
    """The differences between local files and a repository."""

    added: tuple[LocalFile, ...]
    changed: tuple[LocalFile, ...]
    removed: tuple[str, ...]
    unchanged: tuple[LocalFile, ...]

    @property
    def is_empty(self) -> bool:
        return not (self.added or self.changed or self.removed)

    @property
    def bytes(self) -> int:
        """Size of the files to upload."""
        return sum(file.size for file in (*self.added, *self.changed))

    def commits(self, max_files: int = COMMIT_FILES) -> list[list[LocalFile]]:
        """The files of each commit. Removals belong to the last commit."""
        new = [file for file in self.added if file.is_parquet]
        others = [file for file in self.added if not file.is_parquet]
        batches = [new[i : i + max_files] for i in range(0, len(new), max_files)] or [[]]
        return [*batches[:-1], [*batches[-1], *self.changed, *others]]


def local_files(paths: Mapping[str, Path], shards: Mapping[str, str]) -> list[LocalFile]:
    """The files of a dataset, by name.

    Args:
        paths: Local paths by path in the repository.
        shards: sha256 of each verified shard, by file name.

    Raises:
        UserError: A file is missing.
    """
    files = []
    for name, path in sorted(paths.items()):
        try:
            verified = shards.get(path.name) if SHARD_PATH.fullmatch(name) else None
            files.append(LocalFile(name, path, verified or sha256_of(path)))
        except FileNotFoundError:
            raise UserError(f"{path} is missing; run the same command again") from None
    return files


def card_paths(card: Path) -> dict[str, Path]:
    """The files of OUT/card that are published: only those that belong to a card."""
    figures = sorted((card / "figures").iterdir())
    previews = sorted((card / "preview").iterdir()) if (card / "preview").is_dir() else []
    names = ["README.md", "LICENSE", "statistics.json", "croissant.json"]
    names += [f"figures/{f.name}" for f in figures] + [f"preview/{f.name}" for f in previews]
    return {n: card / n for n in names if "/" not in n or MANAGED.fullmatch(n)}


def compare(local: Iterable[LocalFile], remote: Iterable[RemoteFile]) -> Changes:
    """Compare local files with those of a repository, whether or not they may be replaced."""
    theirs = {file.name: file for file in remote}
    ours = {file.name: file for file in local}
    common = [file for name, file in ours.items() if name in theirs]
    return Changes(
        added=tuple(file for name, file in ours.items() if name not in theirs),
        changed=tuple(file for file in common if not theirs[file.name].equals(file)),
        removed=tuple(n for n in sorted(theirs) if MANAGED.fullmatch(n) and n not in ours),
        unchanged=tuple(file for file in common if theirs[file.name].equals(file)),
    )


def check_same_dataset(
    remote: Iterable[RemoteFile],
    published: Sequence[Shard] | None,
    local: Iterable[LocalFile],
    packed: Sequence[Shard],
    repo: str,
) -> None:
    """Check that a repository is empty, or holds an earlier state of this dataset.

    Args:
        remote: The repository's files.
        published: The shards in its manifest; None without a manifest of this project.
        local: The local files.
        packed: The shards in the local manifest.
        repo: The repository's name, for the message.

    Raises:
        UserError: It holds something else.
    """
    remedy = "choose another REPO, or set REPLACE=1 to overwrite it"
    if published is not None:
        rows = {shard.name: shard.row_hashes or () for shard in packed}
        for shard in published:
            count = len(shard.row_hashes or ())
            if shard.row_hashes is None or rows.get(shard.name, ())[:count] != shard.row_hashes:
                raise UserError(
                    f"REPO={repo} holds another dataset: {shard.name} has other rows; {remedy}"
                )
        return
    # no dataset yet; perhaps shards of an interrupted upload
    ours = {file.name: file for file in local}
    for file in remote:
        if file.name in INITIAL_FILES or (file.name in ours and file.equals(ours[file.name])):
            continue
        raise UserError(f"REPO={repo} holds other files, for example {file.name}; {remedy}")


def describe(changes: Changes) -> Iterator[str]:
    """The changes as text, one line per file."""
    for sign, files in (("+", changes.added), ("~", changes.changed)):
        for file in files:
            yield f"{sign} {file.name}  {format_bytes(file.size)}"
    for name in changes.removed:
        yield f"- {name}"
    if changes.unchanged:
        size = format_bytes(sum(file.size for file in changes.unchanged))
        yield f"= {format_count(len(changes.unchanged), 'file')} unchanged ({size})"
    if changes.is_empty:
        yield "nothing to upload"
    else:
        commits = format_count(len(changes.commits()), "commit")
        yield f"{format_bytes(changes.bytes)} to upload in {commits}"
