"""How well everything in panoramas is found: mean best IoU and recall, by size.

Of each true object the best of all masks counts. Two ways are compared on the same panoramas: the
scan of the sphere, and SAM2's generator on the flat panorama as a single picture. The ceiling is
what the truth itself keeps on its way through the views and back.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.shards.reader import ShardReader, decode_ids, decode_image
from sap_model.evaluate.intervals import Estimate, estimate
from sap_model.model.tracker import ScanTracker
from sap_model.predict.methods import make
from sap_model.predict.objects import Prompt
from sap_model.predict.predictor import SapPredictor
from sap_model.segment.everything import EverythingOptions, Segment

SPHERE, FLAT, CEILING = "sphere", "flat", "ceiling"

SIZES = ("small", "medium", "large")

RECALLS = (0.5, 0.75)


@dataclass(frozen=True)
class Found:
    """One way on one panorama."""

    best: NDArray[np.float64]
    """(n,) of each true object the best IoU."""
    masks: int
    seconds: Mapping[str, float]
    """Of encoding, decoding and merging."""


@dataclass(frozen=True)
class EverythingScores:
    """All ways on all panoramas.

    Attributes:
        ways: Name: results, panorama by panorama.
        sizes: Size class of each true object.
        scenes: Number of the scene of each true object.
    """

    ways: Mapping[str, Sequence[Found]]
    sizes: NDArray[np.str_]
    scenes: NDArray[np.int64]

    def best(self, way: str) -> NDArray[np.float64]:
        """(n,) best IoU of each true object."""
        return np.concatenate([found.best for found in self.ways[way]])

    def gain(self) -> Estimate | None:
        """The sphere's recall at 0.5 less the flat picture's, object by object."""
        difference: NDArray[np.float64] = (self.best(SPHERE) >= 0.5).astype(float) - (
            self.best(FLAT) >= 0.5
        )
        return estimate(difference, self.scenes)


def score_everything(
    model: ScanTracker,
    reader: ShardReader,
    options: EverythingOptions,
    limit: int | None = None,
    progress: Callable[[str], None] = print,
) -> EverythingScores:
    """Score a model on the panoramas of shards.

    Args:
        model: For both ways.
        reader: The shards.
        options: For both ways.
        limit: Panoramas; all unless given.
        progress: Gets a line after each panorama.
    """
    ways: dict[str, list[Found]] = {SPHERE: [], FLAT: [], CEILING: []}
    sizes: list[str] = []
    scenes: list[str] = []
    predictors = {SPHERE: SapPredictor(model, "warp"), FLAT: SapPredictor(model, "sam2")}
    count = min(limit or len(reader), len(reader))
    for index in range(count):
        row = reader.row(index)
        image, ids = decode_image(row["image"]), decode_ids(row["ids"])
        objects = row["objects"]
        numbers = np.array([one["id"] for one in objects], np.int64)
        for way, predictor in predictors.items():
            found = _find(predictor, image, options)
            ways[way].append(Found(best_ious(found[0], ids, numbers), len(found[0]), found[1]))
        ways[CEILING].append(Found(_ceiling(image, ids, numbers, model.image_size), 0, {}))
        sizes += [one["size"] for one in objects]
        scenes += [str(row["scene_id"])] * len(objects)
        progress(
            f"{index + 1} of {count}: {row['image_id']}, {len(objects)} objects, mean best IoU "
            + ", ".join(f"{way} {each[-1].best.mean():.2f}" for way, each in ways.items())
        )
    _, clusters = np.unique(scenes, return_inverse=True)
    return EverythingScores(ways, np.array(sizes), clusters.astype(np.int64))


def best_ious(
    segments: Sequence[Segment], ids: NDArray[np.uint16], numbers: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Of each true object the best IoU with any mask.

    Args:
        segments: Masks (H, W).
        ids: (H, W) number of the object at each pixel.
        numbers: (n,) the objects' numbers in `ids`.
    """
    top = int(ids.max()) + 1
    area = np.bincount(ids.ravel(), minlength=top)
    best = np.zeros(len(numbers))
    for segment in segments:
        inside = np.bincount(ids[segment.mask], minlength=top)
        both = inside[numbers]
        best = np.maximum(best, both / (area[numbers] + inside.sum() - both))
    return best


def table(scored: EverythingScores) -> str:
    """The scores as a Markdown table, with 95 % intervals over scenes."""
    lines = [
        "| way | size | objects | mean best IoU | recall .5 | recall .75 | masks | "
        "encode + decode + merge, s |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for way, found in scored.ways.items():
        best = scored.best(way)
        seconds = [
            np.mean([one.seconds.get(part, 0.0) for one in found])
            for part in ("encode", "decode", "merge")
        ]
        for size in ("all", *SIZES):
            chosen = scored.sizes == size if size != "all" else np.ones(len(best), bool)
            if not chosen.any():
                continue
            values = [best, *(np.asarray(best >= least, float) for least in RECALLS)]
            cells = [_cell(estimate(each, scored.scenes, chosen)) for each in values]
            masks = f"{np.mean([one.masks for one in found]):.0f}" if size == "all" else ""
            times = " + ".join(f"{each:.1f}" for each in seconds) if size == "all" else ""
            row = [way, size, str(int(chosen.sum())), *cells, masks, times]
            lines.append(f"| {' | '.join(row)} |")
    gain = scored.gain()
    if gain is not None:
        lines += ["", f"Recall at .5, sphere less flat, object by object: {_cell(gain, sign='+')}."]
    return "\n".join(lines) + "\n"


def write_scores(path: Path, scored: EverythingScores, about: Mapping[str, Any]) -> None:
    """Write all values as JSON, with what they were made of."""
    content = {
        **about,
        "sizes": scored.sizes.tolist(),
        "scenes": scored.scenes.tolist(),
        "ways": {
            way: {
                "best": scored.best(way).round(5).tolist(),
                "masks": [one.masks for one in found],
                "seconds": [dict(one.seconds) for one in found],
            }
            for way, found in scored.ways.items()
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def _find(
    predictor: SapPredictor, image: NDArray[np.uint8], options: EverythingOptions
) -> tuple[list[Segment], dict[str, float]]:
    began = time.monotonic()
    predictor.set_panorama(image)
    encoded = time.monotonic() - began
    *_, last = predictor.everything_steps(options)
    return last.segments or [], {"encode": encoded, **(last.seconds or {})}


def _ceiling(
    image: NDArray[np.uint8],
    ids: NDArray[np.uint16],
    numbers: NDArray[np.int64],
    view_size: int,
) -> NDArray[np.float64]:
    """IoU of each object with itself, seen through the views and fused by the mean."""
    oracle = make("oracle", view_size=view_size, fusion="mean")
    oracle.set_panorama(image)
    scores = []
    for number in numbers:
        truth = ids == number
        (seen,) = oracle.predict_many([Prompt(truth=truth)])
        either = np.count_nonzero(seen.mask | truth)
        scores.append(np.count_nonzero(seen.mask & truth) / either if either else 1.0)
    return np.array(scores)


def _cell(found: Estimate | None, sign: str = "") -> str:
    if found is None:
        return ""
    text = f"{found.mean:{sign}.3f}"
    return text if np.isnan(found.low) else f"{text} ({found.low:.3f} to {found.high:.3f})"
