"""Where shards lie: a folder of this machine, or one that fsspec reaches (s3://, hf://, …).

A folder says what is in it, and opens its files for Arrow to read ranges of them. Nothing stays
open in between, and what is pickled holds no connection, so that folders may be sent to other
processes. fsspec comes with `make setup EXTRAS=hub` and is imported only where a URL asks for it.
"""

from __future__ import annotations

import errno
import importlib
import io
import os
import re
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from pipeline.errors import UserError

REQUESTS_AT_ONCE = 8
"""To a remote store; as many as Arrow has threads for reading."""

_CREDENTIALS = re.compile(r"(?<=://)[^/]*@|\?.*")
"""What may be secret in a URL: `user:password@` before the host, and the query."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Listing:
    """What a folder holds."""

    files: dict[str, int | None]  # sizes in bytes; None where the store does not tell
    folders: set[str]


class Folder(ABC):
    """A folder that may be read."""

    remote: bool
    remedy: str  # what the user can do about a file of it that is missing or damaged
    fill: str  # what the user can do about a folder without shards

    @property
    @abstractmethod
    def name(self) -> str:
        """The last part of its address."""

    @property
    @abstractmethod
    def parent(self) -> Folder:
        """The folder that it lies in."""

    @abstractmethod
    def folder(self, name: str) -> Folder:
        """A folder in it."""

    @abstractmethod
    def path(self, name: str = "") -> Path | str:
        """The address of a file, or its own: a path, or a URL without credentials."""

    @abstractmethod
    def listing(self) -> Listing:
        """What it holds; nothing if there is no such folder.

        Raises:
            UserError: The store refuses or does not answer.
        """

    @abstractmethod
    def open(self, name: str, size: int | None = None) -> pa.NativeFile:
        """A file to read ranges of.

        Args:
            name: Its name in this folder.
            size: Its size in bytes if that is known, which saves a question to a remote store.

        Raises:
            FileNotFoundError: There is none (of a local folder).
            UserError: The same, or that the store refuses or does not answer, of a remote one;
                some only when the file is read.
        """


def open_folder(
    address: Path | str, storage_options: Mapping[str, Any] | None = None
) -> LocalFolder | RemoteFolder:
    """The folder at a path or, if the address has `://` in it, at a URL.

    Args:
        address: Path or URL.
        storage_options: What fsspec is told besides the URL, such as `{"anon": True}`.
    """
    if isinstance(address, str) and "://" in address:
        return RemoteFolder(address.rstrip("/"), dict(storage_options or {}))
    return LocalFolder(Path(address))


@dataclass(frozen=True)
class LocalFolder(Folder):
    """A folder of this machine."""

    root: Path

    remote = False
    remedy = "pack the run again or download it again"
    fill = "pack the run or download them"

    @property
    def name(self) -> str:
        return self.root.name

    @property
    def parent(self) -> LocalFolder:
        return LocalFolder(self.root.parent)

    def folder(self, name: str) -> LocalFolder:
        return LocalFolder(self.root / name)

    def path(self, name: str = "") -> Path:
        return self.root / name

    def listing(self) -> Listing:
        found = Listing({}, set())
        try:
            with os.scandir(self.root) as entries:
                for entry in entries:
                    if entry.is_dir():
                        found.folders.add(entry.name)
                    elif entry.is_file():  # not a link into a cache that was emptied
                        found.files[entry.name] = entry.stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return Listing({}, set())
        except OSError as error:
            raise UserError(f"{self.root} cannot be read: {error.strerror}") from error
        return found

    def open(self, name: str, size: int | None = None) -> pa.NativeFile:
        return pa.OSFile(os.fspath(self.root / name))


@dataclass
class RemoteFolder(Folder):
    """A folder that fsspec reaches."""

    url: str
    storage_options: dict[str, Any] = field(default_factory=dict, repr=False)  # may hold secrets
    _connected: tuple[int, Any, str] | None = field(default=None, init=False, repr=False)

    remote = True
    remedy = "upload it again, or ask whoever published it"
    fill = "check the address"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_connected": None}

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def parent(self) -> RemoteFolder:
        return RemoteFolder(self.url.rpartition("/")[0], self.storage_options)

    def folder(self, name: str) -> RemoteFolder:
        return RemoteFolder(f"{self.url}/{name}", self.storage_options)

    def path(self, name: str = "") -> str:
        plain = _CREDENTIALS.sub("", self.url)
        return f"{plain}/{name}" if name else plain

    def listing(self) -> Listing:
        found = Listing({}, set())
        with self.told_to_the_user(""):
            store, root = self.connect()
            store.invalidate_cache(root)  # it may have been listed before something was uploaded
            try:
                entries = store.ls(root, detail=True)
            except FileNotFoundError:
                return found
            for entry in entries:
                name = entry["name"].rstrip("/").rpartition("/")[2]
                if entry["type"] == "directory":
                    found.folders.add(name)
                else:
                    found.files[name] = entry.get("size")
        return found

    def open(self, name: str, size: int | None = None) -> pa.NativeFile:
        if size is None:
            with self.told_to_the_user(name):
                store, root = self.connect()
                size = int(store.info(f"{root}/{name}")["size"])
        return pa.PythonFile(_RemoteFile(self, name, size), mode="r")

    def read_range(self, name: str, start: int, stop: int, size: int) -> bytes:
        """Bytes start … stop - 1 of a file of `size` bytes, in one request where possible."""
        with self.told_to_the_user(name):
            store, root = self.connect()
            path = f"{root}/{name}"
            if store.async_impl:  # asks for just this range, without asking for the size first
                try:
                    data = store.cat_file(path, start=start, end=stop)
                except OSError as error:
                    if error.errno != errno.EINVAL:
                        raise
                    data = b""  # s3fs says so where the file ends before the range
            else:
                # fsspec's other caches fetch megabytes beyond the range
                with store.open(path, "rb", cache_type="none", size=size) as file:
                    file.seek(start)
                    data = file.read(stop - start)
        if len(data) > stop - start:
            raise UserError(f"{self.path(name)} cannot be read in parts; download it first")
        return data

    def connect(self) -> tuple[Any, str]:
        """fsspec's file system, of this process, and the folder's path in it."""
        # connections do not survive a fork: torch's data loaders start their workers by one
        if self._connected is None or self._connected[0] != os.getpid():
            url_to_fs = importlib.import_module("fsspec.core").url_to_fs
            store, root = url_to_fs(self.url, **self.storage_options)
            self._connected = os.getpid(), store, root.rstrip("/")
        return self._connected[1:]

    @contextmanager
    def told_to_the_user(self, name: str) -> Iterator[None]:
        """Turn what goes wrong with the store into a UserError about a file of this folder.

        Stores raise exceptions of many libraries. Their texts are left out, and so is the chain of
        exceptions, because both may hold signed URLs or tokens.
        """
        where = self.path(name)
        try:
            yield
        except UserError:
            raise
        except FileNotFoundError:
            raise UserError(
                f"{where} is missing, or hidden from you; check the address and your credentials"
            ) from None
        except PermissionError:
            raise UserError(
                f"{where} may not be read with your credentials; log in to the store, or set the "
                "credentials that it asks for"
            ) from None
        except ImportError as error:
            raise UserError(
                f"{where} needs a package that is not installed ({error.name or error}); run make "
                "setup EXTRAS=hub, and install with pip what fsspec needs for other stores"
            ) from None
        except Exception as error:
            raise UserError(
                f"{where} cannot be read ({type(error).__name__}); check the address, the network "
                "and your credentials, then try again"
            ) from None


class _RemoteFile(io.RawIOBase):
    """A file of a remote folder, without any cache: Arrow asks for whole ranges."""

    def __init__(self, folder: RemoteFolder, name: str, size: int) -> None:
        super().__init__()
        self._folder, self._name, self._size, self._position = folder, name, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        start = min(self._position, self._size)
        stop = self._size if size < 0 else min(start + size, self._size)
        if start == stop:
            return b""
        data = self._folder.read_range(self._name, start, stop, self._size)
        self._position = start + len(data)
        return data


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], at_once: int
) -> Iterator[Result]:
    """`map(function, items)`, working on a few items ahead in as many threads.

    Args:
        function: What to do with each item.
        items: The items, which are asked for only when there is room for another.
        at_once: How many are worked on at a time; with 1 there are no threads.
    """
    if at_once == 1:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(at_once, thread_name_prefix="shards")
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) == at_once:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
