"""What moves the weights: AdamW as SAM2 sets it, Muon for models that start from scratch; and how
fast."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

from sap_model.train.settings import TrainSettings

MUON_RATE = 2.0
"""Muon's learning rate as a multiple of AdamW's, both scaled to steps of like size."""

MUON_LEAST = 16
"""Matrices that are thinner than this are left to AdamW."""


class CpuMuon(Muon):
    """torch's Muon in 32 bits: it multiplies in bfloat16, at which CPUs without it are slow.

    A step of all matrices of the nano model took 2.9 s with torch's own on such a core, now 0.12 s.
    """

    @torch.no_grad()
    def step(self, closure=None):
        """One step, as torch's own takes it; its state has the same names."""
        for group in self.param_groups:
            for part in group["params"]:
                if part.grad is None:
                    continue
                state = self.state[part]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(part.grad)
                mean = state["momentum_buffer"].lerp_(part.grad, 1 - group["momentum"])
                update = part.grad.lerp(mean, group["momentum"])  # Nesterov's
                update = orthogonal(update, group["ns_coefficients"], group["ns_steps"])
                part.mul_(1 - group["lr"] * group["weight_decay"])
                # as large as AdamW's steps ("match_rms_adamw")
                part.add_(update, alpha=-group["lr"] * 0.2 * math.sqrt(max(part.shape)))


def orthogonal(matrix: Tensor, coefficients: tuple[float, float, float], steps: int) -> Tensor:
    """A matrix with the same singular vectors, and all singular values near 1.

    The Newton-Schulz iteration of Muon: p(x) = ax + bx³ + cx⁵ on the singular values, whose
    coefficients pull them to between 0.7 and 1.2 or so in few steps.

    Args:
        matrix: (M, N).
        coefficients: a, b, c.
    """
    a, b, c = coefficients
    wide = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    wide = wide / wide.norm().clamp(min=1e-7)
    for _ in range(steps):
        square = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(square, square, square, beta=b, alpha=c), wide, beta=a)
    return wide if len(matrix) <= matrix.shape[1] else wide.T


def new_optimizers(network: nn.Module, settings: TrainSettings) -> list[Optimizer]:
    """The optimisers that together move every trained parameter.

    Biases and layer norms do not decay, as in SAM2's configuration.
    """
    trained = {name: part for name, part in network.named_parameters() if part.requires_grad}
    norms = {
        id(part)
        for module in network.modules()
        if isinstance(module, nn.LayerNorm)
        for part in module.parameters()
    }
    plain = {name for name, part in trained.items() if "bias" in name or id(part) in norms}
    matrices = {
        name
        for name, part in trained.items()
        if settings.optimizer == "muon"
        and part.ndim == 2
        and min(part.shape) >= MUON_LEAST
        and "embed" not in name
    }
    decaying = [part for name, part in trained.items() if name not in plain | matrices]
    groups = [
        {"params": decaying, "weight_decay": settings.weight_decay},
        {"params": [trained[name] for name in sorted(plain)], "weight_decay": 0.0},
    ]
    optimizers: list[Optimizer] = [AdamW(groups, lr=settings.lr, betas=settings.betas)]
    if matrices:
        on_cpu = all(trained[name].device.type == "cpu" for name in matrices)
        optimizers.append(
            (CpuMuon if on_cpu else Muon)(
                [trained[name] for name in sorted(matrices)],
                lr=settings.lr,
                weight_decay=settings.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    return optimizers


def set_rate(optimizers: list[Optimizer], lr: float) -> None:
    """Give all optimisers the learning rate of a step."""
    for optimizer in optimizers:
        factor = MUON_RATE if isinstance(optimizer, Muon) else 1.0
        for group in optimizer.param_groups:
            group["lr"] = lr * factor


def rate(step: int, settings: TrainSettings) -> float:
    """The learning rate of a step, counted from 0: a cosine after the warm-up.

    >>> settings = TrainSettings(data=("shards",), steps=101, lr=1.0, warmup_steps=0)
    >>> [round(rate(step, settings), 3) for step in (0, 50, 100)]
    [1.0, 0.55, 0.1]
    """
    if step < settings.warmup:
        return settings.lr * (step + 1) / settings.warmup
    flat = settings.warmup + round(settings.hold_fraction * settings.steps)
    if step < flat:
        return settings.lr
    progress = (step - flat) / max(1, settings.steps - 1 - flat)
    cosine = (1 + math.cos(math.pi * min(1.0, progress))) / 2
    return settings.lr * (settings.final_lr_fraction + (1 - settings.final_lr_fraction) * cosine)
