"""What the Hub and the way to it answer when something is wrong: try again, or tell the user.

The one list of what passes by itself. huggingface_hub repeats some requests on its own for a few
seconds; the waits here are for what lasts longer.
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

PASSING_STATUS = {
    408: "the Hub waited too long for the request",
    409: "another commit is being made",
    412: "the repository changed meanwhile",
    425: "the Hub is not ready",
    429: "too many requests",
    500: "the Hub has an error",
    502: "the Hub cannot be reached behind its gateway",
    503: "the Hub is overloaded or under maintenance",
    504: "the Hub took too long to answer",
}
"""Answers after which the same thing may succeed, once the repository has been looked at anew."""

PASSING_ERRNO = (
    errno.ECONNRESET,
    errno.ECONNABORTED,
    errno.ECONNREFUSED,
    errno.EPIPE,
    errno.ETIMEDOUT,
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
)

WRAPPERS = (RuntimeError, LocalEntryNotFoundError)
"""What huggingface_hub hides the real error in, of an upload without Xet and of a download."""

FIRST_WAITS = (1, 2, 5)
"""Seconds before each further try of the first request: somebody is waiting for an answer."""

WAITS = (1, 2, 5, 10, 30, 60, 120, 300)
"""Seconds before each further try. A commit that succeeds starts them again."""


def passing(error: BaseException) -> str | None:
    """Why it may be worth trying again, in words; None if it is not."""
    if isinstance(error, OfflineModeIsEnabled):  # a ConnectionError, but the user's wish
        return None
    if status := _status_of_xet(error):
        return PASSING_STATUS.get(status, None if status < 500 else "the Hub has an error")
    if isinstance(error, WRAPPERS) and error.__cause__:
        return passing(error.__cause__)
    if isinstance(error, HfHubHTTPError):
        return PASSING_STATUS.get(error.response.status_code)
    if isinstance(error, httpx2.TimeoutException | TimeoutError):
        return "the connection timed out"
    if isinstance(error, httpx2.TransportError | ConnectionError):
        return "the connection failed"
    if isinstance(error, OSError) and error.errno in PASSING_ERRNO:
        return "the connection failed"
    return None


def explained(error: Exception, repo: str, endpoint: str) -> UserError | None:
    """The user's line about an error that does not pass; None for a fault of ours."""
    login = "set HF_TOKEN, or log in with: .venv/bin/hf auth login"
    if isinstance(error, LocalTokenNotFoundError):
        return UserError(f"the Hub needs a token that may write; {login}")
    if isinstance(error, OfflineModeIsEnabled):
        return UserError("HF_HUB_OFFLINE is set; unset it to publish")
    if isinstance(error, HFValidationError):
        return UserError(f"REPO={repo} is no name of a repository; write it as user/name")
    if isinstance(error, ValueError) and "Invalid metadata in README.md" in str(error):
        return UserError(f"the Hub refuses the card: {_one_line(str(error))}")
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return UserError("the disk is full; free some space and run the same command again")
    if reason := passing(error):
        return UserError(
            f"gave up on {endpoint}: {reason}; run the same command again later, what has arrived "
            "is not sent again"
        )
    if isinstance(error, UnicodeEncodeError):
        return UserError(f"your token holds letters that no token has; {login}")
    if isinstance(error, WRAPPERS) and isinstance(error.__cause__, Exception):
        return explained(error.__cause__, repo, endpoint)
    forbidden = UserError(
        f"your token may not write to {repo}; use a token with write permission for it, or "
        "choose another REPO"
    )
    if _status_of_xet(error) in (401, 403):
        return forbidden
    if not isinstance(error, HfHubHTTPError):
        return None
    status = error.response.status_code
    if isinstance(error, GatedRepoError) or status == 403:
        return forbidden
    if status == 401 and not isinstance(error, RepositoryNotFoundError):
        return UserError(f"the Hub does not accept your token; {login}")
    if isinstance(error, RepositoryNotFoundError):
        return UserError(f"{repo} does not exist or is hidden from your token; {login}")
    if isinstance(error, BadRequestError):
        return UserError(f"the Hub refuses what was sent: {_words(error)}")
    return UserError(f"the Hub answers {status}: {_words(error)}")


def _status_of_xet(error: BaseException) -> int | None:
    """The HTTP status in an error of hf_xet, which raises ConnectionError for everything."""
    if type(error) is not ConnectionError:
        return None
    found = re.search(r"\b([45]\d\d) [A-Z]", str(error))
    return int(found[1]) if found else None


def _words(error: HfHubHTTPError) -> str:
    """What the Hub itself says."""
    return _one_line(error.server_message or str(error))


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
