"""Write `constraints.txt`: the version of every package in this environment (`make lock`)."""

from __future__ import annotations

from importlib.metadata import distributions
from pathlib import Path

SKIPPED = {"pip", "setuptools", "sam2", "sap-panorama"}
"""The tools, sam2 (pinned by hash in `sam2.txt`) and ourselves."""

HEADER = "# Every installed version, direct or not. Written by `make lock`; do not edit.\n"


def constraints() -> str:
    """The text of the file: `name==version` lines, local version labels (+cpu) left out."""
    pins = {
        dist.metadata["Name"].lower().replace("_", "-"): dist.version.split("+")[0]
        for dist in distributions()
    }
    lines = [
        f"{name}=={version}\n" for name, version in sorted(pins.items()) if name not in SKIPPED
    ]
    return HEADER + "".join(lines)


if __name__ == "__main__":
    (Path(__file__).parent / "constraints.txt").write_text(constraints())
