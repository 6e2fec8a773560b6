"""Borders that the architecture page promises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "module",
    ["pipeline.cli", "pipeline.farm.driver", "pipeline.farm.worker", "pipeline.shards.writer"],
)
def test_only_blender_processes_load_blender(module):
    code = f"import sys, {module}; sys.exit('bpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_the_tests_have_not_loaded_blender():
    assert "bpy" not in sys.modules, "what it changes in a process, Ray and drivers would inherit"
