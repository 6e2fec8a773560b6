"""Faults of machines: on a real Ray cluster of several nodes, with the fake Blender."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipeline.farm.attempt import Attempt, AttemptSpec, Result, end_attempt, read_attempts
from pipeline.farm.child import Limits
from pipeline.farm.scheduler import ResourceRequest
from pipeline.farm.worker import PREFIX, run_attempt, sweep, workspace
from pipeline.layout import read_json
from pipeline.run_settings import to_json
from tests.farm.conftest import FAKE, SETTINGS, Farm
from tests.farm.fake_blender import SICK
from tests.farm.ray_cluster import Cluster, NodeHere, start_driver, wait_for

MIB = 2**20


@pytest.fixture(scope="module")
def head() -> Iterator[Cluster]:
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(head: Cluster) -> Iterator[Cluster]:
    """A cluster without nodes."""
    yield head
    head.without_nodes()


def name(seed: int) -> str:
    return f"spheres-{seed:010d}"


def tries(farm: Farm, seed: int, stage: str) -> list[Attempt]:
    scene = farm.run.scene(name(seed))
    return [one for one in read_attempts(scene) if one.stage == stage]


def ends(farm: Farm, seed: int, stage: str) -> list[str | None]:
    return [one.reason for one in tries(farm, seed, stage)]


def drive(farm: Farm, cluster: Cluster, scenes: int, **more: Any) -> subprocess.Popen[str]:
    return start_driver(cluster, farm.run.path, scenes, scratch=farm.run.scratch, **more)


def succeeds(driver: subprocess.Popen[str], seconds: float = 300) -> str:
    said = driver.communicate(timeout=seconds)[0]
    assert driver.returncode == 0, said
    return said


def node_at(farm: Farm, cluster: Cluster) -> NodeHere:
    """The node on which the first scene is rendered."""
    name = tries(farm, 0, "render")[-1].node
    return next(node for node in cluster.nodes if node.name == name)


def done(farm: Farm) -> set[str]:
    return {path.stem for path in farm.run.done_folder.glob("*.json")}


def files(farm: Farm) -> dict[str, int]:
    """Every file of OUT but logs and what is in scratch, with the time it was written."""
    return {
        str(path.relative_to(farm.run.path)): path.stat().st_mtime_ns
        for path in farm.run.path.rglob("*")
        if path.is_file() and path.suffix != ".log" and farm.run.scratch not in path.parents
    }


def test_scenes_of_a_killed_node_are_made_on_another(farm: Farm, cluster: Cluster) -> None:
    farm.plan({"render1:0": "hang 1"})
    cluster.add(cpus=1)
    cluster.add(cpus=1)
    driver = drive(farm, cluster, 3, attempts=1)  # the first failure that counts would be the last
    wait_for(lambda: farm.run.scene(name(0)).is_rendered(0))
    node = node_at(farm, cluster)
    node.kill()
    succeeds(driver)
    assert done(farm) == {name(0), name(1), name(2)}
    lost, made = tries(farm, 0, "render")
    assert (lost.reason, lost.node, lost.counted) == ("node", node.name, False)
    assert (made.reason, made.brought) == ("ok", 1)  # the first panorama was there already
    assert made.node != node.name
    assert not farm.run.failed_folder.exists()
    assert not farm.children()


def test_driver_without_a_node_says_what_it_waits_for(farm: Farm, cluster: Cluster) -> None:
    farm.plan({"render1:0": "hang 1"})
    node = cluster.add(cpus=1)
    driver = drive(farm, cluster, 2)
    said: list[str] = []
    reader = threading.Thread(target=lambda: said.extend(driver.stdout), daemon=True)
    reader.start()
    wait_for(lambda: farm.run.scene(name(0)).is_rendered(0))
    node.kill()
    wait_for(lambda: any("waiting: the cluster has no node with a CPU" in line for line in said))
    cluster.add(cpus=1)
    driver.wait(timeout=300)
    reader.join(timeout=10)
    assert driver.returncode == 0, said
    assert done(farm) == {name(0), name(1)}
    assert sum("waiting: the cluster" in line for line in said) == 1


def test_broken_node_costs_no_seed(farm: Farm, cluster: Cluster) -> None:
    """It is always the first free node."""
    sick = cluster.add(cpus=1, env={SICK: "1"})
    cluster.add(cpus=1)
    succeeds(drive(farm, cluster, 8, attempts=2))
    assert done(farm) == {name(seed) for seed in range(8)}
    failed = [seed for seed in range(8) if "crashed" in ends(farm, seed, "generate")]
    failed += [seed for seed in range(8) if "crashed" in ends(farm, seed, "render")]
    assert 1 <= len(failed) <= 4, "three, then it cools down; one may have begun before"
    for seed in range(8):
        tried = [one for stage in ("generate", "render") for one in tries(farm, seed, stage)]
        assert {one.node for one in tried if one.reason == "crashed"} <= {sick.name}
    assert not farm.run.failed_folder.exists()


def test_scene_that_kills_every_worker_is_quarantined(farm: Farm, cluster: Cluster) -> None:
    farm.plan({"generate:1": "kill-worker"})
    cluster.add(cpus=1)
    cluster.add(cpus=1)
    succeeds(drive(farm, cluster, 3))
    assert done(farm) == {name(0), name(2), name(3)}
    killed = tries(farm, 1, "generate")
    assert [one.reason for one in killed] == ["crashed"] * 3
    assert len({(one.pid, one.created) for one in killed}) == 3
    record = read_json(farm.run.scene(name(1)).failed)
    assert (record["reason"], record["reasons"]) == ("crashed", {"crashed": 3})
    assert "WorkerCrashed" in record["detail"]
    assert len(cluster.alive) == 2


def test_scene_that_kills_every_node_is_quarantined(farm: Farm, cluster: Cluster) -> None:
    farm.plan({"render:0": "kill-node"})
    cluster.add(cpus=1)
    driver = drive(farm, cluster, 2, nodes_lost=2)
    while driver.poll() is None:
        if len(cluster.alive) < 2:  # one CPU each, so that nobody else is hit
            cluster.add(cpus=1)
        time.sleep(0.2)
    succeeds(driver)
    assert done(farm) == {name(1), name(2)}
    assert ends(farm, 0, "render") == ["node", "node"]
    record = read_json(farm.run.scene(name(0)).failed)
    assert record["reason"] == "node"
    assert len(cluster.nodes) - len(cluster.alive) >= 2


def late_results_are_discarded(farm: Farm, driver: subprocess.Popen[str], node: NodeHere) -> None:
    """The driver finishes without a node; then the attempt that still runs there ends."""
    succeeds(driver)
    assert done(farm) == {name(0)}
    lost, made = tries(farm, 0, "render")
    assert (lost.reason, lost.node, lost.counted) == ("node", node.name, False)
    assert (made.reason, made.brought) == ("ok", 2)
    assert made.node != node.name
    before = files(farm)
    assert farm.children()
    (farm.folder / "go").touch()
    wait_for(lambda: not farm.children())  # it has ended well
    wait_for(lambda: not list(farm.run.scratch.glob(f"{PREFIX}*")))  # and so has its worker
    assert files(farm) == before


def test_results_of_a_node_declared_dead_are_discarded(farm: Farm, cluster: Cluster) -> None:
    """A node halts until Ray declares it dead; then its work continues."""
    farm.plan({"render:0": "wait 1"})
    cluster.add(cpus=1)
    cluster.add(cpus=1)
    driver = drive(farm, cluster, 1)
    wait_for(lambda: ends(farm, 0, "render") == [None] and farm.children())
    node = node_at(farm, cluster)
    os.kill(node.raylet, signal.SIGSTOP)  # its workers must not notice
    workers = node.workers(at_work=False)
    for process in workers:
        process.suspend()
    wait_for(lambda: ends(farm, 0, "render") == ["node", "ok"])
    for process in workers:
        process.resume()
    late_results_are_discarded(farm, driver, node)


def test_results_of_a_disconnected_node_are_discarded(farm: Farm) -> None:
    """Its attempt continues without a connection to Ray, with OUT still in reach."""
    with network() as (here, beside, there, inside, cut), Cluster(ip=here) as cluster:
        farm.plan({"render:0": "wait 1"})
        far = cluster.add(cpus=1, ip=there, inside=inside)
        driver = drive(farm, cluster, 1)
        wait_for(lambda: ends(farm, 0, "render") == [None] and farm.children())
        assert node_at(farm, cluster) is far
        cluster.add(cpus=1, ip=beside)
        cut()
        late_results_are_discarded(farm, driver, far)


@contextmanager
def network() -> Iterator[tuple[str, str, str, list[str], Callable[[], None]]]:
    """Two networks of this machine with a cable between them; needs root.

    Yields:
        Two addresses here, one there, the command that runs another one there, and what pulls the
        cable.
    """
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    space, cable, net = f"farm{os.getpid()}", f"fa{os.getpid()}", "10.203.57"

    def ip(*words: str) -> None:
        done = subprocess.run(["ip", *words], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"ip {' '.join(words)}: {done.stderr.strip()}")

    try:
        ip("netns", "add", space)
        ip("link", "add", cable, "type", "veth", "peer", "name", "far", "netns", space)
        ip("addr", "add", f"{net}.1/24", "dev", cable)
        ip("addr", "add", f"{net}.2/24", "dev", cable)
        ip("link", "set", cable, "up")
        ip("-n", space, "addr", "add", f"{net}.3/24", "dev", "far")
        ip("-n", space, "link", "set", "far", "up")
        ip("-n", space, "link", "set", "lo", "up")
        inside = ["ip", "netns", "exec", space]
        yield f"{net}.1", f"{net}.2", f"{net}.3", inside, lambda: ip("link", "set", cable, "down")
    finally:
        subprocess.run(["ip", "link", "del", cable], capture_output=True)
        subprocess.run(["ip", "netns", "del", space], capture_output=True)


def test_driver_ends_without_its_head_and_can_resume(farm: Farm) -> None:
    farm.plan({"generate:0": "hang 1"})
    with Cluster(env={"RAY_gcs_rpc_server_reconnect_timeout_s": "40"}) as cluster:
        cluster.add(cpus=1)
        driver = drive(farm, cluster, 2)
        wait_for(farm.children)
        cluster.head.close()
        said = driver.communicate(timeout=240)[0]
        assert driver.returncode == 1, said
        last = said.strip().splitlines()[-1]
        assert last.startswith("Ray's head does not answer any more"), said
        assert "run the same command again" in last
        wait_for(lambda: not farm.children())  # its node has noticed, too
    with Cluster() as cluster:
        cluster.add(cpus=1)
        succeeds(drive(farm, cluster, 2))
    assert done(farm) == {name(0), name(1)}
    assert ends(farm, 0, "generate") == ["interrupted", "ok"]


def first_attempt(farm: Farm, scene_folder: str) -> AttemptSpec:
    """The first attempt at a scene."""
    return AttemptSpec(
        scene_folder=scene_folder,
        stage="generate",
        number=1,
        generator="spheres",
        seed=0,
        settings=to_json(SETTINGS),
        request=ResourceRequest("generate"),
        node="node",
        device="",
        scratch=str(farm.run.scratch),
        keep_scenes=False,
        token="ours",  # noqa: S106 - tells attempts from one another
        limits=Limits(wall=20),
        program=FAKE,
    )


def test_attempt_closed_before_it_began_does_nothing(farm: Farm) -> None:
    """Its worker hung before the first line, so that the driver closed it."""
    scene = farm.run.scene(name(0))
    end_attempt(scene, "generate", 1, Result("node", "its node went away"))
    spec = first_attempt(farm, str(scene.path))
    before = files(farm)
    assert not run_attempt(spec).ok
    assert files(farm) == before
    assert ends(farm, 0, "generate") == ["node"]


def test_node_that_cannot_reach_out_costs_no_seed(farm: Farm) -> None:
    for folder in (
        f"nowhere://{farm.run.path}/scenes/{name(0)}",
        str(farm.folder / "not-mounted" / "scenes" / name(0)),
    ):
        result = run_attempt(first_attempt(farm, folder))
        assert (result.reason, result.state) == ("machine", None)


def test_worker_killed_during_cleanup_leaves_nothing(
    farm: Farm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever file it stopped at, the next attempt sweeps the rest."""
    for stop_at in range(9):
        left = [stop_at]

        def removed(real: Callable, *args: Any, left: list[int] = left, **kwargs: Any) -> Any:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            return real(*args, **kwargs)

        with (
            monkeypatch.context() as patch,
            suppress(KeyboardInterrupt),
            workspace(farm.run.scene(name(0)), "render", 1, tmp_path / "scratch") as work,
        ):
            work.here.scratch.mkdir(parents=True)
            for file in ("a", "b"):
                (work.here.path / file).touch()
            patch.setattr(os, "unlink", partial(removed, os.unlink))
            patch.setattr(os, "rmdir", partial(removed, os.rmdir))
        sweep(tmp_path / "scratch")
        assert not list((tmp_path / "scratch").iterdir()), stop_at


def test_node_with_a_full_scratch_disk_cools_down(farm: Farm, cluster: Cluster) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    scratch = farm.folder / "disk" / "scratch"
    scratch.mkdir(parents=True)
    farm.plan({"blend_bytes": MIB})  # times five
    mount = f'mount -t tmpfs -o size=2m tmpfs "{scratch}" && exec "$@"'
    small = cluster.add(cpus=1, inside=["unshare", "--mount", "sh", "-c", mount, "sh"])
    alone = start_driver(cluster, farm.run.path, 3, scratch=scratch, attempts=1)
    said = alone.communicate(timeout=300)[0]
    assert alone.returncode == 1
    assert "the scratch disk of every node is full (No space left" in said.splitlines()[-1]
    other = cluster.add(cpus=1)
    succeeds(start_driver(cluster, farm.run.path, 3, scratch=scratch, attempts=1))
    assert done(farm) == {name(0), name(1), name(2)}
    assert not farm.run.failed_folder.exists()
    tried = [one for seed in range(3) for one in tries(farm, seed, "generate")]
    full = [one for one in tried if one.reason == "scratch"]
    # once for each driver, which then gives that node no work
    assert [one.node for one in full] == [small.name] * 2
    assert not any(one.counted for one in full)
    assert [one.node for one in tried if one.reason == "ok"] == [other.name] * 3


def test_render_without_gpu_memory_uses_tiles_and_then_the_cpu(
    farm: Farm, cluster: Cluster
) -> None:
    farm.plan({"render:0": "gpu-memory"})
    cluster.add(cpus=2, gpus=1)
    succeeds(drive(farm, cluster, 2, profile="farm", attempts=1))
    assert done(farm) == {name(0), name(1)}
    found = [(one.reason, one.device, one.gpus, one.counted) for one in tries(farm, 0, "render")]
    assert found == [
        ("gpu-memory", "gpu", 1, False),
        ("gpu-memory", "gpu-tiles", 1, False),
        ("ok", "cpu", 0, False),
    ]
    assert [(one.device, one.gpus) for one in tries(farm, 1, "render")] == [("gpu", 1)]


def test_attempt_may_use_more_memory_after_running_out(farm: Farm, cluster: Cluster) -> None:
    farm.plan({"render:0": "eat"})  # 400 MiB, each time
    cluster.add(cpus=1)
    succeeds(drive(farm, cluster, 1, render_limits={"wall": 60, "memory": 300 * MIB}))
    first, second = tries(farm, 0, "render")
    assert (first.reason, second.reason) == ("memory", "ok")
    assert second.peak_rss > 400 * MIB
