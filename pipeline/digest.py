"""The hash of a file's content."""

from __future__ import annotations

import hashlib
from pathlib import Path

CHUNK = 2**20


def sha256_of(path: Path) -> str:
    """64 hex digits. Python 3.11 has `hashlib.file_digest`, and 3.10 has not."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
