"""Settings for all tests of the model."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def one_thread(request: pytest.FixtureRequest) -> None:
    """Small models gain nothing from more, and on busy cores threads wait for each other."""
    if request.config.getoption("quick"):
        return
    import torch  # late: `make quick` leaves out what needs it

    torch.set_num_threads(1)
