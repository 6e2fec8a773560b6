"""The protocol, with methods whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco

from pipeline.annotations.annotate import InstanceInfo, annotate
from sap_model.clicks import NEGATIVE, POSITIVE
from sap_model.evaluate import score_panorama as panorama
from sap_model.evaluate.score_panorama import score_panorama
from sap_model.predict.objects import Prediction
from tests.synthetic import PLAIN, SEAM, disc_ids

IMAGE = np.zeros((128, 256, 3), np.uint8)
THINGS, _ = annotate(disc_ids(256), {k: InstanceInfo("a", "a", False) for k in range(1, 8)}, 10)


class Learner:
    """Predicts the object grown by `grow` pixels, then exactly, from the click `right_after` on."""

    def __init__(self, right_after: int, grow: int) -> None:
        self.right_after, self.grow = right_after, grow
        self.pictures, self.asked = 0, []

    def set_panorama(self, image):
        self.pictures += 1

    def predict_many(self, prompts, scores=False):
        self.asked.append([len(prompt.clicks) for prompt in prompts])
        return [Prediction(self.answer(prompt), 1.0) for prompt in prompts]

    def answer(self, prompt):
        if len(prompt.clicks) >= self.right_after:
            return prompt.truth
        return np.roll(prompt.truth, self.grow, axis=1) | prompt.truth


def test_the_first_click_is_the_one_that_shards_store():
    found = list(score_panorama(Learner(1, 0), IMAGE, THINGS, rounds=1))
    assert [one.thing["id"] for one in found] == [thing["id"] for thing in THINGS]
    for one in found:
        (click,) = one.clicks
        assert [click.x, click.y] == one.thing["click"] and click.label == POSITIVE


def test_a_perfect_prediction_gets_no_further_click():
    method = Learner(right_after=1, grow=0)
    found = list(score_panorama(method, IMAGE, THINGS, rounds=3))
    assert method.pictures == 1 and method.asked == [[1] * len(THINGS)]
    assert [one.round for one in found] == [n for n in (1, 2, 3) for _ in THINGS]
    assert all(one.scores.iou == 1 and len(one.clicks) == 1 for one in found)


def test_each_round_segments_again_from_all_clicks():
    method = Learner(right_after=3, grow=4)
    things = [thing for thing in THINGS if thing["id"] in (PLAIN, SEAM)]  # not all around
    found = list(score_panorama(method, IMAGE, things, rounds=3))
    assert method.pictures == 1
    assert [set(asked) for asked in method.asked] == [{1}, {2}, {3}]
    by_round = {n: [one for one in found if one.round == n] for n in (1, 2, 3)}
    assert all(one.scores.iou < 1 for one in by_round[1] + by_round[2])
    assert all(one.scores.iou == 1 for one in by_round[3])
    for one in by_round[2]:  # what was added is surplus
        assert [click.label for click in one.clicks] == [POSITIVE, NEGATIVE]


def test_predictions_are_kept_as_run_lengths():
    for one in score_panorama(Learner(9, 4), IMAGE, THINGS, rounds=1):
        size = one.thing["segmentation"]["size"]
        predicted = coco.decode({"size": size, "counts": one.prediction})
        truth = coco.decode(one.thing["segmentation"])
        both, either = (predicted & truth).sum(), (predicted | truth).sum()
        assert one.scores.iou == pytest.approx(both / either)


def test_many_objects_go_in_chunks(monkeypatch):
    monkeypatch.setattr(panorama, "CHUNK", 2)
    method = Learner(right_after=2, grow=3)
    found = list(score_panorama(method, IMAGE, THINGS, rounds=2))
    assert method.pictures == 1 and max(map(len, method.asked)) == 2
    assert len(found) == 2 * len(THINGS)
