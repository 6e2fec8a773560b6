"""One process or several: what torchrun says, and sums over all of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from pipeline.errors import UserError


@dataclass(frozen=True)
class World:
    """The processes that train together.

    Attributes:
        rank: This one's number; 0 writes files and prints.
        size: How many there are.
        device: This one's GPU, or the CPU.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replace every parameter's gradient by the sum over all processes.

        A parameter that this process did not use counts as zero; one that nobody used keeps no
        gradient, so that the optimiser leaves it alone.
        """
        if self.size == 1:
            return
        used = torch.tensor([p.grad is not None for p in parameters], device=self.device).int()
        distributed.all_reduce(used)
        for parameter, count in zip(parameters, used.tolist(), strict=True):
            if count:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                distributed.all_reduce(parameter.grad)

    def sum_values(self, values: dict[str, Tensor]) -> dict[str, float]:
        """Numbers, each summed over all processes, which have the same names."""
        names = sorted(values)
        together = torch.stack([values[name].double() for name in names]).to(self.device)
        if self.size > 1:
            distributed.all_reduce(together)
        return dict(zip(names, together.tolist(), strict=True))


@contextmanager
def processes() -> Iterator[World]:
    """Join the processes that torchrun started, if it did; leave them at the end.

    Raises:
        UserError: There are more processes on this machine than GPUs.
    """
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local = int(os.environ.get("LOCAL_RANK", 0))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        if local >= torch.cuda.device_count():
            raise UserError(
                f"process {local} of this machine has no GPU of its own: start torchrun with "
                f"--nproc-per-node={torch.cuda.device_count()}"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if size > 1:
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(rank, size, device)
    finally:
        if size > 1:
            distributed.destroy_process_group()
