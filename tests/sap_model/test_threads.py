"""Threads follow the model's size and what the machine has idle."""

from __future__ import annotations

import os

import pytest
import torch

from sap_model import threads
from sap_model.model.build import build
from sap_model.threads import adapt_threads, choose_threads, idle_cpus

NANO, TINY = (4_800_000, 256), (39_000_000, 1024)


@pytest.fixture
def machine(monkeypatch):
    """A machine of eight CPUs of which five are busy."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(os, "getloadavg", lambda: (5.0, 0.0, 0.0))


def test_small_models_take_one_thread_and_others_the_idle_cpus(machine):
    assert choose_threads(*NANO) == 1
    assert choose_threads(*TINY) == 3
    assert choose_threads(NANO[0], 1024) == 3


def test_a_busy_machine_leaves_one_thread(machine, monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (40.0, 0.0, 0.0))
    assert idle_cpus() == 1
    monkeypatch.setattr(os, "getloadavg", lambda: (0.1, 0.0, 0.0))
    assert idle_cpus() == 8


def test_threads_of_a_model_are_set_unless_the_environment_says_how_many(machine, monkeypatch):
    used = []
    monkeypatch.setattr(threads, "use_threads", used.append)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    model = build("nano", 64)
    adapt_threads(model)
    model.image_size = 1024
    adapt_threads(model)
    adapt_threads(model, limit=2)
    assert used == [1, 3, 2]
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    adapt_threads(model)
    assert len(used) == 3


def test_torch_follows():
    before = torch.get_num_threads()
    threads.use_threads(1)
    assert torch.get_num_threads() == 1
    threads.use_threads(before)
