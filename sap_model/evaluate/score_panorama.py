"""One method on one panorama: the paper's clicks, round by round (section 5.2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from sap_model.clicks import Click, correction_click, first_click
from sap_model.metrics import Scores, score
from sap_model.predict.methods import Method
from sap_model.predict.objects import Prediction, Prompt

CHUNK = 16
"""Objects that go through all rounds together; their masks take 17 MB each at 4K."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class ObjectResult:
    """An object after some clicks.

    Attributes:
        round: From 1; how many clicks the method was given, unless it was right with fewer.
        thing: Its annotation, as the shards hold it.
        clicks: The clicks so far.
        scores: How well the prediction matches.
        prediction: The predicted mask as COCO's compressed run-length counts.
    """

    round: int
    thing: Mapping[str, Any]
    clicks: tuple[Click, ...]
    scores: Scores
    prediction: str


def score_panorama(
    method: Method, image: NDArray[np.uint8], objects: Sequence[Mapping[str, Any]], rounds: int
) -> Iterator[ObjectResult]:
    """Run the protocol for all objects of a panorama.

    The first click is the point farthest from the mask's boundary; each further one corrects the
    prediction, and the method segments again from all clicks so far. A perfect prediction gets no
    further click; what it scored counts for the remaining rounds.

    Args:
        method: Any of `sap_model.predict.methods`; it sees the picture once.
        image: (H, W, 3) uint8 RGB.
        objects: Annotations of the shards' schema.
        rounds: Clicks per object, at most.

    Yields:
        For each object, in chunks, one result for each round.
    """
    if objects:
        method.set_panorama(image)
    for start in range(0, len(objects), CHUNK):
        yield from _score_chunk(method, objects[start : start + CHUNK], rounds)


def _score_chunk(
    method: Method, things: Sequence[Mapping[str, Any]], rounds: int
) -> Iterator[ObjectResult]:
    truths = [coco.decode(thing["segmentation"]).view(np.bool_) for thing in things]
    clicks: list[list[Click]] = []
    for truth in truths:
        click = first_click(truth)
        if click is None:
            raise ValueError("an annotation has an empty mask")
        clicks.append([click])
    last: dict[int, ObjectResult] = {}
    previous: dict[int, NDArray[np.float32] | None] = {}
    open_ones = list(range(len(things)))
    for number in range(1, rounds + 1):
        prompts = [Prompt(clicks[i], truths[i], previous.get(i)) for i in open_ones]
        predictions = method.predict_many(prompts) if prompts else []
        still_open = []
        for i, prediction in zip(open_ones, predictions, strict=True):
            last[i] = _result(things[i], clicks[i], prediction, truths[i])
            previous[i] = prediction.logits
            click = correction_click(prediction.mask, truths[i]) if number < rounds else None
            if click is not None:
                clicks[i].append(click)
                still_open.append(i)
        open_ones = still_open
        yield from (replace(last[i], round=number) for i in range(len(things)))


def _result(
    thing: Mapping[str, Any], clicks: Sequence[Click], prediction: Prediction, truth: Mask
) -> ObjectResult:
    counts = coco.encode(np.asfortranarray(prediction.mask.view(np.uint8)))["counts"]
    return ObjectResult(
        0, thing, tuple(clicks), score(prediction.mask, truth), counts.decode("ascii")
    )
