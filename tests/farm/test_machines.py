"""Machines as people have them: long or missing TMPDIR, no home, other users, few open files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.farm.cluster import LONGEST_SOCKET, session_folder
from tests.errors import raises_user_error
from tests.farm.conftest import Farm

USER = 12345  # without a name, as in `docker run --user`


def long_folder(folder: Path) -> Path:
    """A folder as batch systems make it."""
    path = folder / "localscratch" / "someuser" / "job-12345678.batch-node"
    path.mkdir(parents=True)
    return path


def as_user(folder: Path) -> list[str]:
    """Prefix that runs a command as another user, who owns a folder.

    The user may read this checkout wherever it lies, but write only where any user may.
    """
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("another user needs root and setpriv")
    for path in (folder, *folder.rglob("*")):
        os.chown(path, USER, USER)
    read_anything = ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]
    return ["setpriv", "--reuid", str(USER), "--regid", str(USER), "--clear-groups", *read_anything]


@pytest.fixture
def no_parents(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_TMPDIR", "TMPDIR", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_parents")
def test_session_folder_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    with session_folder() as folder:
        assert folder.parent.parent == Path("/tmp")
        assert folder.parent.stat().st_mode & 0o077 == 0  # other users reach no socket
    assert not folder.parent.exists()


@pytest.mark.usefixtures("no_parents")
@pytest.mark.parametrize("kind", ["long", "missing", "a file"])
def test_unusable_tmpdir_is_replaced(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = long_folder(tmp_path)
    (tmp_path / "file").touch()
    paths = {"long": long, "missing": tmp_path / "none", "a file": tmp_path / "file"}
    monkeypatch.setenv("TMPDIR", str(paths[kind]))
    with session_folder() as folder:
        assert folder.parent.parent == Path("/tmp")
        assert len(str(folder.parent / LONGEST_SOCKET)) <= 107
    assert not list(long.iterdir())


@pytest.mark.usefixtures("no_parents")
def test_without_a_usable_folder_tmpdir_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(long_folder(tmp_path)))
    monkeypatch.setattr("pipeline.farm.cluster.SHORT_FOLDERS", (str(tmp_path / "none"),))
    with raises_user_error("TMPDIR: AF_UNIX path too long", "set TMPDIR"), session_folder():
        pass


def succeeds(farm: Farm, **options: Any) -> None:
    driver = farm.driver(1, **options)
    output = driver.communicate(timeout=240)[0]
    assert driver.returncode == 0, output
    assert farm.run.scene("spheres-0000000000").done.exists()


def test_long_tmpdir_few_files_and_no_home(farm: Farm, tmp_path: Path) -> None:
    env = {"TMPDIR": str(long_folder(tmp_path)), "HOME": "/nonexistent"}
    succeeds(farm, env=env, prefix=["sh", "-c", 'ulimit -n 256 && exec "$0" "$@"'])


def test_user_without_a_name_a_home_or_a_tmpdir(farm: Farm) -> None:
    """Ray's default folder /tmp/ray belongs to root."""
    ray = Path("/tmp/ray")
    made = not ray.exists()
    ray.mkdir(mode=0o755, exist_ok=True)
    try:
        env = {"TMPDIR": "/nonexistent", "HOME": None, "USER": None, "LOGNAME": None}
        succeeds(farm, env=env, prefix=as_user(farm.folder))
    finally:
        if made:
            ray.rmdir()
