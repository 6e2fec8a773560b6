"""Ray clusters of several nodes on this machine, for tests of faults.

Every node has its own address and process tree, so that it can be killed, halted and cut off
without the others. The head has no CPUs: drivers are attached to it, scenes are not.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from pipeline.farm.run_child import session_members

CHECKOUT = Path(__file__).resolve().parents[2]
PATIENCE = 240.0

QUICK_RAY = {
    "RAY_AUTH_MODE": "disabled",  # whatever token this machine has
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_memory_monitor_refresh_ms": "0",  # other programs use memory here too
    "RAY_worker_niceness": "0",  # by default 15, which starves on a busy machine
    # a node that does not answer is gone after about 10 seconds, not after a minute
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1500",
    "RAY_health_check_failure_threshold": "4",
}
"""Environment of nodes and drivers."""

NODE = """
import json, sys, time
from ray._private.node import Node
from ray._private.parameter import RayParams
asked = json.loads(sys.argv[1])
head = asked.pop("head")
params = RayParams(
    object_store_memory=80_000_000, min_worker_port=0, max_worker_port=0, node_manager_port=0,
    include_log_monitor=False, include_dashboard=False, no_monitor=True, **asked)
node = Node(params, head=head, shutdown_at_exit=False, spawn_reaper=True)
print(json.dumps({"name": node.node_id, "raylet": node.all_processes["raylet"][0].process.pid}),
      flush=True)
while not node.dead_processes():
    time.sleep(0.2)
"""


@dataclass
class NodeHere:
    """A Ray node of this machine.

    Attributes:
        starter: The process that started it; it ends soon after any part of the node does.
        raylet: Process id of its raylet, and `name`, Ray's id of the node.
    """

    starter: subprocess.Popen[str]
    name: str
    raylet: int

    @property
    def alive(self) -> bool:
        return self.starter.poll() is None and _lives(self.raylet)

    def workers(self, *, at_work: bool = True) -> list[psutil.Process]:
        """Its worker processes: by default those that carry out an attempt."""
        found = []
        with suppress(psutil.Error):
            for process in psutil.Process(self.raylet).children():
                with suppress(psutil.Error, IndexError):
                    title = process.cmdline()[0]
                    if title.startswith("ray::run_attempt" if at_work else "ray::"):
                        found.append(process)
        return found

    def tree(self) -> list[psutil.Process]:
        """All its processes."""
        found = []
        with suppress(psutil.Error):
            starter = psutil.Process(self.starter.pid)
            found = [starter, *starter.children(recursive=True), *session_members(starter.pid)]
        with suppress(psutil.Error):
            raylet = psutil.Process(self.raylet)
            found += [raylet, *raylet.children(recursive=True)]
        return list({process.pid: process for process in found}.values())

    def kill(self) -> None:
        """Kill its raylet: the workers go with it, as on a machine that is switched off."""
        with suppress(ProcessLookupError):
            os.kill(self.raylet, signal.SIGKILL)

    def halt(self) -> None:
        """Suspend all its processes, except the one that kills them if this process dies."""
        for process in self.tree():
            with suppress(psutil.Error):
                if process.pid != self.starter.pid and "reaper" not in " ".join(process.cmdline()):
                    process.suspend()

    def resume(self) -> None:
        for process in self.tree():
            with suppress(psutil.Error):
                process.resume()

    def close(self) -> None:
        """End everything of it."""
        for _ in range(2):  # again, for those born in between
            for process in self.tree():
                with suppress(psutil.Error):
                    process.kill()
        self.starter.wait(timeout=PATIENCE)
        if self.starter.stdout is not None:
            self.starter.stdout.close()


@dataclass
class Cluster:
    """A Ray cluster on this machine.

    Attributes:
        env: What its processes have in their environment besides this process's own.
        ip: Address of the head.
        nodes: Those that were added, dead ones included.
    """

    env: dict[str, str] = field(default_factory=dict)
    ip: str = "127.0.0.1"
    port: int = 0
    nodes: list[NodeHere] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.port = self.port or free_port(self.ip)
        self.folder = Path(tempfile.mkdtemp(prefix="ray"))  # short: sockets' paths must be
        self.head = self._start(head=True, node_ip_address=self.ip, num_cpus=0, num_gpus=0)

    @property
    def address(self) -> str:
        return f"{self.ip}:{self.port}"

    def add(
        self,
        cpus: int = 2,
        gpus: int = 0,
        ip: str | None = None,
        inside: Sequence[str] = (),
        env: dict[str, str] | None = None,
    ) -> NodeHere:
        """Add a node.

        Args:
            ip: Its address; by default one of the loopback interface that no other node has.
            inside: A command that runs another one in a namespace.
            env: What its processes have in their environment besides the cluster's.
        """
        node = self._start(
            inside,
            env,
            head=False,
            gcs_address=self.address,
            node_ip_address=ip or f"127.0.1.{len(self.nodes) + 1}",
            num_cpus=cpus,
            num_gpus=gpus,
            memory=16 * 2**30,
        )
        self.nodes.append(node)
        return node

    @property
    def alive(self) -> list[NodeHere]:
        return [node for node in self.nodes if node.alive]

    def known(self) -> set[str]:
        """The nodes that Ray takes to be alive, the head among them."""
        from ray._raylet import GcsClient

        found = GcsClient(address=self.address).get_all_node_info(timeout=10)
        return {node.hex() for node, info in found.items() if info.state == 0}

    def without_nodes(self) -> None:
        """End all nodes, and wait until Ray knows it."""
        for node in self.nodes:
            node.close()
        wait_for(lambda: self.known() == {self.head.name}, what="for nodes to be dead")

    def close(self) -> None:
        for node in [*self.nodes, self.head]:
            node.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _start(
        self, inside: Sequence[str] = (), env: dict[str, str] | None = None, **asked: Any
    ) -> NodeHere:
        if asked["head"]:
            asked |= {"gcs_server_port": self.port, "temp_dir": str(self.folder)}
        for _ in range(3):  # on a busy machine the head may declare a slow node dead at once
            starter = subprocess.Popen(
                [*inside, sys.executable, "-c", NODE, json.dumps(asked)],
                env={**os.environ, **loopback(self.ip), **QUICK_RAY, **self.env, **(env or {})},
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                cwd=CHECKOUT,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
            assert starter.stdout is not None
            if line := starter.stdout.readline():
                return NodeHere(starter, **json.loads(line))
            starter.wait()
        raise AssertionError("a Ray node does not start")


def loopback(ip: str) -> dict[str, str]:
    """Have Ray take 127.0.0.1 for itself, and not for another address of this machine."""
    return {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"} if ip.startswith("127.") else {}


def free_port(ip: str = "127.0.0.1") -> int:
    with socket.create_server((ip, 0)) as taken:
        return int(taken.getsockname()[1])


def wait_for(condition: Callable[[], Any], seconds: float = PATIENCE, what: str = "") -> Any:
    """The condition's first true value; fails after so many seconds."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"did not happen in time {what}"
        time.sleep(0.1)
    return value


def _lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG


DRIVER = """
import json, sys
from dataclasses import replace
from pipeline import storage
from pipeline.storage import lease
from pipeline.errors import UserError
from pipeline.farm import driver
from pipeline.farm.child import Limits
from pipeline.layout import RunFolder
from tests.farm.conftest import FAKE, QUICK, SETTINGS, render_run
driver.IDLE_SECONDS = 2.0
out, scenes, profile, asked = json.loads(sys.argv[1])
lease.BEAT_SECONDS, lease.LEASE_SECONDS, lease.SETTLE_SECONDS = 1.0, 8.0, 0.5
limits = {name: Limits(**asked.pop(name)) for name in list(asked) if name.endswith("_limits")}
patient = Limits(wall=300)  # a hang must last until the test has done its part
farm = replace(QUICK, **{"generate_limits": patient, "render_limits": patient, **limits, **asked})
settings = replace(SETTINGS, profile=profile)
try:
    print(render_run(RunFolder(storage.open_path(out)), settings, scenes, farm, FAKE))
except UserError as error:
    sys.exit(str(error))
"""


def start_driver(
    cluster: Cluster,
    out: Path | str,
    scenes: int,
    *,
    scratch: Path,
    profile: str = "draft",
    **farm: Any,
) -> subprocess.Popen[str]:
    """A driver with the fake Blender, in a separate process, on a cluster.

    Args:
        farm: Fields of FarmSettings that differ from those of the other tests.
    """
    farm |= {"ray_address": cluster.address, "scratch": str(scratch)}
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, json.dumps([str(out), scenes, profile, farm])],
        env={**os.environ, **loopback(cluster.ip), **QUICK_RAY, **cluster.env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=CHECKOUT,
    )
