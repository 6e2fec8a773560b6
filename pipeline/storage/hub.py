"""Datasets of the Hugging Face Hub in the cache of this machine, filled by `hf download`.

With `HF_HUB_OFFLINE=1`, an address such as `hf://datasets/user/name@main/data` is read from that
cache, because fsspec's `hf://` always asks the Hub.
"""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.errors import UserError

KINDS = {"datasets": "dataset", "spaces": "space"}

PLACE = re.compile(
    r"(?:(?P<kind>datasets|spaces)/)?(?P<repo>[^/@]+/[^/@]+)"
    r"(?:@(?P<revision>refs/(?:convert|pr)/[^/]+|[^/]+))?(?:/(?P<inside>.*))?"
)
"""What follows `hf://`: kind of repository, its name, a revision, a path in it."""


def cached_snapshot(place: str) -> Path | None:
    """The local folder with the content of `hf://<place>`; None unless HF_HUB_OFFLINE is set.

    Raises:
        UserError: The cache does not hold the repository.
    """
    try:
        from huggingface_hub import constants, snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError:  # `open_path` reports that hf:// needs it
        return None
    if not constants.HF_HUB_OFFLINE:
        return None
    match = PLACE.fullmatch(place.strip("/"))
    if match is None:
        raise UserError(
            f"hf://{place} names no repository; write hf://datasets/user/name, with @revision and "
            "a path in it if needed"
        )
    revision = (match["revision"] or "").replace("%2F", "/") or None
    kind = KINDS.get(match["kind"] or "", "model")
    try:
        folder = snapshot_download(
            match["repo"], repo_type=kind, revision=revision, local_files_only=True
        )
    except LocalEntryNotFoundError:
        name = match["repo"] + (f" --revision {revision}" if revision else "")
        raise UserError(
            f"hf://{place} is not in this machine's cache, and HF_HUB_OFFLINE is set; run hf "
            f"download --repo-type {kind} {name} with a network first"
        ) from None
    return Path(folder, *(match["inside"] or "").split("/"))
