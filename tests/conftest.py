"""Fixtures for all tests."""

from __future__ import annotations

import signal
from pathlib import Path

import hypothesis
import pytest

from pipeline.layout import RunFolder

# A script that starts the tests in its background has them ignore Ctrl-C, and so would every
# driver that they start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes on a busy machine says nothing about what it shows.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """An empty run."""
    return RunFolder(tmp_path / "out")
