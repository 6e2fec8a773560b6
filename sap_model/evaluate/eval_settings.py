"""What an evaluation is: typed, strict settings, and what results of a method rest on."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from pipeline import __version__
from pipeline.digest import sha256_of
from pipeline.errors import UserError
from pipeline.setting import Settings, setting
from sap_model.names import SIZE_HELP, Corrections, Fusion, Method, Precision, Prompted, Visits
from sap_model.scan.trajectory import Scan


@dataclass(frozen=True)
class EvalSettings(Settings):
    """Settings of one evaluation."""

    data: str = setting(help="folder or URL of shards", default_text="")
    methods: tuple[Method, ...] = setting(
        ("oracle", "sam2", "sam2-pad", "scan", "sap"), help="what is scored, in this order"
    )
    benchmark: str = setting("infinigen", help="the data's name in results and tables")
    split: str | None = setting(
        "validation",
        help="split of the shards: train, validation or all",
        parse=lambda text: None if text == "all" else text,
    )
    size: str = setting("large", help=SIZE_HELP)
    checkpoint: str | None = setting(
        None,
        help="fine-tuned weights, for the methods that need some: a file, a Hub id, a shipped name",
        default_text="the shipped ones for sap, where SIZE has some",
    )
    sam2: str = setting("official", help="SAM2's own weights, for the others: a file or a Hub id")
    image_size: int | None = setting(
        None,
        help="side of the model's input",
        unit="pixels",
        at_least=1,
        default_text="the size's own",
    )
    fov: float = setting(90.0, help="field of view of the scan's views", unit="degrees", above=0)
    overlap: float = setting(0.5, help="share that neighbouring views overlap", at_least=0, below=1)
    fusion: Fusion = setting("max", help="how views become one mask; max is the paper's")
    cycles: int = setting(
        1, help="how often the scan is run through; the paper's 2 score the same", at_least=1
    )
    visits: Visits = setting("last", help="visits to a view that count, where CYCLES is 2 or more")
    prompted: Prompted = setting(
        "every", help="visits to a view that sees a click that are prompted"
    )
    clicks: int = setting(3, help="rounds of the protocol; the paper reports 1 and 3", at_least=1)
    corrections: Corrections = setting(
        "clicks",
        help="what a further click comes with: the clicks so far (the paper's protocol), or the "
        "previous masks as well (as SAM2 corrects)",
    )
    size_thresholds: tuple[float, float] | None = setting(
        None,
        help="areas from which objects are medium and large",
        unit="pixels",
        above=0,
        default_text="as in the shards",
    )
    precision: Precision = setting("auto", help="auto takes bf16 on GPUs and float32 on CPUs")
    compile: bool = setting(
        False, help="have torch.compile make the image encoder faster: it takes minutes at first"
    )
    max_batch: int | None = setting(
        None,
        help="objects that are followed at the same time",
        at_least=1,
        default_text="1 on a CPU, 8 on a GPU",
    )
    structure: bool = setting(True, help="score walls, floors and the like too")
    objects: int | None = setting(
        None,
        help="objects of each panorama, at most: evenly spaced by area",
        at_least=1,
        default_text="all",
    )
    limit: int | None = setting(
        None, help="panoramas, at most: evenly spaced ones", at_least=1, default_text="all"
    )
    scan: Scan = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.methods:
            raise UserError(f"METHODS is empty; choose from {', '.join(get_args(Method))}")
        for name in self.methods:
            self.weights_of(name)  # or say that it needs some
        if len(set(self.methods)) != len(self.methods):
            raise UserError("METHODS names a method twice; name each once")
        if self.size_thresholds is not None and self.size_thresholds[0] > self.size_thresholds[1]:
            raise UserError(
                f"SIZE_THRESHOLDS={self.size_thresholds[0]:g},{self.size_thresholds[1]:g} fall; "
                "give the area of medium objects first"
            )
        object.__setattr__(self, "scan", Scan(self.fov, self.overlap))

    # Defaults are resolved here and not in the fields: `replace` with another size gets its own.
    @property
    def side(self) -> int:
        """Side of the model's square input in pixels; views are rendered at this size."""
        from sap_model.model.build import default_image_size  # late: loads torch

        return default_image_size(self.size) if self.image_size is None else self.image_size

    def weights_of(self, method: str) -> str | None:
        """The checkpoint that a method is run with; None for the oracle."""
        from sap_model.predict.methods import checkpoint_of  # late: loads torch

        return checkpoint_of(method, self.size, self.sam2, self.checkpoint)


def model_of(settings: EvalSettings, method: str) -> str:
    """The model's name in results: its size; empty for the oracle."""
    from sap_model.predict.methods import METHODS  # late: loads torch

    return "" if METHODS[method].weights == "none" else Path(settings.size).stem


def label_of(settings: EvalSettings, method: str) -> str:
    """The method's name in results: with what differs from the paper's protocol behind it.

    So `sap` and `sap-mean` stand beside each other in one EVAL and in its tables.
    """
    from sap_model.predict.methods import METHODS  # late: loads torch

    spec, parts = METHODS[method], [method]
    if spec.geometry is None and not spec.one_view and settings.fusion != "max":
        parts.append(settings.fusion)
    if spec.geometry is None and spec.weights != "none" and settings.corrections != "clicks":
        parts.append(settings.corrections)
    return "-".join(parts)


def provenance(settings: EvalSettings, method: str) -> dict[str, Any]:
    """All that a method's results depend on besides the panoramas, as plain JSON types.

    Device, precision and batch are known where the work is done: `jobs.check_runtime`.

    Raises:
        UserError: Its weights cannot be had.
    """
    from sap_model.model.checkpoints import find  # late: loads torch
    from sap_model.predict.methods import METHODS

    about = asdict(settings) | {"image_size": settings.side}
    for name in _ELSEWHERE:
        del about[name]
    if METHODS[method].geometry is not None:
        about["fusion"] = "mean"  # whatever is asked for
    weights = settings.weights_of(method)
    if weights is not None:
        about["weights_sha256"] = sha256_of(find(weights, settings.size))
        if Path(settings.size).is_file():
            about["size_sha256"] = sha256_of(Path(settings.size))
        about["size"] = model_of(settings, method)
    return {**about, "method": label_of(settings, method), "version": __version__}


_ELSEWHERE = (
    *("methods", "checkpoint", "sam2", "scan", "limit", "data", "split", "size"),
    *("size_thresholds", "precision", "compile", "max_batch"),
)
"""Settings that results do not depend on, or that `provenance` and `check_runtime` name otherwise.
Thresholds are applied to the areas in the results when tables are made."""
