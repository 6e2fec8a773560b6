"""What a step of fine-tuning costs: the scan's way against SAM2's own, memory, waiting, the paper.

python -m tests.benchmarks.training [--size nano] [--image-size 256] [--views 6] [--objects 6]
                                    [--skip-steps] [--skip-parts] [--skip-memory] [--skip-waiting]
                                    [--paper]

1. Steps, measured whole. `SapTrain` encodes the views of a panorama once, for all objects and both
   cycles. SAM2Train is fed each object's window as a separate video, in SAM2's own
   BatchedVideoDatapoint. Both have the same weights, frozen encoder, prompts, windows and loss, and
   must come to the same loss and gradient. A scan of fewer than 24 views keeps the paper's 12
   frames per encoded view (6 objects, 2 cycles); it looks back at fewer memories, so that tracking
   is a little cheaper than in whole windows. Ways take turns; CPU-seconds on one thread, medians.
2. Steps, computed from parts that are measured with one object: a view encoded, and frames followed
   forward and backward (windows of 8 and of 4 frames; what the last 4 add is taken for each of the
   frames from the 9th on, though they see 4 to 7 memories instead of 7).
3. Memory: largest resident set of a step in a fresh process, with and without checkpointing.
4. Waiting: a real run on shards of 4096 × 2048 synthetic panoramas with 62 instances.
5. The paper's run on GPUs, from counted operations (`sap_model.train.cost`).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, cast

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
import torch
from training.loss_fns import CORE_LOSS_KEY
from training.model.sam2 import SAM2Train
from training.utils.data_utils import BatchedVideoDatapoint, BatchedVideoMetaData

from sap_model.model.build import build
from sap_model.train.clip import ClipBatch
from sap_model.train.loss import Sam2Loss
from sap_model.train.network import PROMPTS, TRAIN, SapTrain
from tests.benchmarks import training_paper

CLICKED = PROMPTS | {
    "prob_to_use_pt_input_for_train": 1.0,
    "prob_to_use_box_input_for_train": 0.0,
    "num_frames_to_correct_for_train": 1,
    "num_init_cond_frames_for_train": 1,
}
"""A click and seven corrections on the first frame of each window."""

CYCLES, VIEWS = 2, 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="nano")
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--views", type=int, default=6, help="of the scan in table 1")
    parser.add_argument("--objects", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--frames", type=int, nargs="+", default=[4, 8, 16], help="of table 3")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1], help="of table 4")
    parser.add_argument("--data", help="shards for table 4, rather than synthetic ones")
    for name in ("steps", "parts", "memory", "waiting"):
        parser.add_argument(f"--skip-{name}", action="store_true")
    parser.add_argument("--paper", action="store_true", help="table 5 alone")
    parser.add_argument("--child", type=int, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.child:
        print(_peak(args.size, args.image_size, args.objects, args.child[0], bool(args.child[1])))
        return
    if not args.paper:
        if not args.skip_steps:
            _steps(args.size, args.image_size, args.views, args.objects, args.repeats)
        if not args.skip_parts:
            _parts(args.size, args.image_size, args.objects)
        if not args.skip_memory:
            _memory(args.size, args.image_size, args.objects, args.frames)
        if not args.skip_waiting:
            _waiting(args.data, args.workers)
    training_paper.main()


# ---- 1. whole steps


def _steps(size: str, side: int, views: int, objects: int, repeats: int) -> None:
    ours = cast(SapTrain, build(size, side, TRAIN, **CLICKED)).train()
    options = {**CLICKED, "freeze_image_encoder": True}
    theirs = cast(SAM2Train, build(size, side, "training.model.sam2.SAM2Train", **options)).train()
    theirs.load_state_dict(ours.state_dict())
    theirs.image_encoder.eval()
    batch = _clip(side, views, CYCLES * views, objects)
    videos, targets = _videos(batch), batch.masks()
    ways: dict[str, tuple[SAM2Train, Any, int]] = {
        "ours": (ours, batch, views),
        "SAM2Train": (theirs, videos, objects * CYCLES * views),
    }
    times: dict[str, list[dict[str, float]]] = defaultdict(list)
    losses, norms = {}, {}
    small = _clip(side, 1, 2, 1)  # to warm up
    _timed(ours, small, small.masks())
    _timed(theirs, _videos(small), small.masks())
    for _ in range(repeats):
        for name, (network, given, _) in ways.items():
            seconds, losses[name], norms[name] = _timed(network, given, targets)
            times[name].append(seconds)
    torch.testing.assert_close(losses["ours"], losses["SAM2Train"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(norms["ours"], norms["SAM2Train"], rtol=1e-2, atol=1e-3)
    print(f"\n{size} at {side}, {objects} objects, {CYCLES * views} frames over {views} views\n")
    print("| way | images encoded | encoding, CPU-s | tracking and loss | backward | step |")
    print("|---|---|---|---|---|---|")
    steps = {}
    for name, (*_, images) in ways.items():
        parts = {part: median(each[part] for each in times[name]) for part in times[name][0]}
        steps[name] = median(sum(each.values()) for each in times[name])
        cells = [f"{value:.1f}" for value in (*parts.values(), steps[name])]
        print("| " + " | ".join([name, str(images), *cells]) + " |")
    pairs = zip(times["ours"], times["SAM2Train"], strict=True)
    each = ", ".join(f"{sum(b.values()) / sum(a.values()):.2f}" for a, b in pairs)
    print(f"\nSAM2Train takes {steps['SAM2Train'] / steps['ours']:.2f} times ours ({each}).")
    print(f"Same loss: {losses['ours']:.4f} and {losses['SAM2Train']:.4f}.", flush=True)


def _timed(
    network: SAM2Train, given: Any, targets: torch.Tensor
) -> tuple[dict[str, float], float, float]:
    """CPU-seconds of a step's parts, its loss, and the norm of its gradient."""
    network.zero_grad(set_to_none=True)
    network.rng = np.random.default_rng(0)
    torch.manual_seed(0)
    np.random.seed(0)  # SAM2 may draw from it too
    encode: Callable = type(network).forward_image
    encoding = 0.0

    def forward_image(images: torch.Tensor) -> Any:
        nonlocal encoding
        start = time.process_time()
        found = encode(network, images)
        encoding += time.process_time() - start
        return found

    network.forward_image = forward_image
    start = time.process_time()
    loss = Sam2Loss()(network(given), targets)[CORE_LOSS_KEY]
    forward = time.process_time()
    loss.backward()
    end = time.process_time()
    grads = [part.grad.norm() for part in network.parameters() if part.grad is not None]
    seconds = {"encode": encoding, "track": forward - start - encoding, "backward": end - forward}
    return seconds, float(loss.detach()), float(torch.stack(grads).norm())


def _clip(side: int, views: int, frames: int, objects: int) -> ClipBatch:
    """Discs on noise; every object starts at its own view and goes round."""
    random = np.random.default_rng(0)
    row, column = np.mgrid[:side, :side] / side
    images = random.integers(0, 255, (views, 3, side, side), np.uint8)
    truth = np.zeros((views, side, side), np.uint8)
    for view in range(views):
        for k in range(objects):
            x, y, radius = random.uniform((0.2, 0.2, 0.05), (0.8, 0.8, 0.2))
            truth[view] |= ((column - x) ** 2 + (row - y) ** 2 < radius**2).astype(np.uint8) << k
    order = (np.arange(frames)[:, None] + random.integers(0, views, objects)) % views
    tensors = map(torch.from_numpy, (images, truth, order, np.arange(objects)))
    return ClipBatch(*tensors, None).to(torch.device("cpu"))


def _videos(batch: ClipBatch) -> BatchedVideoDatapoint:
    """The same windows as SAM2 takes them: as many videos as objects."""
    frames, objects = batch.views.shape
    grid = torch.meshgrid(torch.arange(frames), torch.arange(objects), indexing="ij")
    nothing = torch.zeros(frames, objects, 3, dtype=torch.int64)
    return BatchedVideoDatapoint(
        img_batch=batch.images[batch.views],
        obj_to_frame_idx=torch.stack(grid, dim=-1).int(),
        masks=batch.masks(),
        metadata=BatchedVideoMetaData(
            unique_objects_identifier=nothing,
            frame_orig_size=nothing[..., :2],
            batch_size=[frames],
        ),
        dict_key="scan",
        batch_size=[frames],
    )


# ---- 2. steps from parts


def _parts(size: str, side: int, objects: int) -> None:
    network = cast(SapTrain, build(size, side, TRAIN, **CLICKED)).train()
    long, short = (_whole(network, side, frames) for frames in (8, 4))
    encode = long["encode"] / 8
    frames = CYCLES * VIEWS
    each = {part: (long[part] - short[part]) / 4 for part in ("track", "backward")}
    track, backward = (
        objects * (long[part] + (frames - 8) * each[part]) for part in ("track", "backward")
    )
    print(
        f"\n{size} at {side}, one object, measured: {encode:.2f} CPU-s to encode a view,", end=" "
    )
    print(f"{each['track']:.2f} to follow on a frame and {each['backward']:.2f} backward.", end=" ")
    print(f"Computed: {objects} objects, {frames} frames over {VIEWS} views, no checkpointing\n")
    print("| way | encoding | tracking and loss | backward | step, CPU-s |\n|---|---|---|---|---|")
    steps = []
    for name, images in (("ours", VIEWS), ("SAM2Train", objects * frames)):
        steps.append(images * encode + track + backward)
        cells = [f"{value:.0f}" for value in (images * encode, track, backward, steps[-1])]
        print("| " + " | ".join([name, *cells]) + " |")
    most = encode * objects * frames / (track + backward) + 1
    print(f"\nRatio {steps[1] / steps[0]:.2f}; {most:.2f} if encoding cost us nothing.", flush=True)


def _whole(network: SapTrain, side: int, frames: int) -> dict[str, float]:
    batch = _clip(side, frames, frames, 1)
    return _timed(network, batch, batch.masks())[0]


# ---- 3. memory


def _memory(size: str, side: int, objects: int, counts: list[int]) -> None:
    print(f"\nPeak of a step, {size} at {side}, {objects} objects, MiB above the network's\n")
    print("| frames | kept | checkpointed | times less |\n|---|---|---|---|")
    command = [sys.executable, "-m", "tests.benchmarks.training", "--size", size]
    command += ["--image-size", str(side), "--objects", str(objects), "--child"]
    for frames in counts:
        peaks = []
        for checkpointing in ("0", "1"):
            child = [*command, str(frames), checkpointing]
            answer = subprocess.run(child, capture_output=True, text=True, check=True).stdout
            peaks.append(float(answer.splitlines()[-1]))
        print(f"| {frames} | {peaks[0]:.0f} | {peaks[1]:.0f} | {peaks[0] / peaks[1]:.1f} |")


def _peak(size: str, side: int, objects: int, frames: int, checkpointing: bool) -> float:
    network = build(size, side, TRAIN, checkpointing=checkpointing, **CLICKED).train()
    batch = _clip(side, min(frames, VIEWS), frames, objects)
    before = _status("VmRSS:")
    _timed(cast(SapTrain, network), batch, batch.masks())
    return _status("VmHWM:") - before


def _status(name: str) -> float:
    # not getrusage: its peak is inherited from the process that started this one
    return int(Path("/proc/self/status").read_text().split(name)[1].split()[0]) / 1024


# ---- 4. waiting


def _waiting(data: str | None, counts: list[int]) -> None:
    print("\n| workers | step, s | of it waiting | first step |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        folder = data or str(training_paper.shards(Path(scratch) / "data"))
        for workers in counts:
            run = Path(scratch) / f"run{workers}"
            command = [sys.executable, "-m", "tests.benchmarks.training_paper", folder, str(run)]
            subprocess.run([*command, str(workers)], check=True, stdout=subprocess.DEVNULL)
            lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
            first, *later = [line for line in lines if "took" in line]
            took, waited = (sum(line[name] for line in later) for name in ("took", "waited"))
            print(f"| {workers} | {took / len(later):.1f} | {waited / took:.1%} |", end="")
            print(f" {first['took']:.1f} s, {first['waited']:.1f} waiting |", flush=True)


if __name__ == "__main__":
    main()
