"""What an evaluation is: typed, strict settings, and what results of a method rest on."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline import __version__
from pipeline.errors import UserError
from sap_model.model.build import default_image_size
from sap_model.model.checkpoints import find
from sap_model.predict.methods import METHODS, checkpoint_of
from sap_model.scan.trajectory import Scan
from sap_model.scan.views import Fusion


@dataclass(frozen=True)
class EvalSettings:
    """Settings of one evaluation.

    Attributes:
        data: Folder or URL of shards.
        methods: Names of `sap_model.predict.methods.METHODS`, in the order in which they are run.
        benchmark: The data's name in results and tables.
        split: Split of the shards; None takes all of them.
        size: Model size, or a YAML file.
        checkpoint: Fine-tuned weights, for the methods that need them: a file, a Hub id or a
            shipped name. None takes the shipped ones for `sap`, where the size has some.
        sam2: SAM2's own weights, for the others: a file, a Hub id, or "official".
        image_size: Side of the model's square input in pixels. None takes the size's own.
        fov, overlap: Of the scan, degrees and share.
        fusion: "max" (the paper's) or "mean".
        clicks: Rounds of the protocol; the paper reports 1 and 3.
        structure: Whether walls, floors and the like are scored too.
        objects: Objects of each panorama, at most: evenly spaced by area. None takes all.
        limit: Panoramas, at most: evenly spaced ones. None takes all.
    """

    data: str
    methods: tuple[str, ...] = ("oracle", "sam2", "scan", "sap")
    benchmark: str = "infinigen"
    split: str | None = "validation"
    size: str = "large"
    checkpoint: str | None = None
    sam2: str = "official"
    image_size: int | None = None
    fov: float = 90.0
    overlap: float = 0.5
    fusion: Fusion = "max"
    clicks: int = 3
    structure: bool = True
    objects: int | None = None
    limit: int | None = None
    scan: Scan = field(init=False)

    def __post_init__(self) -> None:
        if not self.methods:
            raise UserError(f"METHODS is empty; choose from {', '.join(METHODS)}")
        for name in self.methods:
            if name not in METHODS:
                raise UserError(f"method {name!r}: choose from {', '.join(METHODS)}")
            self.weights_of(name)  # or say that it needs some
        if len(set(self.methods)) != len(self.methods):
            raise UserError("METHODS names a method twice")
        if self.fusion not in ("max", "mean"):
            raise UserError(f"FUSION must be max or mean, not {self.fusion}")
        if self.clicks < 1:
            raise UserError(f"CLICKS must be at least 1, not {self.clicks}")
        for name in ("objects", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name.upper()} must be at least 1, not {value}")
        object.__setattr__(self, "scan", Scan(self.fov, self.overlap))

    # Defaults are resolved here and not in the fields: `replace` with another size gets its own.
    @property
    def side(self) -> int:
        """Side of the model's square input in pixels; views are rendered at this size."""
        return default_image_size(self.size) if self.image_size is None else self.image_size

    def weights_of(self, method: str) -> str | None:
        """The checkpoint that a method is run with; None for the oracle."""
        return checkpoint_of(method, self.size, self.sam2, self.checkpoint)


def model_of(settings: EvalSettings, method: str) -> str:
    """The model's name in results: its size; empty for the oracle."""
    return "" if METHODS[method].weights == "none" else Path(settings.size).stem


def provenance(settings: EvalSettings, method: str) -> dict[str, Any]:
    """All that a method's results depend on besides the panoramas, as plain JSON types.

    Raises:
        UserError: Its weights cannot be had.
    """
    about = asdict(settings) | {"image_size": settings.side}
    for name in ("methods", "checkpoint", "sam2", "scan", "limit", "data", "split", "size"):
        del about[name]
    weights = settings.weights_of(method)
    if weights is not None:
        about["weights_sha256"] = _sha256(find(weights, settings.size))
        if Path(settings.size).is_file():
            about["size_sha256"] = _sha256(Path(settings.size))
        about["size"] = model_of(settings, method)
    return {**about, "method": method, "version": __version__}


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
