"""Errors of the Hub and of the connection to it: transient, or to be reported to the user.

huggingface_hub repeats some requests for a few seconds; the waits here are for longer faults.
"""

from __future__ import annotations

import errno
import re

import httpx2
from huggingface_hub.errors import (
    BadRequestError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from pipeline.errors import UserError
from pipeline.storage import DISK_FULL

TRANSIENT_STATUS = {
    408: "the Hub timed out waiting for the request",
    409: "another commit is in progress",
    412: "the repository has changed",
    425: "the Hub is not ready",
    429: "too many requests",
    500: "the Hub has an internal error",
    502: "the Hub's gateway has an error",
    503: "the Hub is overloaded or under maintenance",
    504: "the Hub's gateway timed out",
}
"""HTTP status codes after which the request may succeed, once the repository was read again."""

TRANSIENT_ERRNO = (
    errno.ECONNRESET,
    errno.ECONNABORTED,
    errno.ECONNREFUSED,
    errno.EPIPE,
    errno.ETIMEDOUT,
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
)

WRAPPERS = (RuntimeError, LocalEntryNotFoundError)
"""Exceptions in which huggingface_hub wraps the cause of a failed upload or download."""

FIRST_WAITS = (1, 2, 5)
"""Seconds before each retry of the first request, while the user waits for an answer."""

WAITS = (1, 2, 5, 10, 30, 60, 120, 300)
"""Seconds before each retry. A successful commit restarts them."""


def transient_reason(error: BaseException) -> str | None:
    """The reason of a transient error; None if a retry is pointless."""
    if isinstance(error, OfflineModeIsEnabled):  # a ConnectionError, but set by the user
        return None
    if status := _xet_status(error):
        return TRANSIENT_STATUS.get(status, None if status < 500 else TRANSIENT_STATUS[500])
    if isinstance(error, WRAPPERS) and error.__cause__:
        return transient_reason(error.__cause__)
    if isinstance(error, HfHubHTTPError):
        return TRANSIENT_STATUS.get(error.response.status_code)
    if isinstance(error, httpx2.TimeoutException | TimeoutError):
        return "the connection timed out"
    if isinstance(error, httpx2.TransportError | ConnectionError):
        return "the connection failed"
    if isinstance(error, OSError) and error.errno in TRANSIENT_ERRNO:
        return "the connection failed"
    return None


def as_user_error(error: Exception, repo: str, endpoint: str) -> UserError | None:
    """The message to the user about an error; None for a bug of this project."""
    login = "set HF_TOKEN, or run .venv/bin/hf auth login"
    if isinstance(error, LocalTokenNotFoundError):
        return UserError(f"there is no token of the Hub; {login}")
    if isinstance(error, OfflineModeIsEnabled):
        return UserError("HF_HUB_OFFLINE is set; unset it to publish")
    if isinstance(error, HFValidationError):
        return UserError(f"REPO={repo} is not a repository name; write user/name")
    if isinstance(error, ValueError) and "Invalid metadata in README.md" in str(error):
        return UserError(f"the Hub rejects the card: {_one_line(str(error))}")
    if type(error) is FileNotFoundError:
        return UserError(f"{error.filename} is missing; run the same command again")
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return UserError("the disk is full; free some space and run the same command again")
    if reason := transient_reason(error):
        return UserError(
            f"{endpoint} does not work: {reason}; run the same command later, it resumes the upload"
        )
    if isinstance(error, UnicodeEncodeError):
        return UserError(f"the token has invalid characters; {login}")
    if isinstance(error, WRAPPERS) and isinstance(error.__cause__, Exception):
        return as_user_error(error.__cause__, repo, endpoint)
    forbidden = UserError(
        f"the token may not write to REPO={repo}; use a token with write permission, or choose "
        "another REPO"
    )
    if _xet_status(error) in (401, 403):
        return forbidden
    if not isinstance(error, HfHubHTTPError):
        return None
    status = error.response.status_code
    if isinstance(error, GatedRepoError) or status == 403:
        return forbidden
    if status == 401 and not isinstance(error, RepositoryNotFoundError):
        return UserError(f"the Hub does not accept the token; {login}")
    if isinstance(error, RepositoryNotFoundError):
        return UserError(f"REPO={repo} does not exist, or the token may not see it; {login}")
    message = _one_line(error.server_message or str(error))
    if isinstance(error, BadRequestError):
        return UserError(f"the Hub rejects the upload: {message}")
    return UserError(f"the Hub answers {status}: {message}")


def _xet_status(error: BaseException) -> int | None:
    """The HTTP status in an error of hf_xet, which raises ConnectionError for everything."""
    if type(error) is not ConnectionError:
        return None
    found = re.search(r"\b([45]\d\d) [A-Z]", str(error))
    return int(found[1]) if found else None


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
