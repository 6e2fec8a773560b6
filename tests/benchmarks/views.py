"""Panorama → 24 views and masks → panorama: time, error and ceiling, side by side on one thread.

    python -m tests.benchmarks.views [IDS.png …]

Rendering: 24 views of 1024² from a 4096 × 2048 picture whose grey levels are a smooth function of
the direction, so that every view's exact values are known. The peers are py360convert and
pyequilib (not one of our dependencies; `pip install --no-deps --target FOLDER pyequilib` and
`PYTHONPATH=FOLDER`). Fusion: against 24 full-frame remaps with ready-made tables, for discs from
small to the whole sphere. Ceiling: objects → views → panorama, which no segmenter can exceed;
with 4K id maps their instances, otherwise wavy blobs in random directions.

Times are CPU-seconds of this process, the best of several runs after one to warm up.
"""

from __future__ import annotations

import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import cv2
import numpy as np
import py360convert
import torch

from pipeline.annotations.sizes import SIZES, size_of
from sap_model.scan.torch_views import TorchViews
from sap_model.scan.trajectory import Scan
from sap_model.scan.views import PerspectiveViews
from tests.sap_model.scan import peers
from tests.synthetic import directions, disc

WIDTH, HEIGHT, SIZE, FOV = 4096, 2048, 1024, 90
RADII = (1, 2, 4, 8, 16, 32, 64, 90, 180)
"""Degrees; 180 is the whole sphere."""
BLOBS = 12
"""Objects per size class for the ceiling."""


def main(id_maps: list[str]) -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    views = PerspectiveViews(Scan(), SIZE, WIDTH)
    _rendering(views)
    _fusion(views)
    _ceiling(views, id_maps)


def _best(run: Callable[[], Any], repeats: int) -> tuple[float, float, Any]:
    """CPU-seconds of the first call, of the best of the next ones, and what they return."""
    seconds, found = [], None
    for _ in range(1 + repeats):
        del found  # its memory is used again, as in a loop over panoramas
        start = time.process_time()
        found = run()
        seconds.append(time.process_time() - start)
    return seconds[0], min(seconds[1:]), found


def _rendering(views: PerspectiveViews) -> None:
    panorama = np.rint(peers.smooth_panorama(WIDTH)).astype(np.uint8)
    channels_first = np.ascontiguousarray(panorama.transpose(2, 0, 1))
    tensor = torch.from_numpy(channels_first)
    twin = TorchViews(views)
    due = [
        peers.smooth(peers.view_directions(view, FOV, SIZE)).astype(np.float32)
        for view in views.scan.views
    ]
    ways: dict[str, tuple[Callable[[], list], int]] = {
        "ours": (lambda: list(views.render(panorama)), 5),
        "ours, torch": (lambda: list(twin.render(tensor).permute(0, 2, 3, 1).numpy()), 2),
        "py360convert": (
            lambda: [
                py360convert.e2p(panorama, FOV, view.yaw, view.pitch, (SIZE, SIZE))
                for view in views.scan.views
            ],
            1,
        ),
    }
    try:
        from equilib import equi2pers
    except ImportError:
        print("pyequilib is not installed: its row is left out", file=sys.stderr)
    else:
        poses = [
            {"roll": 0.0, "pitch": np.radians(view.pitch), "yaw": np.radians(view.yaw)}
            for view in views.scan.views
        ]

        def equilib(panorama, pose):
            return equi2pers(panorama, pose, height=SIZE, width=SIZE, fov_x=FOV, z_down=True)

        def channels_last(found) -> list:
            return [np.moveaxis(np.asarray(view), 0, -1) for view in found]

        ways["pyequilib, one by one"] = (
            lambda: channels_last(equilib(channels_first, pose) for pose in poses),
            1,
        )
        ways["pyequilib, as a batch"] = (
            lambda: channels_last(equilib(np.stack([channels_first] * len(poses)), poses)),
            1,
        )
        floats = tensor.float()
        ways["pyequilib, torch, one by one"] = (
            lambda: channels_last(equilib(floats, pose) for pose in poses),
            1,
        )
    print(
        f"| {len(views)} views of {SIZE}² | CPU-s | times ours | first call | largest error", end=""
    )
    print(" | on the seam | at the poles |\n|---|---|---|---|---|---|---|")
    ours = 0.0
    for name, (run, repeats) in ways.items():
        first, seconds, found = _best(run, repeats)
        ours = ours or seconds
        everywhere, seam, poles = _errors(found, due, views)
        print(f"| {name} | {seconds:.2f} | {seconds / ours:.1f} | {first:.2f} |", end="")
        print(f" {everywhere:.2f} | {seam:.2f} | {poles:.2f} |", flush=True)


def _errors(found: list, due: list, views: PerspectiveViews) -> tuple[float, float, float]:
    """Largest error in grey levels: everywhere, within 0.2° of the seam, within 1° of a pole."""
    errors: dict[str, float] = defaultdict(float)
    for view, ours, exact in zip(views.scan.views, found, due, strict=True):
        error = abs(np.asarray(ours, np.float32) - exact).max(axis=-1)
        x, y, z = np.moveaxis(peers.view_directions(view, FOV, SIZE), -1, 0)
        seam = (z < 0) & (abs(x) < np.sin(np.radians(0.2)))
        poles = abs(y) > np.cos(np.radians(1))
        for where, mask in (("all", slice(None)), ("seam", seam), ("poles", poles)):
            errors[where] = max(errors[where], error[mask].max(initial=0))
    return errors["all"], errors["seam"], errors["poles"]


def _fusion(views: PerspectiveViews) -> None:
    truths = [disc(50, 30, radius, WIDTH) for radius in RADII]
    masks = [views.render_ids(truth) for truth in truths]
    naive, due = _full_frames(views, masks)
    print(f"\n| object | pixels | {len(views)} full frames, ms |", end="")
    print(" max, ms | times | mean, ms | max of float32, ms |\n|---|---|---|---|---|---|---|")
    views.counts()
    for radius, truth, mask, full, expected in zip(RADII, truths, masks, naive, due, strict=True):
        if (views.to_panorama(mask) != expected).any():
            raise AssertionError("the fast way gives another mask")
        soft = mask.astype(np.float32)
        times = [
            1000 * _best(partial(views.to_panorama, *what), 5)[1]
            for what in ((mask, "max"), (mask, "mean"), (soft, "max"))
        ]
        print(f"| disc of {radius}° | {truth.sum()} | {1000 * full:.0f} | {times[0]:.1f} |", end="")
        print(f" {1000 * full / times[0]:.0f} | {times[1]:.1f} | {times[2]:.1f} |", flush=True)


def _full_frames(views: PerspectiveViews, objects: list) -> tuple[list, list]:
    """Seconds per object of remapping each view's mask to all of the panorama; the masks.

    One view's tables at a time: all 24 would take 1.2 GB. Making them is not counted.
    """
    seconds = [0.0] * len(objects)
    fused = [np.zeros((HEIGHT, WIDTH), np.uint8) for _ in objects]
    for i, place in enumerate(views.maps.places):
        box, table = views.maps.writing(place.pitch, place.fraction)
        whole = np.full((HEIGHT, WIDTH, 2), -16, np.int16)
        fraction = np.zeros((HEIGHT, WIDTH), np.uint16)
        columns = (place.column + np.arange(box.west, box.east)) % WIDTH
        whole[box.top : box.bottom, columns] = table.whole
        fraction[box.top : box.bottom, columns] = table.fraction
        for k, masks in enumerate(objects):
            source = masks[i].view(np.uint8) * np.uint8(255)
            best = np.inf
            for _ in range(2):
                start = time.process_time()
                values = cv2.remap(source, whole, fraction, cv2.INTER_LINEAR)
                np.maximum(fused[k], values, out=fused[k])
                best = min(best, time.process_time() - start)
            seconds[k] += best
    return seconds, [total >= 128 for total in fused]


def _ceiling(views: PerspectiveViews, id_maps: list[str]) -> None:
    scores: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for truth in _instances(id_maps) if id_maps else _blobs():
        masks = views.render_ids(truth)
        size = size_of(np.count_nonzero(truth), WIDTH, HEIGHT)
        scores[size].append(
            (
                peers.iou(views.to_panorama(masks, "max"), truth),
                peers.iou(views.to_panorama(masks, "mean"), truth),
            )
        )
    print("\n| ceiling, mean IoU | objects | max | mean |\n|---|---|---|---|")
    for size in SIZES:
        if scores[size]:
            maximum, mean = np.mean(scores[size], axis=0)
            print(f"| {size} | {len(scores[size])} | {maximum:.3f} | {mean:.3f} |")


def _instances(paths: list[str]):
    for path in paths:
        ids = cv2.imread(path, cv2.IMREAD_UNCHANGED)
        if ids is None or ids.shape != (HEIGHT, WIDTH):
            sys.exit(f"{path}: a readable id map of {WIDTH} × {HEIGHT} pixels is due")
        for label, area in enumerate(np.bincount(ids.ravel())):
            if label and area >= 100:
                yield ids == label


def _blobs():
    """Blobs whose radius waves by a third on the way round them."""
    generator = np.random.default_rng(0)
    sphere = directions(WIDTH).astype(np.float32)
    for low, high in ((0.7, 4.2), (5.5, 12.5), (17.0, 50.0)):  # degrees
        for radius in np.geomspace(low, high, BLOBS):
            axes, _ = np.linalg.qr(generator.normal(size=(3, 3)))
            across, along, ahead = np.moveaxis(sphere @ axes.astype(np.float32), -1, 0)
            wave = 1 + 0.33 * np.cos(5 * np.arctan2(along, across))
            yield ahead > np.cos(np.radians(radius) * wave)


if __name__ == "__main__":
    main(sys.argv[1:])
