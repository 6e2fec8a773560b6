"""Where the start-up files lie, and what they are held against."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from pipeline.config import Render
from pipeline.setting import options_of

ROOT = Path(__file__).parents[2]
CLUSTERS = ROOT / "pipeline" / "clusters"
SLURM = CLUSTERS / "slurm.sh"
BIN = Path(sys.executable).parent  # shellcheck and hadolint lie beside this Python
CONSTRAINTS = (ROOT / "pipeline" / "install" / "constraints.txt").read_text()
RAY_VERSION = re.search(r"^ray==(.*)$", CONSTRAINTS, re.MULTILINE)[1]
SETTINGS = set(options_of(Render))


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions with their arguments, lines joined, comments left out."""
    lines = (CLUSTERS / "Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#"))
    joined = text.replace("\\\n", " ").splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined if line)]


def workdir() -> str:
    return next(rest for word, rest in instructions() if word == "WORKDIR")
