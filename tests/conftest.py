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

SLOW = (
    *("blender", "farm", "soak", "hub", "publish", "sap_model"),
    *("clusters/test_slurm.py", "clusters/test_hosts.py"),
    *("test_run_commands.py", "test_dataset_commands.py", "test_infinigen.py"),
)
"""Folders and files of tests that need Blender, Ray or minutes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the slow ones."""
    tests = Path(__file__).parent
    for item in items:
        if any(item.path.is_relative_to(tests / path) for path in SLOW):
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """An empty run."""
    return RunFolder(tmp_path / "out")
