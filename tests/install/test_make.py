"""The Makefile's own decisions, without installing anything."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from pipeline.install.check import problems

ROOT = Path(__file__).parents[2]


def make(*arguments: str, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "-f", str(ROOT / "Makefile"), *arguments],
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
    )


def test_only_ray_address_is_taken_from_the_environment():
    shown = make("--dry-run", "render", RAY_ADDRESS="head:6379", WIDTH="512", OUT="elsewhere")
    assert "--ray-address 'head:6379'" in shown.stdout
    assert "--width" not in shown.stdout and "elsewhere" not in shown.stdout
    shown = make("--dry-run", "render", "RAY_ADDRESS=other:1", RAY_ADDRESS="head:6379")
    assert "--ray-address 'other:1'" in shown.stdout


def test_a_mistyped_extra_is_one_line_that_names_the_extras():
    refused = make("setup", "EXTRAS=render typo")
    assert refused.returncode == 2
    assert "unknown EXTRAS typo; choose from render hub test training" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert problems("typo") == ["unknown extra 'typo'; choose from render, hub, training, test"]


def test_a_half_made_environment_is_removed(tmp_path):
    """Debian's python3.11 without python3.11-venv leaves a .venv that has no pip."""
    python = tmp_path / "bin" / "python3.11"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\nmkdir -p .venv/bin; touch .venv/bin/python; exit 1\n")
    python.chmod(0o755)
    path = f"{python.parent}:{os.environ['PATH']}"
    failed = make(".venv/bin/python", cwd=tmp_path, PATH=path)
    assert failed.returncode == 2
    assert "apt-get install python3.11-venv" in failed.stdout
    assert not (tmp_path / ".venv").exists()
