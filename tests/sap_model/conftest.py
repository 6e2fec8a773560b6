"""Settings for all tests of the model."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Small models gain nothing from more, and on busy cores threads wait for each other."""
    torch.set_num_threads(1)
