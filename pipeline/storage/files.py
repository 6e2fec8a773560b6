"""Read, write, list and remove files of a folder or a store."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.errors import UserError
from pipeline.storage.errors import errors_as_user_error, is_remote, retry

URL = re.compile(r"(?P<protocol>[A-Za-z][A-Za-z0-9+.:-]*)://(?P<place>.*)", re.DOTALL)

CUT_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:(?=/[^/])")
"""What `Path("s3://bucket/run")` begins with; no drive of Windows, which is one letter."""

GLOB = frozenset("*?[")
"""Characters of a key that some functions of fsspec take for a pattern."""

READ_ONLY = ("http", "https")
"""Protocols that cannot write."""


@dataclass(frozen=True)
class Listing:
    """The content of a folder.

    Attributes:
        files: Sizes in bytes by name; None where the store does not report the size.
        folders: Names.
    """

    files: dict[str, int | None] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)


def open_path(
    address: str | Path,
    storage_options: Mapping[str, Any] | None = None,
    *,
    read_only: bool = False,
) -> Path:
    """The path at an address: a path of this machine (`~` is expanded) or a URL.

    Args:
        address: Path or URL; a path that `open_path` returned is returned as it is.
        storage_options: What fsspec gets besides the URL, such as `{"anon": True}`.
        read_only: Nothing will be written there, so that `https://` will do.

    Raises:
        UserError: The URL is incomplete, or its store needs a package that is not installed.
    """
    if not isinstance(address, str) and is_remote(address):
        return address
    text = os.fspath(address)
    if isinstance(address, Path) and (cut := CUT_URL.match(text)):
        raise UserError(f"{text} is a URL that pathlib has cut; pass {cut[0]}//... as text")
    match = URL.fullmatch(text)
    if match is None or match["protocol"] == "file":
        return _local_path(text.removeprefix("file://"))
    protocol, place = match["protocol"], match["place"]
    if not place.strip("/"):
        raise UserError(f"{text} names no bucket or folder; write {protocol}://bucket/folder")
    if protocol in READ_ONLY and not read_only:
        raise UserError(f"{protocol}:// can only be read; give a folder, or a store such as s3://")
    if protocol == "hf" and read_only:
        from pipeline.storage.hub import cached_snapshot

        if (cached := cached_snapshot(place)) is not None:
            return cached
    try:
        import fsspec
        from upath import UPath  # a second that most runs need not wait for

        fsspec.get_filesystem_class(protocol.split("::")[0])  # imports the store's package
        path: Any = UPath(text.rstrip("/"), use_listings_cache=False, **(storage_options or {}))
    except ImportError as error:
        raise UserError(
            f"{protocol}:// needs a package that is not installed ({error}); run make setup "
            "EXTRAS=hub, or install it with pip"
        ) from None
    except ValueError:
        raise UserError(
            f"fsspec knows no {protocol}://; use a folder, or a store such as s3://"
        ) from None
    return path


def _local_path(text: str) -> Path:
    """A path with `~` expanded; `./~` is a folder of that name."""
    expanded = os.path.expanduser(text)  # noqa: PTH111 - pathlib drops the ./ before it looks
    if text.startswith("~") and expanded == text:
        raise UserError(
            f"{text} begins with a user whose home is unknown; write the path in full, or "
            f"./{text} for a folder of that name"
        )
    path = Path(expanded)
    return path.absolute() if str(path).startswith("~") else path


def read_bytes(path: Path) -> bytes:
    """The content of a file; FileNotFoundError where there is none."""
    if not is_remote(path):
        return retry(path.read_bytes, path)
    store, key = store_of(path)
    return bytes(retry(lambda: store.cat_file(key), path))


def write_atomic(path: Path, data: bytes, seconds: float | None = None) -> None:
    """Write a file that is complete or does not exist, also after a power cut.

    Args:
        path: The file. Object stores show a file only after all of it was sent.
        data: Its content.
        seconds: How long to retry; `RETRY_SECONDS` by default.

    Raises:
        OSError: The disk is full or not writable; no partial file is left behind.
    """
    if is_remote(path):
        store, key = store_of(path)
        retry(lambda: store.pipe_file(key, data), path, seconds)
        return

    def write() -> None:
        with open_atomic(path) as file:
            file.write(data)

    retry(write, path, seconds)


@contextmanager
def open_atomic(path: Path) -> Iterator[BinaryIO]:
    """`write_atomic` for a file that is written in pieces: it appears when the block ends.

    Raises:
        OSError: The disk is full or not writable; no partial file is left behind.
    """
    if is_remote(path):
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder) / "file"
            with open(local, "wb") as file:
                yield file
            put(local, path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def put(local: Path, path: Path) -> None:
    """Move a local file to its place, where it appears complete."""
    if is_remote(path):
        store, key = store_of(path)
        retry(lambda: store.put_file(str(local), key), path)
    else:
        retry(lambda: _move(local, path), path)
    local.unlink(missing_ok=True)


def get(path: Path, local: Path) -> None:
    """Make a file readable at a local path: by a link, or by a download from a store."""
    local.parent.mkdir(parents=True, exist_ok=True)
    if not is_remote(path):
        retry(path.stat, path)  # raises FileNotFoundError now, not when the link is followed
        local.symlink_to(path.resolve())
        return
    store, key = store_of(path)
    retry(lambda: store.get_file(key, str(local)), path)


def exists(path: Path) -> bool:
    """Whether there is a file; in a store, folders do not count."""
    if not is_remote(path):
        return retry(path.exists, path)
    store, key = store_of(path)

    def is_file() -> bool:  # fsspec's `isfile` is False also where a store does not answer
        try:
            return bool(store.info(key)["type"] == "file")
        except FileNotFoundError:
            return False

    return retry(is_file, path)


def size(path: Path) -> int:
    """Bytes of a file; 0 where there is none."""

    def size_of() -> int:
        if not is_remote(path):
            return path.stat().st_size
        store, key = store_of(path)
        return int(store.info(key)["size"])

    try:
        return retry(size_of, path)
    except FileNotFoundError:
        return 0


def names(folder: Path) -> list[str]:
    """Names of the files and folders in a folder, unsorted; none where there is no such folder."""

    def listed() -> list[str]:
        if not is_remote(folder):
            return os.listdir(folder)  # noqa: PTH208 - half the time, and there may be many
        return [_name(entry) for entry in _entries(folder)]

    try:
        return retry(listed, folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def listing(folder: Path) -> Listing:
    """The content of a folder, with sizes; empty where there is no such folder.

    Raises:
        UserError: The folder cannot be read, or the store refuses or does not answer; without
            retries, because a user waits for the answer.
    """
    found = Listing()
    with errors_as_user_error(folder), suppress(FileNotFoundError, NotADirectoryError):
        if is_remote(folder):
            for entry in _entries(folder):
                if entry["type"] == "directory":
                    found.folders.add(_name(entry))
                else:
                    found.files[_name(entry)] = entry.get("size")
        else:
            with os.scandir(folder) as entries:
                for one in entries:
                    if one.is_dir():
                        found.folders.add(one.name)
                    elif one.is_file():  # not a link into a cache that was emptied
                        found.files[one.name] = one.stat().st_size
    return found


def remove(path: Path) -> None:
    """Remove a file if there is one."""

    def unlink() -> None:
        if is_remote(path):
            store, key = store_of(path)
            store.rm_file(key)
        else:
            path.unlink()

    with suppress(FileNotFoundError):
        retry(unlink, path)


def remove_folder(folder: Path, marker: str | None = None) -> None:
    """Remove a folder with its content, its marker first.

    Args:
        marker: Name of the file without which the folder counts as incomplete.
    """
    if marker is not None:
        remove(folder / marker)
    if not is_remote(folder):
        shutil.rmtree(folder, ignore_errors=True)
        return
    store, key = store_of(folder)

    def remove_all() -> None:
        if GLOB & set(key):  # `rm` would expand it, perhaps to other folders
            for file in store.find(key):
                store.rm_file(file)
        else:
            store.rm(key, recursive=True)

    with suppress(FileNotFoundError):
        retry(remove_all, folder)


def read_many(paths: Iterable[Path]) -> list[bytes | None]:
    """Read small files of one folder or store, from a store many at a time; None if missing."""
    paths = list(paths)
    if not paths or not is_remote(paths[0]):
        return [_read_or_none(path) for path in paths]
    store = store_of(paths[0])[0]
    keys = [store_of(path)[1] for path in paths]
    found = store.cat_ranges(keys, None, None, on_error="return")

    def content(path: Path, data: bytes | Exception) -> bytes | None:
        if isinstance(data, FileNotFoundError):
            return None
        return _read_or_none(path) if isinstance(data, Exception) else bytes(data)  # with retries

    return list(map(content, paths, found))


def store_of(path: Path) -> tuple[Any, str]:
    """fsspec's file system of a remote path, and the path in it.

    Looked up at each call: fsspec keeps one for each process, and connections do not survive a
    fork, by which torch's data loaders start their workers.
    """
    import fsspec

    remote: Any = path
    return fsspec.filesystem(remote.protocol, **remote.storage_options), remote.path.rstrip("/")


def _entries(folder: Path) -> list[dict[str, Any]]:
    """fsspec's entries of a remote folder, without the folder itself."""
    store, root = store_of(folder)
    store.invalidate_cache(root)  # stores of some protocols keep lists in spite of the option
    found = store.ls(root, detail=True)
    return [entry for entry in found if entry["name"].strip("/") != root.strip("/")]


def _name(entry: dict[str, Any]) -> str:
    return str(entry["name"]).rstrip("/").rpartition("/")[2]


def _read_or_none(path: Path) -> bytes | None:
    try:
        return read_bytes(path)
    except FileNotFoundError:
        return None


def _move(local: Path, path: Path) -> None:
    """Move within a file system, or copy to another one, atomically and durably."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(local, "rb") as file:
        os.fsync(file.fileno())
    try:
        os.replace(local, path)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with open(local, "rb") as source, open_atomic(path) as target:
            shutil.copyfileobj(source, target, 1 << 20)
