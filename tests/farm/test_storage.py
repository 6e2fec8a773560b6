"""Runs whose OUT lies on an S3 server of this machine: drivers, an outage, real Blender."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import storage
from pipeline.farm.attempt import read_attempts
from pipeline.farm.records import names_of
from pipeline.farm.run_lock import read_claim
from pipeline.layout import RunFolder
from tests.farm.proxy import Proxy
from tests.farm.ray_cluster import CHECKOUT, QUICK_RAY, Cluster, start_driver, wait_for
from tests.soak.__main__ import files_of, hashes
from tests.storage.s3 import S3

BUCKET = "farm"


@pytest.fixture(scope="module")
def store() -> Iterator[S3]:
    """An S3 that this process reaches too."""
    from s3fs import S3FileSystem

    with S3(BUCKET) as store, pytest.MonkeyPatch.context() as patch:
        for name, value in store.environment.items():
            patch.setenv(name, value)
        S3FileSystem.clear_instance_cache()
        yield store
        S3FileSystem.clear_instance_cache()


def new_address() -> str:
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture(scope="module")
def head() -> Iterator[Cluster]:
    with Cluster() as cluster:
        yield cluster


def plan(folder: Path, faults: dict) -> Path:
    """Faults of the fake Blender; returns the folder for scratch that goes with them."""
    (folder / "faults.json").write_text(json.dumps(faults))
    return folder / "out" / "scratch"


def test_drivers_on_a_store(store: S3, head: Cluster, tmp_path: Path) -> None:
    """A second driver is refused; after the first is killed, another keeps its work."""
    out = new_address()
    run = RunFolder(storage.open_path(out))
    scratch = plan(tmp_path, {"render1:1": "wait"})
    head.env = store.environment
    head.add()
    try:
        first = start_driver(head, out, 3, scratch=scratch)
        wait_for(lambda: names_of(run.done_folder) and run.scene(name(1)).is_rendered(0))
        second = start_driver(head, out, 3, scratch=scratch)
        said = second.communicate(timeout=120)[0]
        assert second.returncode == 1
        assert said.strip().splitlines()[-1].startswith(f"another process ({first.pid} on ")
        assert first.poll() is None
        claim = read_claim(run)
        assert claim is not None and claim.held and claim.pid == first.pid
        first.kill()
        first.communicate()
        (tmp_path / "go").touch()
        third = start_driver(head, out, 3, scratch=scratch)
        said = third.communicate(timeout=180)[0]
        assert third.returncode == 0, said
        assert names_of(run.done_folder) == {name(0), name(1), name(2)}
        assert [(one.reason, one.brought) for one in tried(run, 1, "render")] == [
            ("interrupted", 0),
            ("ok", 1),
        ]
        kept = {file for file in files_of(run.path) if name(0) in file}
        assert kept == {
            f"done/{name(0)}.json",
            f"scenes/{name(0)}/scene.json",
            *(f"scenes/{name(0)}/panoramas/{index}/row.json" for index in range(2)),
            *(
                f"scenes/{name(0)}/attempts/{stage}-1.{kind}"
                for stage in ("generate", "render", "annotate")
                for kind in ("json", "log")
            ),
        }
        assert not list(scratch.iterdir())
    finally:
        head.without_nodes()


def test_run_survives_an_outage_of_its_store(store: S3, head: Cluster, tmp_path: Path) -> None:
    """The run resumes automatically, and no attempt fails."""
    out = new_address()
    run = RunFolder(storage.open_path(out))
    scratch = plan(tmp_path, {"seconds": 0.5})
    with Proxy(int(store.url.rpartition(":")[2])) as proxy:
        head.env = store.environment | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}"}
        head.add()
        try:
            driver = start_driver(head, out, 5, scratch=scratch)
            wait_for(lambda: names_of(run.done_folder))
            proxy.off()
            time.sleep(1)
            before = files_of(run.path)
            time.sleep(20)
            assert files_of(run.path) == before  # nobody reaches it
            assert driver.poll() is None
            proxy.on()
            said = driver.communicate(timeout=240)[0]
            assert driver.returncode == 0, said
        finally:
            head.without_nodes()
    assert names_of(run.done_folder) == {name(seed) for seed in range(5)}
    ends = [one.reason for seed in range(5) for one in read_attempts(run.scene(name(seed)))]
    assert ends == ["ok"] * 15


def test_store_and_folder_give_the_same_shards(store: S3, tmp_path: Path) -> None:
    """Two scenes of real Blender each, by the command itself."""
    ran = {}
    for out in (str(tmp_path / "out"), new_address()):
        options = {"generator": "spheres", "profile": "draft", "width": 64, "panos": 1, "scenes": 2}
        options |= {"workers": 2, "render-cpus": 1, "scratch": tmp_path / "scratch", "out": out}
        arguments = [f"--{name}={value}" for name, value in options.items()]
        done = subprocess.run(
            [sys.executable, "-m", "pipeline", "render", *arguments],
            env={**os.environ, **QUICK_RAY},
            capture_output=True,
            text=True,
            cwd=CHECKOUT,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        ran[out] = RunFolder(storage.open_path(out))
        assert out in done.stdout.partition("look:")[2]
    folder, remote = ran.values()
    assert set(hashes(folder)) == {"train-00000.parquet"}
    assert hashes(remote) == hashes(folder)
    stored = {re.sub(r"\.lock\.\d+$", ".lock", file) for file in files_of(remote.path)}
    assert {file for file in files_of(folder.path) if not file.startswith(".")} == stored


def name(seed: int) -> str:
    return f"spheres-{seed:010d}"


def tried(run: RunFolder, seed: int, stage: str) -> list:
    return [one for one in read_attempts(run.scene(name(seed))) if one.stage == stage]
