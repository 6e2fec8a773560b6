"""One process alone, and two real ones whose sums are known."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from pipeline.errors import UserError
from sap_model.train.processes import World, _buckets, processes
from tests.sap_model.train.runs import ROOT, environment, rendezvous

TOGETHER = """
import json, torch
from sap_model.train import processes
processes.BUCKET = 3  # so that there are several
with processes.processes() as world:
    parts = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
    parts[0].grad = torch.full((2,), 1.0 + world.rank)
    if world.rank == 1:
        parts[1].grad = torch.full((2,), 5.0)
    world.sum_gradients(parts)
    values = world.sum_values({"b": torch.tensor(2.0), "a": torch.tensor(10.0 * world.rank)})
    grads = [part.grad if part.grad is None else part.grad.tolist() for part in parts]
    print(json.dumps([world.rank, world.size, grads, values]))
"""

REFUSED = """
from pipeline.errors import UserError
from sap_model.train import processes
processes.GRACE = 0.1
try:
    with processes.processes() as world:
        with world.agreed():
            pass
        with world.agreed():
            if world.rank == 1:
                raise UserError("no such file")
        print("went on")
except UserError as error:
    print(world.rank, error)
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


def together(code: str) -> list[tuple[int, str]]:
    """The exit status of each of two processes, and what it prints."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=environment() | about,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for about in rendezvous(2)
    ]
    said = [child.communicate(timeout=300)[0] for child in started]
    return [(child.returncode, text) for child, text in zip(started, said, strict=True)]


def test_two_processes_have_the_sum_of_both():
    for rank, (status, said) in enumerate(together(TOGETHER)):
        answer = json.loads(said)
        assert status == 0
        # a parameter that nobody used keeps no gradient
        assert answer == [rank, 2, [[3, 3], [5, 5], None], {"a": 10, "b": 4}]


def test_what_one_process_refuses_the_first_one_says():
    assert together(REFUSED) == [(0, "0 no such file\n"), (2, "")]


def test_gradients_are_summed_in_messages_of_bounded_size(monkeypatch):
    monkeypatch.setattr("sap_model.train.processes.BUCKET", 5)
    sizes = [
        [len(part) for part in bucket]
        for bucket in _buckets([torch.zeros(k) for k in (2, 3, 9, 1)])
    ]
    assert sizes == [[2, 3], [9], [1]] and not list(_buckets([]))


def test_a_process_without_a_gpu_of_its_own_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("sap_model.train.processes.GRACE", 0.0)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    for rank, refusal in ((0, UserError), (1, SystemExit), (2, SystemExit)):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        with pytest.raises(refusal, match="GPUS=2" if rank == 0 else "2"), processes():
            pass
    assert World(0, 1, torch.device("cuda", 0)).on_gpu
