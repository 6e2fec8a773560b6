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
    "blender",
    "card",
    "clusters/test_hosts.py",
    "clusters/test_slurm.py",
    "docs",
    "export",
    "farm",
    "install/test_wheel.py",
    "preview",
    "publish",
    "sap_model/check_gpu",
    "sap_model/demo",
    "sap_model/evaluate",
    "sap_model/importers",
    "sap_model/model",
    "sap_model/predict",
    "sap_model/scan/test_torch_views.py",
    "sap_model/segment",
    "sap_model/test_clicks.py",
    "sap_model/test_commands.py",
    "sap_model/test_fake_gpu.py",
    "sap_model/test_threads.py",
    "sap_model/train",
    "shards/test_remote.py",
    "soak",
    "statistics",
    "storage",
    "test_dataset_commands.py",
    "test_fuzz.py",
    "test_infinigen.py",
    "test_run_commands.py",
    "verify",
)
"""What `make quick` leaves out: tests that need Blender, Ray or torch, or take long."""


FIRST = ("tests/farm", "tests/test_infinigen.py", "tests/sap_model/train")
"""The longest, started first, so that no worker is left alone with one at the end."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="leave out what needs Blender or Ray")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not even import the slow ones: torch alone takes seconds."""
    slow = any(collection_path == Path(__file__).parent / path for path in SLOW)
    return True if slow and config.getoption("quick") else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Group tests for `pytest --numprocesses 2 --dist loadgroup`.

    Tests of a folder share fixtures, so one process runs all of them. Tests that measure the
    seconds of a Ray cluster are one group, because two clusters at once would slow each other.
    """
    places = {}
    for item in items:
        path = item.path.relative_to(config.rootpath)
        folder = path.parent if path.parent != Path("tests") else path
        places[item] = "tests/farm" if folder.name in ("soak", "clusters") else folder.as_posix()
        item.add_marker(pytest.mark.xdist_group(places[item]))
    items.sort(key=lambda item: FIRST.index(places[item]) if places[item] in FIRST else len(FIRST))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """An empty run."""
    return RunFolder(tmp_path / "out")
