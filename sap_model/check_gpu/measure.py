"""Seconds and memory of encoding, following and training, with fresh weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, cast

import torch

from sap_model.check_gpu import workloads
from sap_model.model.build import build
from sap_model.model.tracker import Features, PromptBatch, ScanTracker
from sap_model.names import Precision
from sap_model.train.cost import clip_flops, count

REPEATS = 3
"""Measurements of quick work on a GPU, after one that warms up; the fastest counts."""

FRAMES_PER_SECOND = {"tiny": 47.2, "large": 24.2}
"""What docs/results.md derives its costs from: SAM2's README, SAM 2.1, 1024 × 1024, not compiled;
each frame is encoded, and one object is followed to it."""

ASSUMED_FLOPS = 0.3 * 989e12
"""Operations per second of a GPU in training that docs/results.md assumes: 30 % of an H100's."""


@dataclass(frozen=True)
class Measurement:
    """One line of the table.

    Attributes:
        work: What was done.
        size: Of the model.
        precision: It was computed in.
        objects, frames: 0 where they do not apply.
        checkpointing: Whether activations were recomputed, for training.
        seconds: Per view, frame or step, as `work` says; None where it failed.
        memory_gib: Peak on the GPU; None on a CPU.
        expected: Seconds that the cost model of docs/results.md predicts, where it predicts any.
        teraflops: Operations per second that were sustained, where they are counted.
        flash: Whether a flash attention kernel ran; None where that is not known.
        note: Why there are no seconds.
    """

    work: str
    size: str
    precision: str
    objects: int = 0
    frames: int = 0
    checkpointing: bool | None = None
    seconds: float | None = None
    memory_gib: float | None = None
    expected: float | None = None
    teraflops: float | None = None
    flash: bool | None = None
    note: str = ""

    def json(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        sizes: Of models.
        image_size: Side of their input.
        objects, frames: Numbers of them; all combinations are measured.
        device: Where.
    """

    sizes: tuple[str, ...]
    image_size: int
    objects: tuple[int, ...]
    frames: tuple[int, ...]
    device: torch.device

    @property
    def precisions(self) -> tuple[Precision, ...]:
        return ("bf16", "float32") if self.device.type == "cuda" else ("float32",)


def measurements(plan: Plan, has_time: Callable[[], bool]) -> Iterator[Measurement]:
    """Measure, most wanted first; work that does not fit into the time is listed with a note."""
    for size in plan.sizes:
        yield from _prediction(plan, size, has_time)
    for size in plan.sizes:
        yield from _training(plan, size, has_time)


def _prediction(plan: Plan, size: str, has_time: Callable[[], bool]) -> Iterator[Measurement]:
    model = cast(ScanTracker, build(size, plan.image_size)).to(plan.device)
    frame = workloads.panorama(2 * plan.image_size)[:, : plan.image_size]
    frames = frame[None].repeat(workloads.VIEWS, axis=0)
    for precision in plan.precisions:
        model.precision = precision
        encoding, features = Measurement("encode, per view", size, precision), None
        if has_time():
            features = model.encode(frames)  # also warms up
            repeats = REPEATS if plan.device.type == "cuda" else 1
            encode = partial(model.encode, frames)
            encoding = _measured(encoding, plan.device, encode, workloads.VIEWS, repeats)
            yield encoding
        else:
            yield _skipped(encoding)
        if precision != plan.precisions[0]:
            continue
        for length in plan.frames:
            for objects in plan.objects:
                about = Measurement("follow, per frame", size, precision, objects, length)
                if features is None or not has_time():
                    yield _skipped(about)
                    continue
                batch = workloads.prompts(length, objects, plan.image_size)
                follow = partial(_follow, model, features, batch)
                expected = None
                if objects == 1 and size in FRAMES_PER_SECOND and encoding.seconds:
                    expected = 1 / FRAMES_PER_SECOND[size] - encoding.seconds
                yield _measured(about, plan.device, follow, length, 1, expected)


def _follow(model: ScanTracker, features: Features, batch: PromptBatch) -> None:
    for _ in model.follow(features, batch):
        pass


def _training(plan: Plan, size: str, has_time: Callable[[], bool]) -> Iterator[Measurement]:
    half = plan.device.type == "cuda"
    forward, backward = None, None
    for checkpointing in (True, False):
        network = None
        for length in plan.frames:
            for objects in plan.objects:
                about = Measurement(
                    "training step of one clip", size, "bf16" if half else "float32",
                    objects, length, checkpointing,
                )  # fmt: skip
                if not has_time():
                    yield _skipped(about)
                    continue
                if network is None:
                    network = workloads.trainer(size, plan.image_size, checkpointing)
                    network = network.to(plan.device)
                if half and (forward is None or backward is None):
                    forward, backward = count(size, plan.image_size)
                seen = sum(t % workloads.VIEWS in workloads.PROMPTED for t in range(length))
                shape = (objects, length, seen, workloads.VIEWS)
                parts = [part for part in (forward, backward) if part is not None]
                work = sum(clip_flops(part, *shape) for part in parts)
                batch = workloads.clip(length, objects, plan.image_size)
                yield _measured(
                    about,
                    plan.device,
                    partial(workloads.training_step, network, batch, half),
                    1,
                    1,
                    work / ASSUMED_FLOPS or None,
                    work,
                )


def _measured(
    about: Measurement,
    device: torch.device,
    run: Callable[[], Any],
    units: int,
    repeats: int,
    expected: float | None = None,
    work: float | None = None,
) -> Measurement:
    """The measurement with its numbers filled in.

    Args:
        about: What is measured.
        device: Where `run` computes.
        run: The work. On a GPU its first call warms up and says which attention kernels ran.
        units: Views, frames or steps of a call.
        repeats: Calls that are measured.
        expected: Seconds per unit that the cost model predicts.
        work: Operations of a call.
    """
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    try:
        flash = _ran_flash(run) if on_gpu else None
        times = []
        for _ in range(repeats):
            started = time.perf_counter()
            run()
            if on_gpu:
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - started)
    except torch.cuda.OutOfMemoryError:
        return replace(about, note="out of memory")
    seconds = min(times)
    return replace(
        about,
        seconds=seconds / units,
        memory_gib=torch.cuda.max_memory_allocated(device) / 2**30 if on_gpu else None,
        expected=expected,
        teraflops=work / seconds / 1e12 if work else None,
        flash=flash,
    )


def _ran_flash(run: Callable[[], Any]) -> bool:
    """Whether a call launches a kernel of flash attention."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as record:
        run()
        torch.cuda.synchronize()
    return any("flash" in event.key.lower() for event in record.key_averages())


def _skipped(about: Measurement) -> Measurement:
    return replace(about, note="no time left")
