"""Loading weights: official SAM2 checkpoints and fine-tuned ones, from a file, the Hub or our own.

Which files are taken says `sap_model.model.weights_file`. Weights of SAM 2.0 lack three tensors of
SAM 2.1; they are built as SAM 2.0 for prediction, and refused for training.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from sam2.modeling.sam2_base import SAM2Base

from pipeline.digest import sha256_of
from pipeline.errors import UserError
from sap_model.model.build import SIZES, build, signature
from sap_model.model.tracker import ScanTracker
from sap_model.model.weights_file import State, read_weights

WEIGHTS = Path(__file__).parent / "weights"
"""Folder of the weights that come with this package."""

SHIPPED = {
    "sap-nano": "sap_nano.pt",
    "sam2-nano": "sap_nano.pt",
}
"""Name of a checkpoint: its file in `WEIGHTS`. One file has both names: it stands in for SAM2's own
weights, of which Meta has none of that size, and it is what ships for panoramas."""

OFFICIAL = {
    "nano": "sam2-nano",
    "tiny": "facebook/sam2.1-hiera-tiny:sam2.1_hiera_tiny.pt",
    "small": "facebook/sam2.1-hiera-small:sam2.1_hiera_small.pt",
    "base_plus": "facebook/sam2.1-hiera-base-plus:sam2.1_hiera_base_plus.pt",
    "large": "facebook/sam2.1-hiera-large:sam2.1_hiera_large.pt",
}
"""Size: where Meta publishes its SAM2.1 weights on the Hub, or the shipped ones in their place."""

SHA256 = {
    "sam2.1_hiera_tiny.pt": "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69",
    "sam2.1_hiera_small.pt": "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38",
    "sam2.1_hiera_base_plus.pt": "a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5",
    "sam2.1_hiera_large.pt": "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318",
}
"""Hashes of Meta's files, which are checked after each fetch."""

HUB_ID = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(:(?P<file>.+))?")

SUFFIXES = (".pt", ".pth", ".safetensors")
FILE_SUFFIXES = (*SUFFIXES, ".ckpt", ".bin", ".pkl")

SAM_2_0_LACKS = {"no_obj_embed_spatial", "obj_ptr_tpos_proj.weight", "obj_ptr_tpos_proj.bias"}

SAM_2_0: dict[str, Any] = dict.fromkeys(
    (
        "no_obj_embed_spatial",
        "add_tpos_enc_to_obj_ptrs",
        "proj_tpos_enc_in_obj_ptrs",
        "use_signed_tpos_enc_to_obj_ptrs",
    ),
    False,
)
"""Where SAM 2.0's configurations differ from SAM 2.1's."""

NAMED = 5
"""Names that an error message lists of each kind before it counts the rest."""


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
    state = read_weights(path)
    options: dict[str, Any] = SAM_2_0 if is_sam_2_0(state) else {}
    network = cast(ScanTracker, build(size or _size_of_file(state, path), image_size, **options))
    fill(network, state, path)
    return network.to(device or best_device())


def best_device() -> str:
    """The kind of the fastest device of this machine: "cuda", "mps" (Apple's) or "cpu"."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


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
        if wanted.keys() - state.keys() == SAM_2_0_LACKS:
            hint += "; these are weights of SAM 2.0: take SAM 2.1's"
        raise UserError(
            f"{source} does not fit size {ours or 'of your own'}{hint}: {differences}"
            "; name other weights, or their SIZE"
        )
    coded = [
        n
        for n, w in state.items()
        if w.layout != torch.strided
        or w.is_meta
        or w.is_floating_point() != wanted[n].is_floating_point()
        or (w.is_floating_point() and w.dtype.itemsize < 2)
    ]
    if coded:
        kind = str(state[coded[0]].dtype).removeprefix("torch.")
        raise UserError(f"{source} holds {coded[0]} as {kind} (quantised?); save it as float")
    broken = [
        n
        for n, w in state.items()
        if w.is_floating_point() and not w.to(wanted[n].dtype).isfinite().all()
    ]
    if broken:
        raise UserError(
            f"{source} holds weights that are no numbers (NaN): {broken[0]}; name others"
        )
    network.load_state_dict(state)


def is_sam_2_0(state: State) -> bool:
    """Whether weights lack what SAM 2.1 added to SAM 2.0."""
    return not SAM_2_0_LACKS & state.keys()


def resolve_size(size: str | None, checkpoint: str | Path | None, default: str) -> str:
    """The size that is meant: the one that is named, else that of the weights, else the default.

    Raises:
        UserError: The checkpoint cannot be had, or fits none of `SIZES`.
    """
    if size is not None:
        return size
    if checkpoint is None or checkpoint == "official":
        return default
    path = find(checkpoint)
    return _size_of_file(read_weights(path), path)


def _size_of_file(state: State, path: Path) -> str:
    size = size_of(state)
    if size is None:
        raise UserError(f"{path} fits none of the sizes {', '.join(SIZES)}: name a YAML file")
    return size


def sap_weights(size: str) -> str | None:
    """The shipped checkpoint of `SHIPPED` that was fine-tuned along the scan, if there is one."""
    name = f"sap-{size}"
    return name if name in SHIPPED else None


def find(checkpoint: str | Path, size: str | None = None, revision: str | None = None) -> Path:
    """The file of a checkpoint, fetched from the Hub if it is a Hub id and not yet in its cache.

    An existing file wins over a shipped checkpoint or a Hub id of the same name. In a folder it is
    the only checkpoint.

    Args:
        checkpoint: See `load`.
        size: Whose "official" weights are meant; needed for no other checkpoint.
        revision: Branch, tag or commit on the Hub.

    Raises:
        UserError: There is no such checkpoint, or it cannot be fetched.
    """
    if checkpoint == "official":
        if size not in OFFICIAL:
            raise UserError(f"no official weights of size {size}: choose one of {list(OFFICIAL)}")
        checkpoint = OFFICIAL[size]
    path = Path(checkpoint)
    if os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises where a name is too long
        return path
    if os.path.isdir(path):  # noqa: PTH112 - as above
        return path / _only_checkpoint(str(path), [file.name for file in path.iterdir()])
    if str(checkpoint) in SHIPPED:
        path = WEIGHTS / SHIPPED[str(checkpoint)]
        if not path.is_file():
            raise UserError(
                f"the weights {checkpoint} should come with this package but {path} is missing: "
                "get the package again, or name another checkpoint"
            )
        return path
    hub_id = HUB_ID.fullmatch(str(checkpoint))
    if hub_id is None or (hub_id["file"] is None and path.suffix in FILE_SUFFIXES):
        raise UserError(f"no checkpoint {checkpoint}: name a file, or user/name[:file] on the Hub")
    repo, name = hub_id["repo"], hub_id["file"]
    if name is None:
        known = [place for place in OFFICIAL.values() if place.startswith(f"{repo}:")]
        listed = known[0].partition(":")[2:] if known else hub_files(repo, revision)
        name = _only_checkpoint(f"{repo} on the Hub", listed)
    return fetch(repo, name, revision)


def size_of(state: State) -> str | None:
    """The size of `SIZES` that weights belong to, by the width and depth of the image encoder."""
    trunk = "image_encoder.trunk."
    first = state.get(trunk + "patch_embed.proj.weight", state.get(trunk + "stem.weight"))
    if first is None or not first.ndim:
        return None
    blocks = {
        n.split(".")[3] for n in state if n.startswith((trunk + "blocks.", trunk + "stages."))
    }
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


def fetch(repo: str, name: str, revision: str | None = None) -> Path:
    """A file of a model repository on the Hub.

    Without a network, or with HF_HUB_OFFLINE=1, what the cache holds is taken.

    Raises:
        UserError: It cannot be fetched, or is one of Meta's and has another hash.
    """
    # late: whoever has the file needs no Hub client
    from huggingface_hub import hf_hub_download

    with _hub_errors(f"{repo}:{name}"):
        path = Path(hf_hub_download(repo, name, revision=revision))
    if f"{repo}:{name}" in OFFICIAL.values():
        found = sha256_of(path)
        if found != SHA256[name]:
            raise UserError(f"{path} has the SHA-256 {found}, not Meta's; remove it, and try again")
    return path


def hub_files(repo: str, revision: str | None = None) -> list[str]:
    """Names of the files of a model repository; those in the cache where there is no network.

    Raises:
        UserError: There is no such repository, and the cache has none.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError

    with _hub_errors(f"{repo}:?"):
        try:
            return HfApi().list_repo_files(repo, revision=revision)
        except (HTTPError, OSError):
            try:
                folder = snapshot_download(repo, revision=revision, local_files_only=True)
            except LocalEntryNotFoundError:
                folder = None
            if folder is None:
                raise
            paths = Path(folder).rglob("*")
            return [str(path.relative_to(folder)) for path in paths if path.is_file()]


@contextmanager
def _hub_errors(what: str) -> Iterator[None]:
    """Errors of the Hub's client as one line; it warns of none of its tries."""
    from huggingface_hub.errors import HFValidationError, HTTPError
    from huggingface_hub.utils import logging

    said = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    except (HTTPError, HFValidationError, OSError) as error:
        # no such repository or file, no right to it, no network
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{what} cannot be fetched from the Hub: {reason}; name a file that is here"
        ) from error
    finally:
        logging.set_verbosity(said)


def _only_checkpoint(place: str, listed: Iterable[str]) -> str:
    """The checkpoint among the files of a place; safetensors counts where there is no other."""
    files = list(listed)
    names = [file for file in files if file.endswith(SUFFIXES[:2])]
    names = names or [file for file in files if file.endswith(SUFFIXES)]
    if len(names) != 1:
        raise UserError(
            f"{place} holds {len(names)} checkpoints; name one"
            + (f" of {', '.join(sorted(names))}" if names else "")
        )
    return names[0]
