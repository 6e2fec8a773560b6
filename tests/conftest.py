"""Fixtures for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.outputs import RunFolder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """An empty run."""
    return RunFolder(tmp_path / "out")
