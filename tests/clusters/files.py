"""Where the start-up files lie, and what they are held against."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import tomllib

ROOT = Path(__file__).parents[2]
CLUSTERS = ROOT / "pipeline" / "clusters"
SLURM = CLUSTERS / "slurm.sh"
BIN = Path(sys.executable).parent  # shellcheck and hadolint lie beside this Python
RAY_VERSION = next(
    line.removeprefix("ray==")
    for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    if line.startswith("ray==")
)
SETTINGS = set(
    re.search(r"^SETTINGS := ((?:.*\\\n)*.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    .replace("\\\n", " ")
    .split()
)


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions with their arguments, lines joined, comments left out."""
    lines = (CLUSTERS / "Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#"))
    joined = text.replace("\\\n", " ").splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined if line)]


def workdir() -> str:
    return next(rest for word, rest in instructions() if word == "WORKDIR")
