"""A seed decides a scene; the addresses that Python's objects get must not.

How one scene is compared draw by draw: `python -m tests.blender.draws`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def decisions(what: str, out: Path, jitter: int, **variables: str) -> list[dict[str, Any]]:
    """Stages of one scene, made in a fresh process, with what they drew."""
    command = [sys.executable, "-m", "tests.blender.draws", what, "7", str(out), str(jitter)]
    environment = {**os.environ, "PYTHONHASHSEED": "0", **variables}
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, env=environment)
    return [json.loads(line) for line in out.read_text().splitlines()]


@pytest.mark.parametrize("what", ["surfaces", "spheres"])
def test_a_seed_decides_every_draw(what, tmp_path):
    one = decisions(what, tmp_path / "one", jitter=1)
    folder = tmp_path / "another place"
    folder.mkdir()
    two = decisions(what, folder / "two", jitter=2, TZ="Asia/Tokyo", LC_ALL="C", TMPDIR=str(folder))
    assert sum(stage["draws"] for stage in one) > 10
    assert len(one[-1]["objects"]) > 10
    assert one == two
