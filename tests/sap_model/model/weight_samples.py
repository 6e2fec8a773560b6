"""Checkpoints as trainers write them, and as nobody should load them, of one small model."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

State = dict[str, Tensor]
Writer = Callable[[State, Path], object]


def saved(arrange: Callable[[State], Any], **options: Any) -> Writer:
    return lambda state, path: torch.save(arrange(state), path, **options)


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: weight for name, weight in state.items()}


def halved(state: State) -> State:
    return {name: weight / 2 for name, weight in state.items()}


def averaged(state: State) -> State:
    """As torch.optim.swa_utils.AveragedModel saves itself."""
    return {"n_averaged": torch.tensor(5), **prefixed(state, "module.")}


OPTIMIZER = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(4)}}, "epoch": 3}

TAKEN: dict[str, Writer] = {
    "SAM2's own layout": saved(lambda state: {"model": state}),
    "with an optimiser beside it": saved(lambda state: {"model": state, "optimizer": OPTIMIZER}),
    "a bare state dict": saved(lambda state: state),
    "under state_dict": saved(lambda state: {"state_dict": state, "epoch": 7}),
    "under model, then state_dict": saved(lambda state: {"model": {"state_dict": state}}),
    "DistributedDataParallel": saved(lambda state: {"model": prefixed(state, "module.")}),
    "DistributedDataParallel, bare": saved(lambda state: prefixed(state, "module.")),
    "torch.compile": saved(lambda state: {"model": prefixed(state, "_orig_mod.")}),
    "both": saved(lambda state: {"model": prefixed(state, "module._orig_mod.")}),
    "Lightning": saved(lambda state: {"state_dict": prefixed(state, "model."), "loops": {}}),
    "an average alone": saved(averaged),
    "an average under ema": saved(lambda state: {"ema": state, "updates": 9}),
    "an average beside model": saved(lambda state: {"model": state, "ema": halved(state)}),
    "the older format": saved(lambda state: {"model": state}, _use_new_zipfile_serialization=False),
    "safetensors": lambda state, path: save_file(
        {name: weight.clone() for name, weight in state.items()}, path
    ),
    "safetensors with a prefix": lambda state, path: save_file(
        {name: weight.clone() for name, weight in prefixed(state, "module.").items()}, path
    ),
    "in double precision": saved(
        lambda state: {"model": {name: weight.double() for name, weight in state.items()}}
    ),
}
"""Name: what writes it. All hold the model's weights."""


class Payload:
    """Unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def cut(share: float, write: Writer) -> Writer:
    def make(state: State, path: Path) -> None:
        write(state, path)
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])

    return make


def compressed(state: State, path: Path) -> None:
    """A checkpoint whose records inflate."""
    torch.save({"model": state}, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def huge(state: State, path: Path) -> None:
    """One weight is a view of 4 bytes that counts as 4 TB."""
    name = "sam_mask_decoder.iou_token.weight"
    torch.save({"model": {**state, name: torch.zeros(1).expand(10**6, 10**6)}}, path)


def flipped(state: State, path: Path) -> None:
    """A checkpoint whose middle has other bits, as a bad disk leaves it."""
    torch.save({"model": state}, path)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(255 - byte for byte in data[middle : middle + 64])
    path.write_bytes(data)


PAYLOAD = "payload-ran"
"""The file that a payload would create, beside the checkpoint."""

REFUSED: dict[str, tuple[Writer, str]] = {
    "a pickle that runs code": (
        lambda state, path: torch.save({"model": Payload(path.parent / PAYLOAD)}, path),
        "more than weights",
    ),
    "a bare pickle that runs code": (
        lambda state, path: path.write_bytes(pickle.dumps(Payload(path.parent / PAYLOAD))),
        "more than weights",
    ),
    "a whole model, not its weights": (
        lambda state, path: torch.save(nn.Linear(2, 2), path),
        "state_dict()",
    ),
    "zero bytes": (lambda state, path: path.touch(), "cannot be read as a checkpoint"),
    "text": (lambda state, path: path.write_text("weights"), "refused"),
    "cut": (cut(0.6, TAKEN["SAM2's own layout"]), "cannot be read as a checkpoint"),
    "the older format, cut": (cut(0.6, TAKEN["the older format"]), "cannot be read"),
    "safetensors, cut": (cut(0.6, TAKEN["safetensors"]), "cannot be read as a checkpoint"),
    "compressed": (compressed, "is compressed"),
    "a tensor of 4 TB in 4 bytes": (huge, "(1000000, 1000000)"),
    "two models": (
        saved(lambda state: {"student": state, "teacher": halved(state)}),
        "holds 2 models (student and teacher)",
    ),
    "two averages by ema-pytorch": (
        saved(lambda state: {**prefixed(state, "online_model."), **prefixed(state, "ema_model.")}),
        "holds 2 models",
    ),
    "the transformers library's names": (
        saved(lambda state: {"vision_encoder.backbone.blocks.0.weight": torch.ones(2)}),
        "transformers library",
    ),
    "SAM 1": (
        saved(lambda state: {"image_encoder.blocks.0.norm1.weight": torch.ones(2)}),
        "SAM 1",
    ),
    "another architecture": (
        saved(lambda state: {"state_dict": {"conv1.weight": torch.ones(2)}}),
        "no SAM2 checkpoint",
    ),
    "a list": (saved(lambda state: [1, 2]), "no SAM2 checkpoint"),
    "a weight that is missing": (
        saved(lambda state: {k: v for k, v in state.items() if k != "maskmem_tpos_enc"}),
        "1 missing: maskmem_tpos_enc",
    ),
    "a weight too many": (
        saved(lambda state: {**state, "lora.weight": torch.ones(3, 3)}),
        "1 unexpected: lora.weight",
    ),
    "weights as integers": (
        saved(lambda state: {n: w.to(torch.int8) for n, w in state.items()}),
        "as int8 (quantised?)",
    ),
    "flipped bits": (flipped, "damaged: the checksum of"),
    "weights of 8 bits": (
        saved(lambda state: {n: w.to(torch.float8_e4m3fn) for n, w in state.items()}),
        "as float8_e4m3fn (quantised?)",
    ),
    "weights that are sparse": (
        saved(lambda state: {n: w.to_sparse() for n, w in state.items()}),
        "(quantised?)",
    ),
    "weights too large for 32 bits": (
        saved(lambda state: {n: w.double() + 1e300 for n, w in state.items()}),
        "NaN",
    ),
    "weights that are NaN": (
        saved(lambda state: {n: w * float("nan") for n, w in state.items()}),
        "NaN",
    ),
}
"""Name: what writes it, and what the refusal says."""
