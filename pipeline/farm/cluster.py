"""The Ray that the farm works on: a cluster where RAY_ADDRESS says so, else one of its own."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from pipeline.errors import UserError
from pipeline.farm.options import FarmSettings
from pipeline.farm.schedule import Slots
from pipeline.settings import PROFILES, RunSettings

CHECKOUT = Path(__file__).resolve().parents[2]
KNOCK_SECONDS = 10
MOST_RENDER_CPUS = 8  # a scene is read into Cycles by one thread; more CPUs then only wait


@contextmanager
def connected(farm: FarmSettings) -> Iterator[None]:
    """Connect to Ray, or start it; a Ray that is already connected is used and left alone.

    A cluster's nodes need this checkout and its .venv under the same path (a shared folder).
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = farm.ray_address or os.environ.get("RAY_ADDRESS")
    path = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")]))
    local: dict[str, Any] = {
        "num_cpus": farm.workers,
        "num_gpus": farm.gpus,
        "include_dashboard": False,
        "object_store_memory": 100 * 2**20,  # only outcomes travel through Ray, scenes are files
    }
    try:
        if address:
            _knock(address)
        ray.init(
            address=address or "local",
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": {"PYTHONPATH": path}},
            **({} if address else local),
        )
    except (OSError, ValueError) as error:
        if not address:
            raise
        reason = str(error).splitlines()[0]
        raise UserError(
            f"cannot reach the Ray cluster at {address} ({reason}); "
            "start one with `ray start --head`, or unset RAY_ADDRESS to work on this machine"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """See whether anything listens at host:port; Ray itself would try for minutes.

    Raises:
        OSError: Nothing does.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():  # else a word such as "auto"
        socket.create_connection((host, int(port)), timeout=KNOCK_SECONDS).close()


def count_slots(settings: RunSettings, farm: FarmSettings) -> Slots:
    """What the connected cluster has now; nodes may come and go.

    Raises:
        UserError: No node can ever take a render.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    if PROFILES[settings.profile].gpu:
        if gpus == 0:
            raise UserError(
                f"PROFILE={settings.profile} renders on a GPU and Ray sees none; "
                "choose PROFILE=cpu, or join a machine with one to the cluster"
            )
        return Slots(cpus=sum(cpus), gpus=gpus, render_on_gpu=True)
    render_cpus = farm.render_cpus or min(MOST_RENDER_CPUS, min(cpus, default=1))
    if render_cpus > max(cpus, default=0):
        raise UserError(
            f"a render takes {render_cpus} CPUs and the largest machine has "
            f"{max(cpus, default=0)}; lower RENDER_CPUS"
        )
    return Slots(cpus=sum(cpus), gpus=gpus, render_cpus=render_cpus)
