"""The paper's fine-tuning on GPUs, from counted operations: part 5 of `tests.benchmarks.training`.

python -m tests.benchmarks.training --paper

Everything that is assumed is printed above the table. Operations come from the real networks
(`sap_model.train.cost`), the loader's CPU-seconds are measured on 4K panoramas.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import torch

from sap_model.train import cost
from sap_model.train.scan_clips import ScanClips, ShardRows
from sap_model.train.settings import TrainSettings, Watch
from sap_model.train.train import train
from tests.benchmarks import verifying

PANORAMAS, GPUS, FRAMES, VIEWS, IMAGE_SIZE = 183_440, 8, 48, 24, 1024

PEAK, UTILISATION = 989e12, (0.25, 0.35)
"""Of an H100 with dense bfloat16, and what training makes of it."""

CONDITIONING = {"as at inference": 8, "as in SAM2's training": 2}
"""Conditioning frames of 48; half of the clips are of each kind."""

OBJECTS = (1, 3, 6)

STEPS = 8
"""Of the short run, which sees as many panoramas: none is decoded twice."""

A100, FRAMES_PER_SECOND = 312e12, {"tiny": 47.2, "large": 24.2}
"""Peak of the GPU, and frames per second of one object that SAM2's README gives for it."""


def main() -> None:
    seconds = _loader()
    print(
        f"\nAssumed: {PANORAMAS:,} panoramas once, {FRAMES} frames at {IMAGE_SIZE} px, {GPUS} GPUs"
    )
    print(
        f"of {PEAK / 1e12:.0f} TFLOP/s (H100, dense bfloat16) that sustain {UTILISATION[0]:.0%} to"
    )
    print(f"{UTILISATION[1]:.0%} of it; checkpointing; encoder frozen; half of the clips have")
    print("8 conditioning frames and half 2; no time for optimiser, gradients' sum or waiting.")
    print(f"Measured: {seconds:.2f} CPU-s of the loader per panorama.")
    print("\n| TFLOP | encode a view | condition | follow, 7 memories | each with backward |")
    print("|---|---|---|---|---|")
    counted = {size: cost.count(size, IMAGE_SIZE) for size in FRAMES_PER_SECOND}
    for size, (forward, backward) in counted.items():
        follow = [each.follow + cost.RECENT * each.memory for each in (forward, backward)]
        cells = (forward.encode, forward.condition, follow[0])
        print(f"| {size} | " + " | ".join(f"{cell / 1e12:.2f}" for cell in cells), end="")
        print(
            f" | {(forward.condition + backward.condition) / 1e12:.2f}, {sum(follow) / 1e12:.2f} |"
        )
    print()
    for size, (forward, _) in counted.items():
        work = forward.encode + forward.follow + cost.RECENT * forward.memory
        share = FRAMES_PER_SECOND[size] * work / A100
        print(
            f"For comparison: the {FRAMES_PER_SECOND[size]} frames/s that SAM2's README gives for"
        )
        print(f"{size}, an object at a time, are {share:.0%} of an A100's peak.")
    print("\n| size, objects | encoded once, hours | every frame, hours | ratio", end="")
    print(f" | of encoding alone | loader cores for {GPUS} GPUs |\n|---|---|---|---|---|---|")
    for size, passes in counted.items():
        for objects in OBJECTS:
            _row(size, passes, objects, seconds)


def _row(size: str, passes: tuple[cost.Flops, cost.Flops], objects: int, seconds: float) -> None:
    ours, theirs = (
        np.mean([
            sum(cost.clip_flops(each, objects, FRAMES, prompted, images) for each in passes)
            for prompted in CONDITIONING.values()
        ])
        for images in (VIEWS, objects * FRAMES)
    )  # fmt: skip
    sustained = [share * PEAK for share in UTILISATION]
    spans = [
        "–".join(
            f"{cost.hours(float(work), PANORAMAS, GPUS, each):.0f}" for each in sustained[::-1]
        )
        for work in (ours, theirs)
    ]
    cores = "–".join(
        f"{cost.loader_cores(float(ours), seconds, GPUS, each):.0f}" for each in sustained
    )
    encoding = objects * FRAMES / VIEWS
    print(f"| {size}, {objects} | {spans[0]} | {spans[1]} | {theirs / ours:.2f} |", end="")
    print(f" {encoding:.0f} | {cores} |", flush=True)


def shards(folder: Path, panoramas: int = STEPS) -> Path:
    """Shards of one 4K panorama with 62 instances, several times over."""
    folder.mkdir(parents=True)
    verifying._write(folder, verifying._row(4096), panoramas)
    return folder


def _loader(repeats: int = 3) -> float:
    """CPU-seconds from a row to a clip of 24 views: decoding, rendering views and their ids."""
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as scratch:
        rows = ShardRows([str(shards(Path(scratch) / "data", 1))], "train")
        source = ScanClips(
            rows, IMAGE_SIZE, 6, FRAMES, inference_prompt_fraction=0.5, min_pixels=64
        )
        times = []
        for k in range(repeats + 1):  # the first one makes the views' tables
            start = time.process_time()
            source.clip(0, np.random.default_rng(k))
            times.append(time.process_time() - start)
    return median(times[1:])


def run(data: str, out: Path, workers: int) -> None:
    """A short real run: nano at 256, one object, 6 frames."""
    settings = TrainSettings(
        data=(data,), size="nano", image_size=256, checkpoint=None, clip_objects=1, clip_frames=6,
        batch_size=1, steps=STEPS, min_pixels=16,
    )  # fmt: skip
    train(settings, out, Watch(log_every=STEPS, save_every=100, clips=0, workers=workers))


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
