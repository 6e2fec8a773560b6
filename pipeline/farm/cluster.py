"""The Ray that the farm works on: the cluster at RAY_ADDRESS, or a local one."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import tempfile
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
from pipeline.farm.farm_settings import FarmSettings
from pipeline.farm.scheduler import Node
from pipeline.run_settings import PROFILES, RunSettings

CHECKOUT = Path(__file__).resolve().parents[2]
CONNECT_SECONDS = 10
HTTP2_SETTINGS = 4
HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, HTTP2_SETTINGS, 0, 0, 0, 0, 0])
SHORT_FOLDERS = ("/tmp", "/var/tmp")  # noqa: S108 - a new folder is made there
LONGEST_SOCKET = "r/session_2000-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""A path below `session_folder`; the kernel limits the whole path to 107 bytes."""


@contextmanager
def connected(farm: FarmSettings) -> Iterator[None]:
    """Connect to Ray, or start a local one; a Ray that is already connected is used and kept.

    A cluster's nodes need this checkout and its .venv under the same path (a shared folder). A
    local Ray listens on the loopback interface only, because anyone who reaches its ports may run
    code.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        Path.home()
    except RuntimeError:  # a user without a name and HOME, for example in a container
        os.environ["HOME"] = tempfile.gettempdir()  # Ray does not start without one
    path = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")]))
    options: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "runtime_env": {"env_vars": {"PYTHONPATH": path}},
    }
    with ExitStack() as stack:
        # a killed worker is recorded in OUT; Ray's own line would disturb the display
        stack.enter_context(_replaced(ray_worker, "print_to_stdstream", lambda *_, **__: None))
        stack.enter_context(_sigterm_restored())
        if farm.address:
            _join(farm.address, options)
        else:
            # otherwise Ray takes another address of this machine instead of 127.0.0.1
            stack.enter_context(_replaced(ray_constants, "ENABLE_RAY_CLUSTER", False))
            folder = stack.enter_context(session_folder())
            _start_local(farm, folder, options)
        stack.callback(ray.shutdown)
        _end_on_sigterm()
        yield


def _join(address: str, options: dict[str, Any]) -> None:
    """Connect to a cluster."""
    try:
        check_head(address)
        ray.init(address=address, **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"cannot reach the Ray cluster at {address} ({_first_line(error)}); start one with "
            "`ray start --head`, or unset RAY_ADDRESS to work on this machine"
        ) from None


def _start_local(farm: FarmSettings, folder: Path, options: dict[str, Any]) -> None:
    """Start a Ray on this machine."""
    try:
        ray.init(
            address="local",
            num_cpus=farm.workers,
            num_gpus=farm.gpus,
            include_dashboard=False,
            object_store_memory=100 * 2**20,  # only results travel through Ray, scenes are files
            _node_ip_address="127.0.0.1",
            _temp_dir=str(folder),
            **options,
        )
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"Ray does not start on this machine ({_first_line(error)}); check its limits "
            "(ulimit -a) and the space in /dev/shm and TMPDIR"
        ) from error


@contextmanager
def session_folder() -> Iterator[Path]:
    """A new folder for the sockets and logs of a local Ray, removed afterwards.

    It lies in TMPDIR if Ray's sockets can be created there: batch systems set long paths, and some
    file systems have no sockets. Ray's default /tmp/ray may belong to another user.

    Raises:
        UserError: No folder can be used.
    """
    reasons = []
    for name in ("RAY_TMPDIR", "TMPDIR", *SHORT_FOLDERS, "XDG_RUNTIME_DIR"):
        parent = name if name in SHORT_FOLDERS else os.environ.get(name)
        if not parent:
            continue
        try:
            folder = tempfile.mkdtemp(prefix="ray", dir=parent)
        except OSError as error:
            reasons.append(f"{name}: {error.strerror}")
            continue
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.bind(f"{folder}/{'x' * len(LONGEST_SOCKET)}")
        except OSError as error:
            reasons.append(f"{name}: {error.strerror or error}")
            shutil.rmtree(folder, ignore_errors=True)
            continue
        try:
            yield Path(folder, "r")  # Ray opens its folder to all users; nobody enters the parent
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return
    raise UserError(
        f"no folder for Ray's sockets ({'; '.join(reasons)}); set TMPDIR to a folder with a short "
        "path that you may write to"
    )


@contextmanager
def _replaced(module: ModuleType, name: str, value: object) -> Iterator[None]:
    """Replace a module's attribute for a while."""
    old = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, old)


@contextmanager
def _sigterm_restored() -> Iterator[None]:
    """Restore the SIGTERM handler afterwards; `ray.init` sets its own."""
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


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def check_head(address: str) -> None:
    """Check that a Ray head may listen at host:port; Ray itself would try for minutes.

    Raises:
        OSError: Nothing listens there, or it does not speak HTTP/2 as Ray's gRPC does.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():  # a word such as "auto"
        return
    with socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS) as connection:
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
    """The machines of the connected cluster now; they may come and go.

    Args:
        address: Where the head listens; None asks Ray.

    Raises:
        OSError: The head does not answer.
    """
    check_head(address or ray.get_runtime_context().gcs_address)
    nodes = []
    for node in ray.nodes():
        has = node["Resources"]
        if node["Alive"] and has.get("CPU", 0) >= 1:
            gpus = int(has.get("GPU", 0))
            memory = int(has["memory"]) if has.get("memory") else None
            nodes.append(Node(node["NodeID"], int(has["CPU"]), gpus, memory))
    return nodes


def check_nodes(nodes: Sequence[Node], settings: RunSettings, farm: FarmSettings) -> None:
    """Check that the cluster can make scenes.

    Raises:
        UserError: No node can run a render.
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
                "choose PROFILE=cpu, or add a machine with a GPU to the cluster"
            )
    elif farm.render_cpus is not None and farm.render_cpus > largest:
        raise UserError(
            f"RENDER_CPUS={farm.render_cpus} is more than the largest machine has; choose at most "
            f"{largest}"
        )
