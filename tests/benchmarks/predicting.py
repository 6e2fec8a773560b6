"""What the predictor costs: seconds and memory against objects, and a panorama of the paper.

python -m tests.benchmarks.predicting [--objects 1 4 16 64] [--image-size 1024]
                                      [--skip-memory] [--skip-model]

Two tables. The first is measured as a whole: nano at 128 × 128 on a panorama of 2048 × 1024, in a
fresh process for each number of objects, with one thread. Its memory is the largest resident set.

The second is a model from measured parts, because a GPU is not always at hand: CPU-seconds on one
thread to encode a view, to segment a conditioning frame, to follow an object on a frame, and to
fuse an object at 4K, for fresh weights (the time does not depend on them). A panorama with n
objects and r rounds of clicks then takes

    24 encode + n r (8 condition + 40 follow + fuse)

Assumptions, besides that:
- A click is seen by 4 of 24 views, so that in two cycles 8 of 48 frames are conditioning frames and
  40 are followed; further clicks fall into the same views. With prompted="first" 4 and 44.
- A followed frame looks back at its 8 (or 4) conditioning frames and at 6 others, as from the 15th
  frame on. Its time is linear in the number of these; 7 and 14 are measured.
- A GPU encodes faster than one thread by one factor and follows faster by another. Both come from
  the frames per second that SAM2's README publishes for tiny and large (one object, 1024 × 1024,
  not compiled; its paper names an A100 and bfloat16): each of them is one view encoded and one
  frame followed with 7 memories, and all sizes follow in the same way. Conditioning frames get
  the factor of following. Objects that share a batch gain nothing. At another --image-size there
  is no such number, and the table is left out.
- Fusion stays on the CPU. Reading, decoding and rendering a panorama (about a second of CPU at 4K)
  is hidden behind the GPU.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from statistics import mean
from typing import cast

import numpy as np
import torch

from sap_model.clicks import Click
from sap_model.model.build import build
from sap_model.model.tracker import Points, PromptBatch, ScanTracker
from sap_model.predict.memory import MemoryPredictor
from sap_model.scan.trajectory import Scan
from sap_model.scan.views import PerspectiveViews
from tests.synthetic import disc, disc_ids, picture

FRAMES_PER_SECOND = {"tiny": 47.2, "large": 24.2}
"""From SAM2's README, SAM 2.1 checkpoints, not compiled."""

VIEWS, FRAMES = 24, 48

CONDITIONING = {"every": 8, "first": 4}
"""Conditioning frames of 48 by `prompted`."""

RECENT = 6
"""Followed frames that a frame looks back at."""

BENCHMARKS = {
    "InfiniGen validation: 200 panoramas, 34.9 objects each": (200, 34.9),
    "PAV-SOD: 201 panoramas, 427 objects": (201, 427 / 201),
}
ROUNDS = 3

BATCH = 8
"""Objects that the first table follows at the same time; a GPU's default."""

DISC_DEGREES = {"small": 2.0, "medium": 6.0, "large": 15.0}
"""Radii of discs of 3,246, 29,203 and 182,000 or so pixels at 4K."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--objects", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--image-size", type=int, default=1024)
    parser.add_argument("--skip-memory", action="store_true")
    parser.add_argument("--skip-model", action="store_true")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.child is not None:
        print(json.dumps(_run_nano(args.child)))
        return
    if not args.skip_memory:
        _objects(args.objects)
    if not args.skip_model:
        _model(args.image_size)


def _objects(counts: list[int]) -> None:
    """The first table."""
    print("\n| objects | encode, CPU-s | predict, CPU-s | each | peak MB | above 0 objects |")
    print("|---|---|---|---|---|---|")
    base = 0.0
    for count in (0, *counts):
        command = [sys.executable, "-m", "tests.benchmarks.predicting", "--child", str(count)]
        answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        encode, predict, peak = json.loads(answer.splitlines()[-1])
        base = base or peak
        share = f"{predict / count:.2f} s, {(peak - base) / count:.1f} MB" if count else ""
        cells = (count, f"{encode:.2f}", f"{predict:.2f}", share, round(peak), round(peak - base))
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    print("\nA mask of 2048 × 1024 takes up to 2.1 MB; its empty rows may not take any.")


def _run_nano(count: int) -> tuple[float, float, float]:
    """CPU-seconds to encode and to predict, and the peak of memory in MB, in this process."""
    width = 2048
    image = picture(disc_ids(width), seed=0)
    model = cast(ScanTracker, build("nano", 128))
    model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.data += 2  # present everywhere
    predictor = MemoryPredictor(model, cycles=2, max_batch=BATCH)
    start = time.process_time()
    predictor.set_panorama(image)
    encoded = time.process_time()
    generator = np.random.default_rng(0)
    places = generator.integers((0, width // 16), (width, width * 7 // 16), (count, 2))
    predictor.predict_many([[Click(int(x), int(y), 1)] for x, y in places])
    done = time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    return encoded - start, done - encoded, peak


def _model(image_size: int) -> None:
    """The second table, from parts."""
    fuse = _fuse()
    models = {size: cast(ScanTracker, build(size, image_size)) for size in FRAMES_PER_SECOND}
    encode = {size: _encode(model, image_size) for size, model in models.items()}
    # all sizes share decoder and memory, so one of them tells the cost of following
    condition, crowded = _follow(models["tiny"], CONDITIONING["every"])
    _, plain = _follow(models["tiny"], 1)
    print(f"\n| CPU-seconds on one thread, {image_size} × {image_size} | |\n|---|---|")
    for size, seconds in encode.items():
        print(f"| encode a view, {size} | {seconds:.2f} |")
    print(f"| conditioning frame | {condition:.2f} |")
    print(f"| followed frame, {1 + RECENT} memories | {plain:.2f} |")
    print(f"| followed frame, {CONDITIONING['every'] + RECENT} memories | {crowded:.2f} |")
    for size, seconds in fuse.items():
        print(f"| fuse a {size} object at 4K | {seconds:.3f} |")
    if image_size != 1024:
        return
    # 1 / frames per second = encode / encoding + plain / following, for both sizes
    more = encode["large"] - encode["tiny"]
    encoding = more / (1 / FRAMES_PER_SECOND["large"] - 1 / FRAMES_PER_SECOND["tiny"])
    following = plain / (1 / FRAMES_PER_SECOND["tiny"] - encode["tiny"] / encoding)
    print(f"\nThe GPU encodes {encoding:.0f} and follows {following:.0f} times as fast.")
    print(
        f"\n| model | benchmark, {ROUNDS} rounds | prompted | CPU-hours, one thread "
        "| GPU, s per panorama | GPU, hours |\n|---|---|---|---|---|---|"
    )
    for size in models:
        for name, (panoramas, objects) in BENCHMARKS.items():
            for prompted, conditioning in CONDITIONING.items():
                share = (conditioning - 1) / (CONDITIONING["every"] - 1)
                follow = plain + share * (crowded - plain)
                once = conditioning * condition + (FRAMES - conditioning) * follow
                calls, fusing = objects * ROUNDS, mean(fuse.values())
                cpu = VIEWS * encode[size] + calls * (once + fusing)
                gpu = VIEWS * encode[size] / encoding + calls * (once / following + fusing)
                hours = [seconds * panoramas / 3600 for seconds in (cpu, gpu)]
                cells = (size, name, prompted, f"{hours[0]:.0f}", f"{gpu:.1f}", f"{hours[1]:.1f}")
                print("| " + " | ".join(cells) + " |")


def _encode(model: ScanTracker, image_size: int) -> float:
    """CPU-seconds to encode one view."""
    frames = np.zeros((1, image_size, image_size, 3), np.uint8)
    start = time.process_time()
    model.encode(frames)
    return time.process_time() - start


def _follow(model: ScanTracker, conditioning: int) -> tuple[float, float]:
    """CPU-seconds of a conditioning frame and of a frame that is followed with a full memory."""
    side = model.image_size
    features = model.encode(np.random.default_rng(0).integers(0, 255, (1, side, side, 3), np.uint8))
    points = Points(np.full((1, 1, 2), side / 2, np.float32), np.ones((1, 1), np.int32))
    # half of them ahead, in the second cycle; the fifteenth frame is the first with full memory
    early = (conditioning + 1) // 2
    frames = [*range(early), *range(VIEWS, VIEWS + conditioning - early)]
    batch = PromptBatch(np.zeros((1, FRAMES), np.int64), dict.fromkeys(frames, points))
    visits = model.follow(features, batch)
    start = time.process_time()
    next(visits)
    conditioned = (time.process_time() - start) / conditioning
    for _ in range(1, early + model.num_maskmem - 1):
        next(visits)
    seconds = []
    for _ in range(2):
        start = time.process_time()
        next(visits)
        seconds.append(time.process_time() - start)
    return conditioned, mean(seconds)


def _fuse() -> dict[str, float]:
    """CPU-seconds to fuse one object of each size at 4K from views of 1024 × 1024."""
    views = PerspectiveViews(Scan(), 1024, 4096)
    seconds = {}
    for size, radius in DISC_DEGREES.items():
        masks = views.render_ids(disc(40.0, 10.0, radius, 4096)).astype(np.float32)
        views.to_panorama(masks)  # makes the tables
        start = time.process_time()
        views.to_panorama(masks)
        seconds[size] = time.process_time() - start
    return seconds


if __name__ == "__main__":
    main()
