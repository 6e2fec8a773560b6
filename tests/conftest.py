"""Fixtures for all tests. This folder is on the import path, so `import synthetic` works."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.outputs import RunFolder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """An empty run."""
    return RunFolder(tmp_path / "out")
