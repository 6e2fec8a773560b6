"""The Ray that the farm works on: a cluster where RAY_ADDRESS says so, else one of its own."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import ray
from ray._private import ray_constants
from ray._private import worker as ray_worker

from pipeline.errors import UserError
from pipeline.farm.options import FarmSettings
from pipeline.farm.scheduler import Node
from pipeline.settings import PROFILES, RunSettings

CHECKOUT = Path(__file__).resolve().parents[2]
KNOCK_SECONDS = 10
HTTP2_SETTINGS = 4
HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, HTTP2_SETTINGS, 0, 0, 0, 0, 0])


@contextmanager
def connected(farm: FarmSettings) -> Iterator[None]:
    """Connect to Ray, or start it; a Ray that is already connected is used and left alone.

    A cluster's nodes need this checkout and its .venv under the same path (a shared folder). A Ray
    of our own listens on the loopback interface alone: whoever reaches its ports may run code.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = farm.address
    path = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")]))
    local: dict[str, Any] = {
        "_node_ip_address": "127.0.0.1",
        "num_cpus": farm.workers,
        "num_gpus": farm.gpus,
        "include_dashboard": False,
        "object_store_memory": 100 * 2**20,  # only outcomes travel through Ray, scenes are files
    }
    with ExitStack() as stack:
        # a killed worker is in our ledger; Ray's own line would run through the display
        stack.enter_context(_replaced(ray_worker, "print_to_stdstream", lambda *_, **__: None))
        if not address:  # else Ray takes another address of this machine for 127.0.0.1
            stack.enter_context(_replaced(ray_constants, "ENABLE_RAY_CLUSTER", False))
        stack.enter_context(_sigterm_kept())
        try:
            if address:
                knock(address)
            ray.init(
                address=address or "local",
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={"env_vars": {"PYTHONPATH": path}},
                **({} if address else local),
            )
        except (OSError, ValueError, RuntimeError) as error:
            if not address:
                raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"cannot reach the Ray cluster at {address} ({reason}); "
                "start one with `ray start --head`, or unset RAY_ADDRESS to work on this machine"
            ) from None
        stack.callback(ray.shutdown)
        _end_on_sigterm()
        yield


@contextmanager
def _replaced(module: ModuleType, name: str, value: object) -> Iterator[None]:
    """Give a module's name another value for a while."""
    old = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, old)


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Have the same SIGTERM handler afterwards; `ray.init` sets one of its own."""
    old = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if old is not None and _in_main_thread():
            signal.signal(signal.SIGTERM, old)


def _end_on_sigterm() -> None:
    """End as after Ctrl-C when Slurm, systemd or `timeout` asks; Ray's own handler aborts."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    if _in_main_thread():
        signal.signal(signal.SIGTERM, interrupt)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def knock(address: str) -> None:
    """See whether a Ray may listen at host:port; Ray itself would try for a minute, or minutes.

    Raises:
        OSError: Nothing does, or something that does not speak HTTP/2 as Ray's gRPC does.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():  # a word such as "auto"
        return
    with socket.create_connection((host, int(port)), timeout=KNOCK_SECONDS) as connection:
        if os.environ.get("RAY_USE_TLS", "0") not in ("0", ""):
            return
        connection.sendall(HTTP2_HELLO)
        answer = connection.recv(9)  # the head of a frame; byte 3 is its type
        if len(answer) < 4 or answer[3] != HTTP2_SETTINGS:
            raise OSError("what answers there is no Ray")


def head_timeout() -> float:
    """Seconds for which the head may be silent. Ray itself ends this process a little later."""
    return 0.6 * float(os.environ.get("RAY_gcs_rpc_server_reconnect_timeout_s", 60))  # noqa: SIM112


def read_nodes(address: str | None) -> list[Node]:
    """The machines that the connected cluster has now; they may come and go.

    Args:
        address: Where the head listens; None takes what Ray says.

    Raises:
        OSError: The head does not answer.
    """
    knock(address or ray.get_runtime_context().gcs_address)
    nodes = []
    for node in ray.nodes():
        has = node["Resources"]
        if node["Alive"] and has.get("CPU", 0) >= 1:
            gpus = int(has.get("GPU", 0))
            memory = int(has["memory"]) if has.get("memory") else None
            nodes.append(Node(node["NodeID"], int(has["CPU"]), gpus, memory))
    return nodes


def check_nodes(nodes: Sequence[Node], settings: RunSettings, farm: FarmSettings) -> None:
    """See whether what the cluster has now can make scenes at all.

    Raises:
        UserError: No node can ever take a render.
    """
    if not nodes:
        raise UserError(
            "the Ray cluster has no node with a CPU yet; let its nodes join, then run the same "
            "command again"
        )
    largest = max(node.cpus for node in nodes)
    if PROFILES[settings.profile].gpu:
        if not any(node.gpus for node in nodes):
            raise UserError(
                f"PROFILE={settings.profile} renders on a GPU and Ray sees none; "
                "choose PROFILE=cpu, or join a machine with one to the cluster"
            )
    elif (farm.render_cpus or 1) > largest:
        raise UserError(
            f"a render takes {farm.render_cpus or 1} CPUs and the largest machine has {largest}; "
            "lower RENDER_CPUS"
        )
