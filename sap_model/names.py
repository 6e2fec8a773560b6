"""Names that settings accept, apart from the modules that give them their meaning: those are slow
to load, and the command line lists the names without them."""

from __future__ import annotations

from typing import Literal

Fusion = Literal["max", "mean"]
"""How the masks of views become one; see `sap_model.scan.fusion`."""

Visits = Literal["last", "all"]
"""Which visits to a view count, where a scan visits views more than once."""

Prompted = Literal["every", "first"]
"""Which visits to a view that sees the clicks are prompted."""

Corrections = Literal["clicks", "masks"]
"""What a correction is given: all clicks so far, or the previous masks of the views as well."""

Precision = Literal["auto", "bf16", "float32"]
"""What a model computes in; auto takes bf16 on GPUs and float32 on CPUs."""

TrainedMethod = Literal["sap", "erp", "sap-no-overlap", "sap-no-scan"]
"""The methods that have weights of their own: SAP and its ablations."""

Method = Literal[
    "sam2",
    "sam2-pad",
    "scan",
    "warp",
    "zoom",
    "sap",
    "erp",
    "sap-no-overlap",
    "sap-no-scan",
    "oracle",
]
"""The keys of `sap_model.predict.methods.METHODS`."""

SIZE_HELP = "model size: nano, tiny, small, base_plus, large, or a YAML file"
"""The keys of `sap_model.model.build.CONFIGS`, for help."""
