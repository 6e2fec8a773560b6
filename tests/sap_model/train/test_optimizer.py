"""Muon on a CPU, held against torch's own and against what orthogonal means."""

from __future__ import annotations

import pytest
import torch
from torch.optim import Muon

from sap_model.train.optimizer import CpuMuon, orthogonal

COEFFICIENTS = (3.4445, -4.775, 2.0315)


@pytest.mark.parametrize("shape", [(16, 16), (24, 80), (80, 24)])
def test_singular_vectors_stay_and_values_come_near_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    found = left.T @ orthogonal(matrix, COEFFICIENTS, 5) @ right.T
    kept = values > 0.1 * values[0]
    assert (found.diagonal()[kept] - 1).abs().max() < 0.4
    assert (found - found.diagonal().diag()).abs().max() < 1e-4


@pytest.mark.parametrize("shape", [(16, 16), (24, 80), (80, 24)])
def test_steps_are_those_of_torch_but_for_its_sixteen_bits(shape):
    draw = torch.Generator().manual_seed(1)
    start = torch.randn(shape, generator=draw)
    gradients = [torch.randn(shape, generator=draw) for _ in range(5)]
    ends = []
    for kind in (CpuMuon, Muon):
        weights = torch.nn.Parameter(start.clone())
        optimizer = kind([weights], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
        for gradient in gradients:
            weights.grad = gradient.clone()
            optimizer.step()
        ends.append(weights.detach())
        state = optimizer.state_dict()["state"][0]
        assert state.keys() == {"momentum_buffer"}
    moved, expected = (end - start for end in ends)
    assert (moved - expected).norm() < 0.02 * expected.norm()
