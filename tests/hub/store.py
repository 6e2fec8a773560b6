"""What the test Hub keeps: blobs on disk, repositories, their commits and revisions."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from tests.hub.wire import Refusal

LFS_SUFFIXES = "7z arrow bin gz jpeg jpg mp4 npy npz parquet png tar tgz tiff webp zip zst"
"""Some of those that the Hub puts into a new dataset's .gitattributes."""

GITATTRIBUTES = "".join(
    f"*.{end} filter=lfs diff=lfs merge=lfs -text\n" for end in LFS_SUFFIXES.split()
)

LARGEST_REGULAR = 10 * 2**20
"""Larger files must be LFS whatever they hold, bytes."""


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()  # noqa: S324 (git's)


@dataclass(frozen=True)
class Upload:
    """Data that has arrived: an LFS object (key: its sha256), or a xorb or shard of Xet."""

    kind: str  # "lfs", "xorb" or "shard"
    key: str
    bytes: int
    new: bool  # False where it was there already, so that it was sent for nothing


class Blobs:
    """Contents by sha256, on disk; for those that came through Xet, also their Xet hash."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.xet_hashes: dict[str, str] = {}

    def __contains__(self, sha256: str) -> bool:
        return (self._folder / sha256).is_file()

    def __iter__(self) -> Iterator[str]:
        return (path.name for path in self._folder.iterdir() if len(path.name) == 64)

    def add(self, data: bytes, sha256: str) -> bool:
        """Keep a content, whole or not at all. Returns whether it is new.

        Raises:
            Refusal: The data has another sha256.
        """
        if hashlib.sha256(data).hexdigest() != sha256:
            raise Refusal(400, "the content does not have the sha256 it was announced with")
        if sha256 in self:
            return False
        scratch = self._folder / f"{sha256}.{threading.get_ident()}"
        scratch.write_bytes(data)
        scratch.replace(self._folder / sha256)
        return True

    def size(self, sha256: str) -> int:
        return (self._folder / sha256).stat().st_size

    def read(self, sha256: str, start: int = 0, length: int = -1) -> bytes:
        with open(self._folder / sha256, "rb") as file:
            file.seek(start)
            return file.read(length)


@dataclass(frozen=True)
class Entry:
    """A file in a commit: regular with its bytes, or LFS with the sha256 and size of its blob."""

    data: bytes = b""
    sha256: str = ""
    size: int = 0

    @property
    def oid(self) -> str:
        """Git's name of what git stores, which for LFS is the pointer."""
        return git_oid(self.pointer if self.sha256 else self.data)

    @property
    def pointer(self) -> bytes:
        lines = f"oid sha256:{self.sha256}\nsize {self.size}\n"
        return f"version https://git-lfs.github.com/spec/v1\n{lines}".encode()

    @property
    def etag(self) -> str:
        return self.sha256 or self.oid


@dataclass(frozen=True)
class Commit:
    """A commit and all files as they are after it."""

    oid: str
    title: str
    message: str
    parent: str
    date: str
    entries: dict[str, Entry] = field(repr=False)


@dataclass(eq=False)
class Repo:
    """A dataset repository. `commits` are in the order in which they came, on all branches."""

    name: str
    blobs: Blobs = field(repr=False)
    private: bool = False
    commits: list[Commit] = field(default_factory=list, repr=False)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def __post_init__(self) -> None:
        attributes = {".gitattributes": Entry(GITATTRIBUTES.encode(), size=len(GITATTRIBUTES))}
        self.branches["main"] = ""
        self.commit("main", attributes, "initial commit")

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """All files at a revision and their contents, .gitattributes among them."""
        entries = self.at(revision).entries
        return {path: self.read(entry) for path, entry in sorted(entries.items())}

    def read(self, entry: Entry, start: int = 0, length: int = -1) -> bytes:
        if entry.sha256:
            return self.blobs.read(entry.sha256, start, length)
        return entry.data[start:] if length < 0 else entry.data[start : start + length]

    def at(self, revision: str) -> Commit:
        """The commit that a branch, tag or hash names; RevisionNotFound where there is none."""
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        for commit in self.commits:
            if commit.oid == oid or (len(oid) >= 7 and commit.oid.startswith(oid)):
                return commit
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def history(self, revision: str) -> list[Commit]:
        """The commit and its ancestors, newest first."""
        commits = [self.at(revision)]
        while commits[-1].parent:
            commits.append(self.at(commits[-1].parent))
        return commits

    def last_change(self, revision: str, path: str) -> Commit:
        """The commit that made the file or folder at path what it is."""

        def state(commit: Commit) -> dict[str, str]:
            return {name: entry.oid for name, entry in under(commit.entries, path)}

        commits = self.history(revision)
        now = state(commits[0])
        older = next((i for i, commit in enumerate(commits) if state(commit) != now), len(commits))
        return commits[older - 1]

    def commit(
        self, branch: str, entries: dict[str, Entry], title: str, message: str = ""
    ) -> Commit:
        """Make these entries the branch's head."""
        parent = self.branches[branch]
        name = f"{self.name} {parent} {len(self.commits)} {title} {time.time_ns()}"
        oid = hashlib.sha1(name.encode()).hexdigest()  # noqa: S324 (as long as git's)
        commit = Commit(oid, title, message, parent, now(), entries)
        self.commits.append(commit)
        self.branches[branch] = oid
        return commit

    def is_lfs(self, path: str, sample: bytes, size: int, entries: dict[str, Entry]) -> bool:
        """Whether the Hub wants a new file as LFS: by .gitattributes, size, or binary content."""
        attributes = entries[".gitattributes"].data.decode() if ".gitattributes" in entries else ""
        patterns = re.findall(r"^(\S+)\s.*filter=lfs", attributes, re.MULTILINE)
        name = path.rsplit("/", 1)[-1]
        if any(fnmatch(name, pattern) or fnmatch(path, pattern) for pattern in patterns):
            return True
        return size > LARGEST_REGULAR or b"\0" in sample

    def describe(self, path: str, entry: Entry) -> dict[str, Any]:
        """A file as in the Hub's tree listings."""
        about: dict[str, Any] = {"type": "file", "oid": entry.oid, "size": entry.size, "path": path}
        if entry.sha256:
            about["lfs"] = {
                "oid": entry.sha256,
                "size": entry.size,
                "pointerSize": len(entry.pointer),
            }
            if entry.sha256 in self.blobs.xet_hashes:
                about["xetHash"] = self.blobs.xet_hashes[entry.sha256]
        return about


def under(entries: dict[str, Entry], path: str) -> Iterable[tuple[str, Entry]]:
    """The entry at path, or all in the folder path; everything for an empty path."""
    start = f"{path}/" if path else ""
    return [(name, e) for name, e in entries.items() if name == path or name.startswith(start)]


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
