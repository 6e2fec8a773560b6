"""How many threads torch and OpenCV compute with on a CPU.

A thread of OpenMP that has finished its part of an operation spins until the others have. Beside
other work the others wait for a core meanwhile, at every one of the thousands of small operations
of a small model: with two threads beside two busy processes a click took twenty times as long as
alone, with one thread twice as long (docs/results.md). So small models compute with one thread,
and large ones, whose operations last long enough to share, with as many as the machine has idle.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sap_model.model.tracker import ScanTracker

SMALL_PARAMETERS, SMALL_SIDE = 10_000_000, 512
"""A model with fewer parameters at a smaller input is small: its operations last a millisecond."""


def choose_threads(parameters: int, image_size: int) -> int:
    """Threads for a model on the CPU, by its size and by what is idle now.

    Args:
        parameters: Of the model.
        image_size: Side of its input in pixels.
    """
    if parameters < SMALL_PARAMETERS and image_size < SMALL_SIDE:
        return 1
    return idle_cpus()


def idle_cpus() -> int:
    """CPUs that this process may use and that nobody used in the last minute; at least 1."""
    try:
        usable = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS or Windows
        usable = os.cpu_count() or 1
    try:
        busy = os.getloadavg()[0]
    except (AttributeError, OSError):  # not on Windows
        busy = 0.0
    return max(1, min(usable, round(usable - busy)))


def use_threads(count: int) -> None:
    """Have torch and OpenCV compute with so many threads in this process."""
    import cv2
    import torch

    torch.set_num_threads(count)
    cv2.setNumThreads(count)


def adapt_threads(model: ScanTracker, limit: int | None = None) -> None:
    """Use the threads that suit a model, if it is on the CPU and OMP_NUM_THREADS does not say.

    Args:
        model: Of `load` or `build`.
        limit: Threads at most, where several processes share the machine.
    """
    if model.device.type != "cpu" or "OMP_NUM_THREADS" in os.environ:
        return
    parameters = sum(parameter.numel() for parameter in model.parameters())
    count = choose_threads(parameters, model.image_size)
    use_threads(count if limit is None else min(count, limit))
