"""Fixtures for all tests."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from pipeline.outputs import RunFolder

# A script that starts the tests in its background has them ignore Ctrl-C, and so would every
# driver that they start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """An empty run."""
    return RunFolder(tmp_path / "out")
