"""A store of this machine that the tests' process reaches without options."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import storage
from pipeline.storage import lease
from tests.storage.s3 import S3


@pytest.fixture(scope="package")
def server() -> Iterator[S3]:
    from s3fs import S3FileSystem

    with S3("runs") as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        S3FileSystem.clear_instance_cache()
        yield server
        S3FileSystem.clear_instance_cache()


@pytest.fixture
def store(server: S3) -> Iterator[S3]:
    """The server as S3 is; a test may change it."""
    lease._conditional.clear()
    server.conditions, server.down = True, False
    yield server
    server.conditions, server.down = True, False


@pytest.fixture
def address(store: S3) -> str:
    """An empty folder in the store."""
    return f"s3://{store.bucket}/{uuid.uuid4().hex}"


@pytest.fixture(params=["folder", "store"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An empty folder here, or in the store."""
    if request.param == "folder":
        return tmp_path / "root"
    return storage.open_path(request.getfixturevalue("address"))


@pytest.fixture
def quick_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.3)
    monkeypatch.setattr(lease, "LEASE_SECONDS", 2.0)
    monkeypatch.setattr(lease, "SETTLE_SECONDS", 0.2)
