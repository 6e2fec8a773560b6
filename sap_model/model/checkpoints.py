"""Loading weights: official SAM2 checkpoints and fine-tuned ones, from a file, the Hub or our own.

A checkpoint is what SAM2 publishes: a file of `torch.save({"model": state_dict})`, beside which
other entries are allowed and ignored. It is read with `weights_only`, so that a file that would run
code is refused.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import cast

import torch
from sam2.modeling.sam2_base import SAM2Base

from pipeline.errors import UserError
from sap_model.model.build import SIZES, build, signature
from sap_model.model.tracker import ScanTracker

WEIGHTS = Path(__file__).parent / "weights"
"""Folder of the weights that come with this package."""

SHIPPED = {
    "sam2-nano": "sam2_nano.pt",
    "sap-nano": "sap_nano.pt",
}
"""Name of a checkpoint: its file in `WEIGHTS`. sap-<size> was fine-tuned along the scan; the same
model before that is sam2-<size>, in place of SAM2's weights: Meta has none of that size."""

OFFICIAL = {
    "nano": "sam2-nano",
    "tiny": "facebook/sam2.1-hiera-tiny:sam2.1_hiera_tiny.pt",
    "small": "facebook/sam2.1-hiera-small:sam2.1_hiera_small.pt",
    "base_plus": "facebook/sam2.1-hiera-base-plus:sam2.1_hiera_base_plus.pt",
    "large": "facebook/sam2.1-hiera-large:sam2.1_hiera_large.pt",
}
"""Size: where Meta publishes its SAM2.1 weights on the Hub, or the shipped ones in their place."""

HUB_ID = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(:(?P<file>.+))?")

SUFFIXES = (".pt", ".pth")

NAMED = 5
"""Names that an error message lists of each kind before it counts the rest."""

State = dict[str, torch.Tensor]


def load(
    size: str | None,
    checkpoint: str | Path,
    image_size: int | None = None,
    device: str | torch.device | None = None,
) -> ScanTracker:
    """A model for prediction, with the weights of a checkpoint.

    Args:
        size: One of `SIZES` or a YAML file; None for whichever of `SIZES` the checkpoint fits.
        checkpoint: A file, a name of `SHIPPED`, a Hub id "user/name[:file]", or "official" for
            the weights of that size in `OFFICIAL`.
        image_size: Side S of the square input in pixels; the size's own unless told otherwise.
        device: The GPU if there is one, unless told otherwise.

    Raises:
        UserError: The checkpoint cannot be had, or does not fit.
    """
    path = find(checkpoint, size)
    state = read(path)
    if size is None:
        size = size_of(state)
        if size is None:
            raise UserError(f"{path} fits none of the sizes {', '.join(SIZES)}: name a YAML file")
    network = cast(ScanTracker, build(size, image_size))
    fill(network, state, path)
    return network.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def fill(network: SAM2Base, state: State, source: Path) -> None:
    """Put weights from a file into a model of any class, or say what keeps them from fitting.

    Raises:
        UserError: Names are missing or unexpected, or shapes differ. The message lists them, and
            names the size of `SIZES` that would fit.
    """
    wanted = network.state_dict()
    differences = compare(wanted, state)
    if differences:
        ours, theirs = size_of(wanted), size_of(state)
        hint = f"; it is for size {theirs}" if theirs and theirs != ours else ""
        raise UserError(f"{source} does not fit size {ours or 'of your own'}{hint}: {differences}")
    broken = [n for n, w in state.items() if w.is_floating_point() and not w.isfinite().all()]
    if broken:
        raise UserError(f"{source} holds weights that are no numbers (NaN): {broken[0]}")
    network.load_state_dict(state)


def sap_weights(size: str) -> str | None:
    """The shipped checkpoint of `SHIPPED` that was fine-tuned along the scan, if there is one."""
    name = f"sap-{size}"
    return name if name in SHIPPED else None


def find(checkpoint: str | Path, size: str | None = None) -> Path:
    """The file of a checkpoint, fetched from the Hub if it is a Hub id and not yet in its cache.

    An existing file wins over a shipped checkpoint or a Hub id of the same name.

    Args:
        checkpoint: See `load`.
        size: Whose "official" weights are meant; needed for no other checkpoint.

    Raises:
        UserError: There is no such checkpoint, or it cannot be fetched.
    """
    if checkpoint == "official":
        if size not in OFFICIAL:
            raise UserError(f"no official weights of size {size}: choose one of {list(OFFICIAL)}")
        checkpoint = OFFICIAL[size]
    path = Path(checkpoint)
    if path.is_file():
        return path
    if str(checkpoint) in SHIPPED:
        path = WEIGHTS / SHIPPED[str(checkpoint)]
        if not path.is_file():
            raise UserError(
                f"the weights {checkpoint} should come with this package but {path} is missing: "
                "get the package again, or name another checkpoint"
            )
        return path
    hub_id = HUB_ID.fullmatch(str(checkpoint))
    if hub_id is None or (hub_id["file"] is None and path.suffix in SUFFIXES):
        raise UserError(f"no checkpoint {checkpoint}: name a file, or user/name[:file] on the Hub")
    return _fetch(hub_id["repo"], hub_id["file"])


def read(path: Path) -> State:
    """The state dict in a checkpoint file, on the CPU."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} was refused: it holds more than weights, or is no checkpoint at all"
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else "it ends too early"
        raise UserError(f"{path} cannot be read as a checkpoint: {reason}") from error
    state = content.get("model") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(torch.is_tensor(x) for x in state.values()):
        raise UserError(f"{path} is no SAM2 checkpoint: it has no 'model' entry of weights")
    return state


def size_of(state: State) -> str | None:
    """The size of `SIZES` that weights belong to, by the width and depth of the image encoder."""
    trunk = "image_encoder.trunk."
    first = state.get(trunk + "patch_embed.proj.weight")
    if first is None:
        return None
    blocks = {name.split(".")[3] for name in state if name.startswith(trunk + "blocks.")}
    return next((size for size in SIZES if signature(size) == (len(first), len(blocks))), None)


def compare(wanted: State, given: State) -> str:
    """What keeps given weights from fitting, in words; empty if nothing does."""
    shapes = [
        f"{name} is {tuple(given[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in wanted.keys() & given.keys()
        if given[name].shape != wanted[name].shape
    ]
    kinds = {
        "missing": sorted(wanted.keys() - given.keys()),
        "unexpected": sorted(given.keys() - wanted.keys()),
        "of another shape": sorted(shapes),
    }
    return "; ".join(
        f"{len(names)} {kind}: {', '.join(names[:NAMED])}{', …' if len(names) > NAMED else ''}"
        for kind, names in kinds.items()
        if names
    )


def _fetch(repo: str, name: str | None) -> Path:
    """A file of a model repository on the Hub; its only checkpoint if none is named."""
    # late: whoever has the file needs no Hub client
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HFValidationError, HTTPError

    try:
        if name is None:
            listed = HfApi().list_repo_files(repo)
            names = [file for file in listed if file.endswith(SUFFIXES)]
            if len(names) != 1:
                raise UserError(
                    f"{repo} on the Hub holds {len(names)} checkpoints: name one as {repo}:FILE"
                    + (f", of {', '.join(names)}" if names else "")
                )
            name = names[0]
        return Path(hf_hub_download(repo, name))
    except (HTTPError, HFValidationError, OSError) as error:
        # no such repository or file, no right to it, no network
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{repo}:{name or '?'} cannot be fetched from the Hub: {reason}") from error
