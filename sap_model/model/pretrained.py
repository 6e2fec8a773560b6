"""Models as folders: `config.json` and `model.safetensors`, here or on the Hub.

    folder = save_pretrained(model, Path("mine"), method="zoom")
    push_to_hub(model, "user/name", method="zoom")
    found = find_pretrained("user/name")         # size, image_size, method, weights

A repository without our `config.json` is taken as well where it holds one checkpoint: SAM2's own
ones are.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import __version__
from pipeline.errors import UserError
from sap_model.model.build import SIZES
from sap_model.model.checkpoints import HUB_ID, fetch, find, hub_files, size_of
from sap_model.model.tracker import ScanTracker

CONFIG, WEIGHTS = "config.json", "model.safetensors"

LIBRARY = "sap-panorama"
"""`library_name` in our config.json: other libraries have files of the same name."""

README = """---
library_name: {library}
pipeline_tag: mask-generation
---
# {repo}

Weights of a SAM2 of size {size} for 360° panoramas.

```python
from sap_model.predict.predictor import SapPredictor

predictor = SapPredictor.from_pretrained("{repo}")
```
"""


@dataclass(frozen=True)
class Pretrained:
    """Where a model lies, and what its config.json says about it."""

    weights: Path
    size: str | None = None
    image_size: int | None = None
    method: str | None = None


def find_pretrained(source: str | Path, revision: str | None = None) -> Pretrained:
    """A model by name; what is on the Hub is fetched, unless the cache holds it.

    Args:
        source: A folder of `save_pretrained`, a file of weights, "sap-nano" or "sam2-nano", or a
            Hub id "user/name[:file]".
        revision: Branch, tag or commit on the Hub.

    Raises:
        UserError: There is no such model, or its config.json is not one of ours.
    """
    if Path(source).is_dir():
        folder = Path(source)
        config = folder / CONFIG
        if config.is_file() and (found := _read_config(config)) is not None:
            return Pretrained(folder / WEIGHTS, **found)
        return Pretrained(find(folder))
    hub_id = HUB_ID.fullmatch(str(source))
    if hub_id is None or hub_id["file"] or Path(source).is_file():
        return Pretrained(find(source, revision=revision))
    repo = hub_id["repo"]
    if {CONFIG, WEIGHTS} <= set(hub_files(repo, revision)):
        found = _read_config(fetch(repo, CONFIG, revision))
        if found is not None:
            return Pretrained(fetch(repo, WEIGHTS, revision), **found)
    return Pretrained(find(source, revision=revision))


def save_pretrained(model: ScanTracker, folder: str | Path, method: str) -> Path:
    """Write config.json and model.safetensors into a folder, which is made if it is missing.

    Args:
        model: Of one of `SIZES`.
        folder: Where to; older files of these two names are replaced.
        method: Key of `METHODS` that the weights are meant for.

    Raises:
        UserError: The model is of no named size, or the folder cannot be written.
    """
    # late: only models that are saved need it
    from safetensors.torch import save_file

    state = model.state_dict()
    config = {
        "library_name": LIBRARY,
        "version": __version__,
        "size": _named_size(model),
        "image_size": model.image_size,
        "method": method,
    }
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        weights = {
            name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()
        }
        save_file(weights, path / WEIGHTS, {"format": "pt"})
        (path / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}; choose another") from None
    return path


def push_to_hub(
    model: ScanTracker,
    repo: str,
    method: str,
    private: bool = True,
    token: str | None = None,
) -> str:
    """Send a model to a repository of the Hub, which is made if it is missing; its address.

    Args:
        model, method: As for `save_pretrained`.
        repo: "user/name".
        private: Whether a new repository is private.
        token: With the right to write; the one of `hf auth login` or HF_TOKEN unless given.

    Raises:
        UserError: The Hub refuses it or is out of reach.
    """
    # late: whoever only segments needs no Hub client
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, HTTPError

    api = HfApi(token=token)
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        has_card = "README.md" in api.list_repo_files(repo)
        with tempfile.TemporaryDirectory() as name:
            folder = save_pretrained(model, name, method)
            if not has_card:
                size = _named_size(model)
                card = README.format(library=LIBRARY, repo=repo, size=size)
                (folder / "README.md").write_text(card)
            done = api.upload_folder(
                repo_id=repo, folder_path=folder, commit_message=f"{LIBRARY} {__version__}"
            )
    except (HTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{repo} cannot be written on the Hub: {reason}; log in with: hf auth login"
        ) from error
    return str(done.commit_url)


def _named_size(model: ScanTracker) -> str:
    size = size_of(model.state_dict())
    if size is None:
        raise UserError(
            f"the model has none of the sizes {', '.join(SIZES)}; save its state_dict with torch"
        )
    return size


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "size": lambda value: value in SIZES,
    "image_size": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "method": lambda value: isinstance(value, str),
}


def _read_config(path: Path) -> dict[str, Any] | None:
    """What a config.json says; None where it is another library's.

    Raises:
        UserError: It is damaged, or of a version that has other sizes.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        raise UserError(f"{path} cannot be read as JSON; get it again") from None
    if not isinstance(content, dict) or content.get("library_name") != LIBRARY:
        return None
    found = {name: content[name] for name in _CHECKS if name in content}
    for name, value in found.items():
        if not _CHECKS[name](value):
            raise UserError(f"{path} has {name} {value!r}, which is unknown here; update {LIBRARY}")
    return found
