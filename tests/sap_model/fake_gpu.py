"""Every path of a model on a pretended GPU, without computing anything: run as a program.

    python -m tests.sap_model.fake_gpu [--fault] PATH:SIZE...

Fake tensors know their shape, type and device. An operation on tensors of two devices is an error,
as it would be on a GPU; so is reading a value on the way (`.item()`), which a GPU would be waited
for. (Types that do not fit are not found: that takes computing, in bfloat16 on the CPU.) A build of
torch without CUDA cannot pretend to have it, but a device of a new name works; it is registered for
the process, hence a program.

Prints a line of JSON for each PATH:SIZE: what went wrong, or null.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
from training.loss_fns import CORE_LOSS_KEY

from sap_model.check_gpu import workloads
from sap_model.model.build import build
from sap_model.model.tracker import ScanTracker
from sap_model.predict.memory import MemoryPredictor
from sap_model.train.loss import FromScratchLoss, Sam2Loss

NAME, SIDE = "fakegpu", 64
MODE = FakeTensorMode(allow_non_fake_inputs=True)


def device() -> torch.device:
    return torch.device(NAME, 0)


def move(module: nn.Module) -> Any:
    """A module on the device. Tensors that `Module.to` would leave behind stay on the CPU."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                empty = torch.empty(parameter.shape, dtype=parameter.dtype, device=device())
                part._parameters[name] = nn.Parameter(empty, parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=device())
        for name, value in part.__dict__.items():
            if isinstance(value, Tensor):
                part.__dict__[name] = MODE.from_tensor(value)
    return module


@contextmanager
def constants() -> Iterator[None]:
    """Have new tensors with values go by way of the CPU: the device computes nothing."""
    tensors, arrays = torch.tensor, torch.from_numpy

    def forget(found: Tensor) -> Tensor:
        found.constant = None  # its value is not followed
        return found

    def tensor(data: Any, *, device: Any = None, **options: Any) -> Tensor:
        found = forget(tensors(data, **options))
        return found if device is None else found.to(device)

    def from_numpy(data: Any) -> Tensor:
        return forget(arrays(data))

    def new_tensor(self: Tensor, data: Any) -> Tensor:
        return tensor(data, device=self.device).to(self.dtype)

    torch.tensor, torch.from_numpy = tensor, from_numpy
    torch.Tensor.new_tensor = new_tensor
    try:
        yield
    finally:
        torch.tensor, torch.from_numpy = tensors, arrays
        del torch.Tensor.new_tensor  # its base class has it


def predict(size: str, fault: bool) -> None:
    """Encode views, follow one object and two, correct a mask."""
    model = build(size, SIDE)
    assert isinstance(model, ScanTracker)
    with MODE, constants():
        move(model)
        if fault:
            model.no_mem_embed = nn.Parameter(MODE.from_tensor(torch.zeros(1, 1, model.hidden_dim)))
        features = model.encode(np.zeros((2, SIDE, SIDE, 3), np.uint8))
        predictor = MemoryPredictor(model)
        for objects in (1, 2):
            batch = workloads.prompts(3, objects, SIDE)
            batch.views[:] %= 2
            seen, *_ = predictor._follow(features, batch)
            assert seen.device == device()
        one = replace(workloads.prompts(1, 1, SIDE), masks={0: np.zeros((1, 16, 16), np.float32)})
        one.views[:] = 0
        for visit in model.follow(features, one):
            assert visit.logits.device == device()


def train(size: str, fault: bool) -> None:
    """A step: forward, losses, backward; for nano also without recomputing activations."""
    for checkpointing in (True, False) if size == "nano" else (True,):
        network = workloads.trainer(size, SIDE, checkpointing)
        batch = workloads.clip(2, 2, SIDE, images=2)
        with MODE, constants():
            move(network)
            names = ("images", "truth", "views", "bits")
            fake = {name: MODE.from_tensor(getattr(batch, name)) for name in names}
            moved = replace(batch, **fake)
            moved = moved if fault else moved.to(device())
            if fault:
                moved = replace(moved, images=moved.images.to(device()).float())
            network.prob_to_correct_given = float(not checkpointing)
            network.num_correction_pt_per_frame = 1
            network.seed(0)
            tracked = network(moved)
            losses = [Sam2Loss(checkpointing)(tracked, moved.masks)]
            if size == "nano":
                losses.append(FromScratchLoss()(tracked, moved.masks))
            torch.stack([each[CORE_LOSS_KEY] for each in losses]).sum().backward()
            for name, parameter in network.named_parameters():
                assert parameter.grad is None or parameter.grad.device == device(), name


PATHS = {"predict": predict, "train": train}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fault", action="store_true", help="leave tensors on the CPU")
    parser.add_argument("jobs", nargs="+")
    options = parser.parse_args()
    _setup_privateuseone_for_python_backend(NAME)
    getattr(torch, NAME).get_amp_supported_dtype = lambda: [torch.bfloat16]
    for job in options.jobs:
        path, _, size = job.partition(":")
        error = None
        try:
            PATHS[path](size, options.fault)
        except Exception as found:
            error = f"{type(found).__name__}: {str(found).splitlines()[0]}"
        print(json.dumps({"job": job, "error": error}), flush=True)


if __name__ == "__main__":
    main()
