"""Weights from a file of anybody: SAM2's own layout, and those that other trainers write.

Nothing in a file is run: pickles are read with `weights_only`. A file is taken where it is certain
which of its tensors are a SAM2: names may have a prefix (`module.` of DistributedDataParallel,
`_orig_mod.` of torch.compile), and the names with their tensors may lie under `model`, `state_dict`
or any other entry. A file with two models is refused, unless one of them is SAM2's own `model`.
"""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import UserError

State = dict[str, Tensor]

ENCODERS = (
    "image_encoder.trunk.patch_embed.proj.weight",
    "image_encoder.trunk.stem.weight",  # the nano's
)
"""Tensors of which every SAM2 has one, and nothing else has any."""

MOST_BYTES = 32 * 2**30
"""Of a file's tensors: ten times a large SAM2 with the state of its optimiser."""

DEEPEST = 3
"""Entries within entries in which weights are looked for."""

_STRANGERS = (
    ("vision_encoder.", "names weights as the transformers library does; take Meta's .pt file"),
    ("image_encoder.blocks.", "holds weights of SAM 1; take those of SAM 2.1"),
    ("image_encoder.pos_embed", "holds weights of SAM 1; take those of SAM 2.1"),
)
"""A part of a name, and what it says about the file."""


def read_weights(path: Path) -> State:
    """The weights of the SAM2 in a file, by SAM2's names, on the CPU.

    Raises:
        UserError: The file is missing, damaged, too large, or would run code; or it does not hold
            exactly one SAM2.
    """
    content = _load(path)
    found = dict(_models(content))
    own = found.get("model:")
    if own is not None or len(found) == 1:
        return own if own is not None else next(iter(found.values()))
    if found:
        places = " and ".join(place.strip(":") or "its top level" for place in found)
        raise UserError(
            f"{path} holds {len(found)} models ({places}); save the one that is meant as "
            '{"model": weights}'
        )
    names = list(_names(content))
    for part, about in _STRANGERS:
        if any(part in name for name in names):
            raise UserError(f"{path} {about}")
    raise UserError(
        f"{path} is no SAM2 checkpoint: none of its {len(names)} tensors is called {ENCODERS[0]}; "
        "name another file"
    )


def _load(path: Path) -> Any:
    try:
        with open(path, "rb") as file:
            head = file.read(9)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; correct CHECKPOINT") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if head[8:] == b"{":
                # late: few files need it
                from safetensors.torch import load_file

                return load_file(path)
            is_zip = head[:4] == b"PK\x03\x04"
            if is_zip:
                _check_size(path)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except UserError:
        raise
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} was refused: it holds more than weights, or is no checkpoint at all; save "
            '{"model": model.state_dict()}'
        ) from None
    except Exception as error:  # of whatever a damaged file makes torch do
        reason = (str(error).splitlines() or ["it ends too early"])[0][:200]
        if isinstance(error, KeyError):
            reason = "its first bytes are those of another kind of file"
        raise UserError(f"{path} cannot be read as a checkpoint: {reason}; get it again") from None


def _check_size(path: Path) -> None:
    """Refuse files that inflate: torch stores tensors as they are."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        broken = archive.testzip()  # torch does not look at the checksums
    if broken is not None:
        raise UserError(f"{path} is damaged: the checksum of {broken} is wrong; get it again")
    total = sum(member.file_size for member in members)
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise UserError(f"{path} is compressed; save the weights with torch.save, which does not")
    if total > MOST_BYTES:
        raise UserError(
            f"{path} holds {total} bytes, more than {MOST_BYTES}; save the weights alone"
        )


def _models(content: Any, place: str = "", depth: int = 0) -> Iterator[tuple[str, State]]:
    """Every SAM2 in a file: where it is, as "entry:prefix", and its weights."""
    if not isinstance(content, Mapping) or depth > DEEPEST:
        return
    for name in list(content):
        if isinstance(name, str) and name.endswith(ENCODERS) and torch.is_tensor(content[name]):
            prefix = name[: name.rindex("image_encoder.")]
            if prefix == "" or prefix.endswith("."):
                yield f"{place}:{prefix}", _without_prefix(content, prefix)
    for name, entry in content.items():
        if isinstance(entry, Mapping):
            yield from _models(entry, f"{place}.{name}" if place else str(name), depth + 1)


def _without_prefix(content: Mapping[Any, Any], prefix: str) -> State:
    return {
        name.removeprefix(prefix): weight
        for name, weight in content.items()
        if isinstance(name, str) and name.startswith(prefix) and torch.is_tensor(weight)
    }


def _names(content: Any, depth: int = 0) -> Iterator[str]:
    """Names of all tensors."""
    if isinstance(content, Mapping) and depth <= DEEPEST:
        for name, entry in content.items():
            if torch.is_tensor(entry):
                yield str(name)
            yield from _names(entry, depth + 1)
