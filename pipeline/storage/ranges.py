"""Ranges of files for Arrow, which asks for the parts of a Parquet file that it needs."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path

import pyarrow as pa

from pipeline.errors import UserError
from pipeline.storage.errors import errors_as_user_error, is_remote, retry, show
from pipeline.storage.files import store_of

RETRY_SECONDS = 30.0
"""How long a range of a remote file is retried, so that training survives a short outage."""


def open_ranges(path: Path, size: int | None = None) -> pa.NativeFile:
    """Open a file to read ranges of it.

    Args:
        path: The file.
        size: Its size in bytes if that is known, which saves a request to a remote store.

    Raises:
        FileNotFoundError: There is none (of a local folder).
        UserError: The store refuses, does not answer or has no such file. Some of these errors are
            raised only when the file is read.
    """
    if not is_remote(path):
        return pa.OSFile(os.fspath(path))
    if size is None:
        with errors_as_user_error(path):
            store, key = store_of(path)
            size = int(store.info(key)["size"])
    return pa.PythonFile(_RemoteFile(path, size), mode="r")


def read_range(path: Path, start: int, stop: int, size: int) -> bytes:
    """Bytes start … stop - 1 of a remote file of `size` bytes, in one request where possible."""

    def read() -> bytes:
        store, key = store_of(path)
        if not store.async_impl:
            # fsspec's other caches fetch megabytes beyond the range
            with store.open(key, "rb", cache_type="none", size=size) as file:
                file.seek(start)
                return bytes(file.read(stop - start))
        try:  # asks for this range alone, without asking for the size first
            return bytes(store.cat_file(key, start=start, end=stop))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return b""  # s3fs raises it where the file ends before the range

    with errors_as_user_error(path):
        data = retry(read, path, RETRY_SECONDS)
    if len(data) > stop - start:
        raise UserError(f"{show(path)} cannot be read in parts; download it first")
    return data


class _RemoteFile(io.RawIOBase):
    """A file of a store, without a cache: Arrow asks for the ranges that it needs."""

    def __init__(self, path: Path, size: int) -> None:
        super().__init__()
        self._path, self._size, self._position = path, size, 0

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
        data = read_range(self._path, start, stop, self._size)
        self._position = start + len(data)
        return data
