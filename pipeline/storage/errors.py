"""Errors of folders and stores: which are transient, how long to retry, the message for the user.

The libraries behind fsspec raise exceptions of many classes, whose texts may hold signed URLs or
tokens. `user_error` is the only place that turns them into a line for the user, and it quotes class
names and error codes alone.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any, TypeVar

from pipeline.errors import UserError

RETRY_SECONDS = 600.0
"""How long a failing call is repeated by default: a store may be restarting."""

FIRST_WAIT, LONGEST_WAIT = 0.2, 15.0  # seconds between two tries; doubled from one to the next
REPORTED_WAIT = 3.0  # when waits reach this length, a line on stderr names the store

TRANSIENT = frozenset(
    (
        errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.ECONNRESET,
        errno.ECONNREFUSED, errno.ECONNABORTED, errno.EHOSTDOWN, errno.EHOSTUNREACH,
        errno.ENETDOWN, errno.ENETUNREACH, errno.EPIPE, getattr(errno, "EREMOTEIO", errno.EIO),
    )
)  # fmt: skip
"""Errors of a network file system or a connection that may end soon."""

DISK_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG)
"""Errors of writing that free space, a quota or a file-size limit would fix."""

PERMANENT = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError,
             NotADirectoryError, ImportError, UserError,
             AttributeError, LookupError, NotImplementedError, TypeError, ValueError)  # fmt: skip
"""Errors of a store that waiting does not fix."""

NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound")
"""Classes of botocore, which is not imported here."""

INVALID_ADDRESS = ("ParamValidationError",)
"""Classes of botocore for a bucket that cannot exist."""

Result = TypeVar("Result")


def is_remote(path: Path) -> bool:
    """Whether a path lies in a store that fsspec reaches."""
    return not isinstance(path, PurePath)


def retry(call: Callable[[], Result], path: Path, seconds: float | None = None) -> Result:
    """Call, and repeat the call while it fails with a transient error.

    Args:
        call: Must be harmless to repeat.
        path: The file or folder that the call uses; it decides which errors are transient.
        seconds: How long to retry; `RETRY_SECONDS` by default.

    Raises:
        UserError: The path lies in a store, and the store refuses or still fails.
    """
    seconds = RETRY_SECONDS if seconds is None else seconds
    end = time.monotonic() + seconds
    wait = FIRST_WAIT
    while True:
        try:
            return call()
        except Exception as error:
            if not is_transient(error, path) or time.monotonic() + wait > end:
                if is_remote(path) and is_of_store(error):
                    raise user_error(error, path) from None
                raise
            if wait >= REPORTED_WAIT > wait / 2:
                print(f"{_refusal(error, path)}; retrying for {seconds:.0f} s", file=sys.stderr)
        time.sleep(wait)
        wait = min(2 * wait, LONGEST_WAIT)


def is_transient(error: Exception, path: Path) -> bool:
    """Whether the same call may succeed later."""
    if isinstance(error, OSError):
        if error.errno in TRANSIENT:
            return True
        if error.errno in DISK_FULL:
            return False
    permanent = type(error).__name__ in NO_CREDENTIALS + INVALID_ADDRESS
    return is_remote(path) and not isinstance(error, PERMANENT) and not permanent


def is_of_store(error: Exception) -> bool:
    """Whether the store caused the error, not a missing file, a full local disk or our bug."""
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return False
    return isinstance(error, (PermissionError, ImportError)) or not isinstance(error, PERMANENT)


def user_error(error: Exception, path: Path) -> UserError:
    """The message for the user about an error of a file system or a store.

    Raise it `from None` where the path is remote: the chain may hold signed URLs.
    """
    where = show(path)
    if isinstance(error, UserError):
        return error
    if type(error).__name__ in NO_CREDENTIALS:
        return UserError(
            f"no credentials for {where} ({type(error).__name__}); set them as the tools of that "
            "store expect them (for S3: AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY)"
        )
    if not is_remote(path):
        return UserError(f"{_refusal(error, path)}; check the path and its permissions")
    if isinstance(error, FileNotFoundError):
        return UserError(
            f"{where} is missing, or hidden from you; check the address and your credentials"
        )
    if isinstance(error, PermissionError):
        return UserError(
            f"{where} may not be used with your credentials ({_code(error)}); log in to the store, "
            "or set the credentials that it asks for"
        )
    if isinstance(error, ImportError):
        return UserError(
            f"{where} needs a package that is not installed ({error.name or 'unknown'}); install "
            "with pip what fsspec needs for that store"
        )
    return UserError(
        f"{_refusal(error, path)}; check the address, the network and the store, then run the same "
        "command again"
    )


@contextmanager
def errors_as_user_error(path: Path) -> Iterator[None]:
    """Turn every error of reading a path that must exist into a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not is_remote(path) and not isinstance(error, OSError):
            raise
        raise user_error(error, path) from None


@contextmanager
def disk_full_as_user_error(message: str) -> Iterator[None]:
    """Turn a full disk into a UserError.

    Args:
        message: What had no room, and what to do; follows "the disk is full: ".
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise UserError(f"the disk is full: {message}") from error


def show(path: Path) -> str:
    """A path as messages show it: a URL without user, password and query."""
    text = str(path)
    if not is_remote(path):
        return text
    remote: Any = path
    protocol, slashes, rest = text.partition("://")
    host, slash, rest = rest.partition("/")
    host = host.rpartition("@")[2] or str(remote.storage_options.get("host", ""))
    if protocol in ("http", "https"):  # in the keys of stores a question mark is a letter
        host, rest = host.partition("?")[0], rest.partition("?")[0]
    return f"{protocol}{slashes}{host}{slash}{rest}"


def _refusal(error: Exception, path: Path) -> str:
    return f"{show(path)} cannot be used ({_code(error)})"


def _code(error: Exception) -> str:
    """A name for an error, without its text: its class, and a code of the system or the store."""
    name = type(error).__name__
    response = getattr(error.__cause__ or error, "response", None)  # of botocore
    if isinstance(response, dict):
        return f"{name}: {response.get('Error', {}).get('Code', 'unknown')}"
    if isinstance(error, OSError) and error.errno:
        return f"{name}: {os.strerror(error.errno)}"
    status = getattr(error, "status", None)  # of aiohttp
    return f"{name}: {status}" if isinstance(status, int) else name
