"""How the views' masks should become one: mIoU of several fusions of the same predictions.

python -m tests.benchmarks.fusion SHARDS... [--split all] [--size nano] [--checkpoint sap-nano]
                                  [--objects 8] [--cycles 1] [--limit 4]

Every object is segmented once, after one click; then its masks in the views are fused in each way.
All but "max" are weighted means, sum of w m over sum of w, of the views that see a pixel; a view in
which the object is judged absent has an empty mask and votes as such. The weights:

- mean: 1
- centre^p: the cosine of the angle between the pixel and the view's centre, to the power p
- iou: the estimated IoU of the view's mask; of an absent one, the probability that it is absent
- score: the probability that the object is there or is not there, whichever the view says
- cut: half, where the view's mask reaches its border: the object may be cut off or occluded
- clicked^p: p for views that see the click
- centre^p iou: the product of both

The table has the mean over objects with its interval over scenes, the paired difference to the mean
fusion with its interval, and the mean at the paper's mix of sizes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from pipeline.annotations.sizes import PAPER_MIX_PERCENT
from pipeline.shards.reader import ShardReader, decode_image
from sap_model.clicks import POSITIVE, Click
from sap_model.evaluate.intervals import Estimate, estimate, reweighted
from sap_model.metrics import iou
from sap_model.model.checkpoints import load
from sap_model.predict.memory import MemoryPredictor
from sap_model.predict.objects import Prediction
from sap_model.scan.fusion import pieces
from sap_model.scan.maps import OUTSIDE
from sap_model.scan.views import PerspectiveViews, soft_masks

POWERS = (1, 2, 4, 8)
EDGE = 2
"""Pixels of a view's mask along its border that count as the border."""


class Seen(NamedTuple):
    """What a view says of the panorama's pixels in its box; arrays (h, w)."""

    rows: slice
    columns: NDArray[np.intp]
    values: NDArray[np.float32]
    cosine: NDArray[np.float32]
    """0 where the view does not see the pixel."""


def look(views: PerspectiveViews, masks: NDArray[np.float32]) -> Iterator[Seen]:
    """Every view's mask (L, L) of `masks` in its place on the panorama."""
    size = views.size
    axis = (np.arange(size, dtype=np.float32) - (size - 1) / 2) / views.geometry.focal
    cosine = 1 / np.sqrt(1 + axis**2 + axis[:, None] ** 2)
    for place, mask in zip(views.maps.places, masks, strict=True):
        box, table = views.maps.writing(place.pitch, place.fraction)
        parts = list(pieces(place.column + box.west, box.east - box.west, views.width))
        columns = np.concatenate([np.arange(here.start, here.stop) for here, _ in parts])
        inside = table.whole[..., 0] != OUTSIDE
        values, angles = (
            cv2.remap(image, table.whole, table.fraction, cv2.INTER_LINEAR)
            for image in (mask, cosine)
        )
        yield Seen(slice(box.top, box.bottom), columns, values, angles * inside)


def fusions(
    views: PerspectiveViews, found: Prediction, clicked: NDArray[np.bool_]
) -> dict[str, NDArray[np.bool_]]:
    """Name: the object's mask (H, W)."""
    masks = np.zeros((len(views), views.size, views.size), np.float32)
    for mask, logits in zip(masks, found.logits, strict=True):
        cv2.resize(soft_masks(logits), mask.shape, dst=mask, interpolation=cv2.INTER_LINEAR)
    sure = 1 / (1 + np.exp(-found.presence.astype(float)))
    present = found.presence > 0
    border = found.logits > 0
    border[:, EDGE:-EDGE, EDGE:-EDGE] = False
    by_view = {
        "mean": np.ones(len(views)),
        "iou": np.where(present, found.view_ious, 1 - sure),
        "score": np.maximum(sure, 1 - sure),
        "cut": np.where(border.any(axis=(1, 2)), 0.5, 1.0),
        "clicked^2": np.where(clicked, 2.0, 1.0),
        "clicked^4": np.where(clicked, 4.0, 1.0),
    }
    weights = {name: (0, each) for name, each in by_view.items()}
    for power in POWERS:
        weights[f"centre^{power}"] = power, by_view["mean"]
        weights[f"centre^{power} iou"] = power, by_view["iou"]
    weights["centre^4 clicked^2"] = 4, by_view["clicked^2"]
    total = {name: np.zeros((views.height, views.width)) for name in weights}
    most = np.zeros((views.height, views.width), np.float32)
    share = {name: np.zeros((views.height, views.width)) for name in weights}
    for number, seen in enumerate(look(views, masks)):
        where = np.ix_(np.arange(views.height)[seen.rows], seen.columns)
        most[where] = np.maximum(most[where], seen.values)
        inside = seen.cosine > 0
        for name, (power, each) in weights.items():
            weight = each[number] * (seen.cosine**power if power else inside)
            total[name][where] += weight * seen.values
            share[name][where] += weight
    fused = {name: total[name] >= 0.5 * np.maximum(share[name], 1e-9) for name in weights}
    return {"max": most >= 0.5, **fused}


def choose(objects: list[dict], limit: int) -> list[dict]:
    """Objects of a panorama, evenly spaced by area."""
    ordered = sorted(objects, key=lambda thing: (thing["area"], thing["id"]))
    count = min(limit, len(ordered))
    return [ordered[(2 * i + 1) * len(ordered) // (2 * count)] for i in range(count)]


def cell(found: Estimate | None, signed: bool = False) -> str:
    if found is None:
        return "–"
    mean, low, high = (
        f"{value:+.3f}" if signed else f"{value:.3f}" for value in (found.mean, *found[1:3])
    )
    return f"{mean} [{low}, {high}]"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("shards", nargs="+")
    parser.add_argument("--split", default="all")
    parser.add_argument("--size", default="nano")
    parser.add_argument("--checkpoint", default="sap-nano")
    parser.add_argument("--objects", type=int, default=8)
    parser.add_argument("--cycles", type=int, default=1)
    parser.add_argument("--limit", type=int, default=None)
    options = parser.parse_args()
    predictor = MemoryPredictor(load(options.size, options.checkpoint), cycles=options.cycles)
    scores: dict[str, list[float]] = {}
    scenes: list[str] = []
    sizes: list[str] = []
    for folder in options.shards:
        reader = ShardReader(folder, None if options.split == "all" else options.split)
        for index in range(min(len(reader), options.limit or len(reader))):
            row = reader.row(index, ["image", "scene_id", "objects"])
            predictor.set_panorama(decode_image(row["image"]))
            views = predictor._views
            chosen = choose(row["objects"], options.objects)
            clicks = [[Click(*thing["click"], POSITIVE)] for thing in chosen]
            answers = predictor.predict_many(clicks, logits=True)
            for thing, ((x, y, _),), answer in zip(chosen, clicks, answers, strict=True):
                clicked = np.zeros(len(views), bool)
                clicked[[sighting.view for sighting in views.visible(x, y)]] = True
                truth = coco.decode(thing["segmentation"]).view(bool)
                for name, mask in fusions(views, answer, clicked).items():
                    scores.setdefault(name, []).append(iou(mask, truth))
                scenes.append(row["scene_id"])
                sizes.append(thing["size"])
            print(f"{row['scene_id']}: {len(scenes)} objects", flush=True)
    clusters = np.unique(scenes, return_inverse=True)[1]
    table = {name: np.array(values) for name, values in scores.items()}
    print(f"\n{len(scenes)} objects of {clusters.max() + 1} scenes, {options.cycles} cycle(s)\n")
    print("| fusion | mIoU | against mean | at the paper's mix |\n|---|---|---|---|")
    for name, values in sorted(table.items(), key=lambda item: -item[1].mean()):
        against = cell(estimate(values - table["mean"], clusters), signed=True)
        mixed = cell(reweighted(values, clusters, np.array(sizes), PAPER_MIX_PERCENT))
        print(f"| {name} | {cell(estimate(values, clusters))} | {against} | {mixed} |")


if __name__ == "__main__":
    main()
