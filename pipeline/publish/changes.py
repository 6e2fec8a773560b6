"""What publishing would change: local files against those of the repository. No network.

A published dataset only ever grows at its end: packing adds shards and rewrites at most the last
one of each split. The manifest lists the rows of every shard, by hash. So a repository whose rows
are not the beginning of ours is another dataset, and is refused rather than overwritten.

What readers see is decided by two files, README.md (its `configs` list the shards) and
manifest.json. New shards may therefore arrive in several commits; everything that replaces
something, and these two files, come in the last one. Whoever reads before it sees the old dataset,
afterwards the new one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline.errors import UserError
from pipeline.shards.manifest import Shard
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


def local_files(paths: Mapping[str, Path], shards: Mapping[str, str]) -> list[LocalFile]:
    """The files of a dataset, by name.

    Args:
        paths: Path in the repository to local file.
        shards: sha256 of each shard, as verified, by file name.

    Raises:
        UserError: One of them is missing.
    """
    files = []
    for name, path in sorted(paths.items()):
        try:
            known = shards.get(path.name) if is_shard(name) else None
            files.append(LocalFile(name, path, known or sha256_of(path)))
        except FileNotFoundError:
            raise UserError(f"{path} is missing; run the same command again") from None
    return files


def card_paths(card: Path) -> dict[str, Path]:
    """What of OUT/card is published: nothing but what writing the card makes."""
    figures = sorted((card / "figures").iterdir())
    names = ["README.md", "LICENSE", "statistics.json", *(f"figures/{f.name}" for f in figures)]
    return {n: card / n for n in names if "/" not in n or OURS.fullmatch(n)}


def sha256_of(path: Path) -> str:
    """Hash of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    remote: Iterable[RemoteFile],
    published: Sequence[Shard] | None,
    local: Iterable[LocalFile],
    packed: Sequence[Shard],
    repo: str,
) -> None:
    """Refuse to write into a repository that does not hold an earlier state of this dataset.

    Args:
        remote: The repository's files.
        published: The shards that its manifest names; None where it has no manifest of ours.
        local: Our files.
        packed: The shards that our manifest names.
        repo: Its name, for the message.

    Raises:
        UserError: It holds something else.
    """
    other = "choose another REPO, or give REPLACE=1 to write over it"
    if published is not None:
        ours = {shard.name: shard.row_hashes or () for shard in packed}
        for shard in published:
            rows = shard.row_hashes
            if rows is None or ours.get(shard.name, ())[: len(rows)] != rows:
                raise UserError(
                    f"{repo} holds another dataset: {shard.name} there is not the beginning of the "
                    f"one here; {other}"
                )
        return
    # no dataset yet, at most shards that were sent before an interruption
    here = {file.name: file for file in local}
    for file in remote:
        if file.name in UNBEGUN or (file.name in here and file.holds(here[file.name])):
            continue
        raise UserError(f"{repo} holds something else, such as {file.name}; {other}")


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
