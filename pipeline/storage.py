"""How files come to OUT and leave it: a folder of this machine, a shared one, or object storage.

A path of OUT is a `pathlib.Path`, or for a URL a `upath.UPath`, which has the same methods over
fsspec. What differs between them is in this module alone. Nothing here needs an object store to
rename or append: a file is written whole, and a folder of several files is complete when its marker
is there, which is written last and removed first.

A store that fails may only be restarting. Every function here tries again for `RETRY_SECONDS`
before it lets an error through; what is missing, or may not be used, is told at once.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import Any, BinaryIO, TypeVar

from pipeline.errors import UserError

RETRY_SECONDS = 600.0
FIRST_WAIT, LONGEST_WAIT = 0.2, 15.0  # seconds between two tries; doubled from one to the next
TOLD_WAIT = 3.0  # the wait from which on it is said that a store is being waited for

TRANSIENT = frozenset(
    (
        errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.ECONNRESET,
        errno.ECONNREFUSED, errno.ECONNABORTED, errno.EHOSTDOWN, errno.EHOSTUNREACH,
        errno.ENETDOWN, errno.ENETUNREACH, errno.EPIPE, errno.EREMOTEIO,
    )
)  # fmt: skip
"""Errors of a network file system or a connection that may pass by themselves."""

FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
"""Errors of a disk, this machine's in the case of a remote store."""

READ_ONLY = ("http", "https")
"""Protocols that nothing can be written by."""

NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound")
"""What botocore says of them; it is imported by nothing here."""

PERMANENT = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError,
           NotADirectoryError, ImportError, TypeError, ValueError, UserError)  # fmt: skip
"""What waiting does not fix, of a remote store, whose errors come from many libraries."""

Result = TypeVar("Result")


def open_path(address: str | Path) -> Path:
    """The path at an address; a URL where it has `://` in it.

    Raises:
        UserError: The URL's store needs a package that is not installed.
    """
    text = str(address)
    if "://" not in text or text.startswith("file://"):
        return Path(text.removeprefix("file://"))
    protocol, _, place = text.partition("://")
    if not place.strip("/"):
        raise UserError(f"{text} names no bucket or folder; write {protocol}://bucket/folder")
    if protocol in READ_ONLY:
        raise UserError(f"{text} can only be read; give a folder, or a store such as s3://")
    from upath import UPath  # a second that most runs need not wait for

    try:
        path = UPath(text.rstrip("/"), use_listings_cache=False, skip_instance_cache=False)
        path.fs  # noqa: B018 - imports the store's package
    except (ImportError, ValueError) as error:
        raise UserError(
            f'{text} cannot be used ({error}); run make setup EXTRAS="render hub", or install '
            "with pip what fsspec needs for that store"
        ) from None
    found: Any = path  # it has the methods of a Path, and is none
    return found


def is_remote(path: Path) -> bool:
    """Whether a path lies in a store that fsspec reaches."""
    return not isinstance(path, PurePath)


def retry(call: Callable[[], Result], path: Path, seconds: float | None = None) -> Result:
    """Call again and again while a store fails in a way that may pass.

    Args:
        call: Must be harmless to repeat.
        path: What it is about, which tells what kind of store it is.
        seconds: Seconds after which the error is let through; `RETRY_SECONDS` by default.

    Raises:
        UserError: A store that fsspec reaches wants credentials, and there are none; or it still
            fails.
    """
    seconds = RETRY_SECONDS if seconds is None else seconds
    end = time.monotonic() + seconds
    wait = FIRST_WAIT
    while True:
        try:
            return call()
        except Exception as error:
            if type(error).__name__ in NO_CREDENTIALS:
                raise UserError(
                    f"no credentials for {path} ({error}); set them as that store's own tools want "
                    "them (of S3: AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)"
                ) from None
            passing = may_pass(error, path)
            if passing and time.monotonic() + wait <= end:
                pass
            elif is_remote(path) and (passing or isinstance(error, PermissionError)):
                remedy = "see to its permissions and your credentials" if not passing else "wait"
                raise UserError(
                    f"{_refused(path, error)}; {remedy}, then run the same command again"
                ) from error
            else:
                raise
            if wait >= TOLD_WAIT > wait / 2:  # some seconds have gone by, and nobody knows why
                print(f"{_refused(path, error)}; trying for {seconds:.0f} s", file=sys.stderr)
        time.sleep(wait)
        wait = min(2 * wait, LONGEST_WAIT)


def _refused(path: Path, error: Exception) -> str:
    """What a store does not do that it was asked, for people."""
    said = (str(error).splitlines() or [""])[0][:200]
    return f"{path} cannot be used ({type(error).__name__}: {said})"


def may_pass(error: Exception, path: Path) -> bool:
    """Whether an error may be over in a while."""
    if isinstance(error, OSError):
        if error.errno in TRANSIENT:
            return True
        if error.errno in FULL:
            return False
    return is_remote(path) and not isinstance(error, PERMANENT)


def read_bytes(path: Path) -> bytes:
    """A whole file; FileNotFoundError where there is none."""
    return retry(path.read_bytes, path)


def write_atomic(path: Path, data: bytes, seconds: float | None = None) -> None:
    """Write a file so that it exists whole or not at all, also after a power cut.

    Args:
        path: Where; of a remote store one that shows a file when all of it was sent, as object
            stores do.
        data: What.
        seconds: As of `retry`.

    Raises:
        OSError: The disk is full or not writable; no partial file is left behind.
    """
    if is_remote(path):
        retry(lambda: path.write_bytes(data), path, seconds)
        return

    def write() -> None:
        with open_atomic(path) as file:
            file.write(data)

    retry(write, path, seconds)


@contextmanager
def open_atomic(path: Path) -> Iterator[BinaryIO]:
    """`write_atomic` for a file that is written piece by piece: it appears when the block ends.

    Raises:
        OSError: The disk is full or not writable; no partial file is left behind.
    """
    if is_remote(path):
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder) / path.name
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
    """Move a file of this machine to its place in OUT, where it appears whole."""
    if is_remote(path):
        store, key = _store(path)
        retry(lambda: store.put_file(str(local), key), path)
    else:
        retry(lambda: _move(local, path), path)
    local.unlink(missing_ok=True)


def get(path: Path, local: Path) -> None:
    """Have a file of OUT at a place on this machine, to be read: by a link where that will do."""
    local.parent.mkdir(parents=True, exist_ok=True)
    if not is_remote(path):
        path.stat()  # FileNotFoundError now, not when somebody follows the link
        local.symlink_to(path.resolve())
        return
    store, key = _store(path)
    retry(lambda: store.get_file(key, str(local)), path)


def exists(path: Path) -> bool:
    """Whether there is a file; of a remote store, never a folder."""
    if not is_remote(path):
        return retry(path.exists, path)
    store, key = _store(path)

    def there() -> (
        bool
    ):  # fsspec's own `isfile` takes a store that does not answer for a missing file
        try:
            return bool(store.info(key)["type"] == "file")
        except FileNotFoundError:
            return False

    return retry(there, path)


def size(path: Path) -> int:
    """Bytes of a file; 0 where there is none."""
    try:
        return retry(lambda: int(path.stat().st_size), path)
    except FileNotFoundError:
        return 0


def names(folder: Path) -> list[str]:
    """Names of what lies in a folder, unsorted; none where there is no such folder."""

    def listed() -> list[str]:
        if not is_remote(folder):
            return os.listdir(folder)  # noqa: PTH208 - half the time, and there may be many
        store, root = _store(folder)
        found = [name.rstrip("/") for name in store.ls(root, detail=False, refresh=True)]
        return [name.rpartition("/")[2] for name in found if name != root]

    try:
        return retry(listed, folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def remove(path: Path) -> None:
    """Remove a file if there is one."""
    with suppress(FileNotFoundError):
        retry(lambda: path.unlink(), path)


def remove_folder(folder: Path, marker: str | None = None) -> None:
    """Remove a folder with all that is in it, its marker first.

    Args:
        marker: Name of the file without which nobody takes the folder for complete.
    """
    if marker is not None:
        remove(folder / marker)
    if not is_remote(folder):
        shutil.rmtree(folder, ignore_errors=True)
        return
    store, key = _store(folder)
    with suppress(FileNotFoundError):
        retry(lambda: store.rm(key, recursive=True), folder)


def read_many(paths: Iterable[Path]) -> list[bytes | None]:
    """Small files of one store, None for what is missing; of a remote one, many at a time."""
    paths = list(paths)
    if not paths or not is_remote(paths[0]):
        return [_read_or_none(path) for path in paths]
    store = _store(paths[0])[0]
    keys = [_store(path)[1] for path in paths]
    found = retry(lambda: store.cat(keys, on_error="return"), paths[0])
    if not isinstance(found, dict):  # fsspec's answer for a single key
        found = {keys[0]: found}
    if any(
        isinstance(data, Exception) and not isinstance(data, FileNotFoundError)
        for data in found.values()
    ):
        return [_read_or_none(path) for path in paths]  # one by one, patiently
    return [data if isinstance(data := found.get(key), bytes) else None for key in keys]


def _store(path: Path) -> tuple[Any, str]:
    """fsspec's file system of a remote path, and the path in it."""
    remote: Any = path
    return remote.fs, str(remote.path).rstrip("/")


def _read_or_none(path: Path) -> bytes | None:
    try:
        return read_bytes(path)
    except FileNotFoundError:
        return None


def _move(local: Path, path: Path) -> None:
    """Move within a file system, or copy to another one; whole or not at all, on disk."""
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
