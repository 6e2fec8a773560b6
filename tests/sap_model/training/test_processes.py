"""One process alone, and two real ones whose sums are known."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.errors import UserError
from sap_model.training.processes import World, processes

TOGETHER = """
import json, torch
from sap_model.training.processes import processes
with processes() as world:
    parts = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
    parts[0].grad = torch.full((2,), 1.0 + world.rank)
    if world.rank == 1:
        parts[1].grad = torch.full((2,), 5.0)
    world.sum_gradients(parts)
    values = world.sum_values({"b": torch.tensor(2.0), "a": torch.tensor(10.0 * world.rank)})
    grads = [part.grad if part.grad is None else part.grad.tolist() for part in parts]
    print(json.dumps([world.rank, world.size, grads, values]))
"""


def test_alone_everything_stays_as_it_is(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with processes() as world:
        assert (world.rank, world.size) == (0, 1)
        assert world.on_gpu == torch.cuda.is_available()
        part = torch.nn.Parameter(torch.zeros(2))
        world.sum_gradients([part])
        assert part.grad is None
        assert world.sum_values({"b": torch.tensor(2.0), "a": torch.tensor(1.0)}) == {
            "a": 1,
            "b": 2,
        }


def test_two_processes_have_the_sum_of_both():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    about = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    about |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", TOGETHER],
            env=os.environ | about | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=Path(__file__).parents[3],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [json.loads(child.communicate(timeout=300)[0]) for child in started]
    for rank, answer in enumerate(said):
        # a parameter that nobody used keeps no gradient
        assert answer == [rank, 2, [[3, 3], [5, 5], None], {"a": 10, "b": 4}]


def test_a_process_without_a_gpu_of_its_own_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match="nproc-per-node=2"), processes():
        pass
    assert World(0, 1, torch.device("cuda", 0)).on_gpu
