"""One process or several: what torchrun says, sums over all, and how they refuse together."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn

import torch
from torch import Tensor, distributed

from pipeline.errors import UserError

PATIENCE = timedelta(hours=2)
"""How long a process waits for others, of which the first validates alone."""

BUCKET = 2**25
"""Numbers of gradients that are summed in one message, which is copied on the way (128 MiB)."""

GRACE = 5.0
"""Seconds that the others leave the first process to say why: torchrun ends all when one ends."""


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
        gradients = []
        for parameter, count in zip(parameters, used.tolist(), strict=True):
            if count:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                gradients.append(parameter.grad)
        for bucket in _buckets(gradients):
            together = torch.cat([gradient.flatten() for gradient in bucket])
            distributed.all_reduce(together)
            sums = together.split([gradient.numel() for gradient in bucket])
            for gradient, total in zip(bucket, sums, strict=True):
                gradient.copy_(total.view_as(gradient))

    def sum_values(self, values: dict[str, Tensor]) -> dict[str, float]:
        """Numbers, each summed over all processes, which have the same names."""
        names = sorted(values)
        together = torch.stack([values[name].double() for name in names]).to(self.device)
        if self.size > 1:
            distributed.all_reduce(together)
        return dict(zip(names, together.tolist(), strict=True))

    def gather(self, value: Any) -> list[Any]:
        """What each process gives, in the order of their ranks."""
        values = [value] * self.size
        if self.size > 1:
            distributed.all_gather_object(values, value)
        return values

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """A block that all processes go through: what one of them refuses in it, all refuse.

        Raises:
            UserError: In the first process, with the line of the first that refused.
        """
        line = None
        try:
            yield
        except UserError as error:
            line = str(error)
        lines = [told for told in self.gather(line) if told is not None]
        if lines:
            self.refuse(lines[0])

    def refuse(self, line: str) -> NoReturn:
        """End all processes, each of which calls this: the first says why, the others are quiet.

        Raises:
            UserError: In the first.
        """
        _refuse(self.rank, line)


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Count numbers too small for a full mantissa as 0 meanwhile.

    Tiny gradients otherwise take half of a CPU's time.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


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
        here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
        if here > gpus:
            _refuse(
                local,
                f"{here} processes on this machine, which has {gpus} GPUs: start {gpus} with "
                f"GPUS={gpus} (--nproc-per-node={gpus} of torchrun)",
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if size > 1:
        distributed.init_process_group(
            "nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE
        )
    try:
        yield World(rank, size, device)
    finally:
        if size > 1:
            distributed.destroy_process_group()


def _refuse(rank: int, line: str) -> NoReturn:
    if rank:
        time.sleep(GRACE)
        raise SystemExit(2)
    raise UserError(line)


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The same tensors in groups of at most `BUCKET` numbers, or of one that is larger."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and sum(other.numel() for other in bucket) + tensor.numel() > BUCKET:
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
