"""Are a GPU's answers the CPU's? The same work on both, in float32 and in bfloat16."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch

from sap_model.check_gpu import workloads
from sap_model.clicks import Click
from sap_model.metrics import iou
from sap_model.model.checkpoints import load
from sap_model.names import Precision
from sap_model.predict.memory import MemoryPredictor
from sap_model.predict.objects import Prediction
from sap_model.scan.torch_views import TorchViews
from sap_model.scan.trajectory import Scan
from sap_model.scan.views import PerspectiveViews

WIDTH, SIDE = 1024, 256
"""Of the panorama, and of views, in pixels."""


class Comparison(NamedTuple):
    """One kind of work, done twice."""

    name: str
    precision: str
    difference: float
    tolerance: float
    unit: str

    @property
    def passed(self) -> bool:
        """Whether the difference is tolerable; NaN is not."""
        return self.difference <= self.tolerance


Check = Callable[[torch.device], Iterator[Comparison]]


def views(device: torch.device) -> Iterator[Comparison]:
    """Rendering and fusing in torch on a device, against NumPy and OpenCV on the CPU."""
    mapped = PerspectiveViews(Scan(), SIDE, WIDTH)
    twin = TorchViews(mapped, device)
    image = workloads.panorama(WIDTH)
    rendered = twin.render(torch.from_numpy(image).permute(2, 0, 1)).permute(0, 2, 3, 1).cpu()
    difference = np.abs(rendered.numpy() - mapped.render(image)).max()
    yield Comparison("views", "float32", float(difference), 1.5, "grey levels")
    ids = image[..., 0].astype(np.int32)
    wrong = twin.render_ids(torch.from_numpy(ids)).cpu().numpy() != mapped.render_ids(ids)
    yield Comparison("ids of views", "int32", float(wrong.mean()), 0.0, "share of pixels")
    masks = np.random.default_rng(0).random((24, SIDE, SIDE), np.float32)
    for fusion in ("max", "mean"):
        fused = twin.soft_panorama(torch.from_numpy(masks)[None], fusion)[0].cpu().numpy()
        difference = np.abs(fused - mapped.soft_panorama(masks, fusion)).max()
        yield Comparison(f"fusion, {fusion}", "float32", float(difference), 2e-3, "of 1")


def predictor(device: torch.device) -> Iterator[Comparison]:
    """The masks of the shipped small model."""
    image = workloads.panorama(WIDTH)
    objects = [[Click(500, 250, 1)], [Click(3, 300, 1), Click(400, 250, 0)]]

    def answers(place: torch.device, precision: Precision) -> list[Prediction]:
        model = load("nano", "sap-nano").to(place)
        model.precision = precision
        made = MemoryPredictor(model)
        made.set_panorama(image)
        return made.predict_many(objects, logits=True)

    expected = answers(torch.device("cpu"), "float32")
    for precision, tolerance in _tolerances(device):
        found = answers(device, precision)
        worst = max(1 - _iou(a, b) for a, b in zip(found, expected, strict=True))
        yield Comparison("masks, nano", precision, worst, tolerance, "1 - IoU")


def _tolerances(device: torch.device) -> list[tuple[Precision, float]]:
    """What may differ in each precision. CPUs compute bfloat16 slowly, and nobody asks for it."""
    found: list[tuple[Precision, float]] = [("float32", 0.02), ("bf16", 0.2)]
    return found if device.type == "cuda" else found[:1]


def _iou(a: Prediction, b: Prediction) -> float:
    return iou(a.mask, b.mask) if a.mask.any() or b.mask.any() else 1.0


def training(device: torch.device) -> Iterator[Comparison]:
    """Loss and gradient of a step of nano from fresh weights."""
    batch = workloads.clip(frames=4, objects=2, side=128, images=4)
    expected = workloads.training_step(workloads.trainer("nano", 128, True), batch, half=False)
    for precision, tolerance in _tolerances(device):
        network = workloads.trainer("nano", 128, True).to(device)
        found = workloads.training_step(network, batch, half=precision == "bf16")
        for name, a, b in zip(("loss", "gradient's norm"), found, expected, strict=True):
            yield Comparison(
                f"step, {name}", precision, abs(a - b) / abs(b), tolerance, "of itself"
            )


CHECKS: dict[str, Check] = {"views": views, "predictor": predictor, "training": training}
