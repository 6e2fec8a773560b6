"""The methods by name, the whole panorama as one view, and the ceiling."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import UserError
from sap_model.clicks import Click, first_click
from sap_model.model.build import build
from sap_model.predict.methods import METHODS, Oracle, make, scan_of
from sap_model.predict.objects import Prompt
from sap_model.scan.single_view import WholeView
from sap_model.scan.trajectory import Scan
from tests.sap_model.models import NONE, WIDTH, panorama, responsive
from tests.synthetic import DISCS, PLAIN, SEAM, ZENITH, disc, disc_ids

TRUTHS = [disc_ids(WIDTH) == label for label in (PLAIN, SEAM, ZENITH)]


def prompts(with_truth: bool = True) -> list[Prompt]:
    clicks = [first_click(truth) for truth in TRUTHS]
    return [
        Prompt([click], truth if with_truth else None)
        for click, truth in zip(clicks, TRUTHS, strict=True)
        if click
    ]


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()


@pytest.fixture(scope="module")
def model():
    return responsive()


@pytest.fixture(scope="module")
def answers(model):
    """Predictions of every method."""
    found = {}
    for name in METHODS:
        method = make(name, model, cycles=1) if name != "oracle" else make(name, view_size=64)
        method.set_panorama(panorama())
        found[name] = method.predict_many(prompts(), scores=True)
    return found


@pytest.mark.parametrize("name", METHODS)
def test_every_method_answers_for_every_object(answers, name):
    assert len(answers[name]) == len(TRUTHS)
    for prediction in answers[name]:
        assert prediction.mask.shape == (WIDTH // 2, WIDTH)
        assert prediction.mask.dtype == bool
        assert np.array_equal(prediction.scores >= 0.5, prediction.mask)


def test_methods_differ_where_they_should(answers):
    scores = {name: np.stack([p.scores for p in given]) for name, given in answers.items()}
    assert np.array_equal(scores.pop("scan"), scores["sap"])
    assert np.array_equal(scores.pop("sap-no-scan"), scores["sam2"])
    for name, other in itertools.combinations(scores, 2):
        assert not np.array_equal(scores[name], scores[other]), (name, other)


def test_only_the_oracle_looks_at_the_truth(model, answers):
    method = make("sam2", model)
    method.set_panorama(panorama())
    blind = method.predict_many(prompts(with_truth=False), scores=True)
    for one, other in zip(answers["sam2"], blind, strict=True):
        assert np.array_equal(one.scores, other.scores)
        assert one.iou == other.iou


@pytest.mark.parametrize("radius", [3.0, 8.0, 30.0])
@pytest.mark.parametrize("place", [(40.0, -20.0), (180.0, 10.0), (0.0, 90.0), (100.0, -80.0)])
@pytest.mark.parametrize("fusion", ["max", "mean"])
def test_the_ceiling_is_high(radius, place, fusion):
    truth = disc(*place, radius, 1024)
    oracle = make("oracle", view_size=256, fusion=fusion)
    oracle.set_panorama(np.zeros((512, 1024, 3), np.uint8))
    (prediction,) = oracle.predict_many([Prompt([Click(0, 0, 1)], truth)])
    score = iou(prediction.mask, truth)
    assert score >= (0.93 if radius < 5 and fusion == "max" else 0.95)
    if fusion == "max":
        assert prediction.mask.sum() >= truth.sum(), "maximum fusion dilates"


def test_oracle_reaches_high_iou_through_all_views():
    truth = disc(*DISCS[PLAIN], WIDTH)
    for name in METHODS:
        oracle = Oracle(METHODS[name].views, scan_of(name), 64, "max")
        oracle.set_panorama(panorama())
        (prediction,) = oracle.predict_many([Prompt([], truth)])
        assert iou(prediction.mask, truth) > 0.85, name


def test_sam2_on_the_whole_panorama_is_sam2_on_one_image(tmp_path, model):
    view = WholeView(Scan(), 64, WIDTH)
    Image.fromarray(view.render(panorama())[0]).save(tmp_path / "0.jpg", quality=100, subsampling=0)
    official = build("nano", 64, target="sam2.sam2_video_predictor.SAM2VideoPredictor")
    official.load_state_dict(model.state_dict())
    state = official.init_state(str(tmp_path))
    click = Click(130, 60, 1)
    ((_, u, v),) = view.visible(click.x, click.y)
    official.add_new_points_or_box(state, 0, 1, np.array([[u, v]]), np.array([1]))
    expected = state["temp_output_dict_per_obj"][0]["cond_frame_outputs"][0]["pred_masks"]

    method = make("sam2", model)
    # a JPEG is not the picture: give the method what SAM2 has read
    method.set_panorama(panorama())
    decoded = np.asarray(Image.open(tmp_path / "0.jpg"))[None]
    method.predictor._features = model.encode(decoded)
    found = method.predictor.predict([click], logits=True).logits
    assert abs(found - expected[0].numpy()).max() <= 1e-4


@pytest.mark.parametrize(("fit", "rows"), [("stretch", 64), ("pad", 32)])
def test_the_whole_view_squeezes_or_pads(fit, rows):
    view = WholeView(Scan(), 64, WIDTH, fit)
    image = view.render(panorama())
    assert image.shape == (1, 64, 64, 3)
    assert image[0, :rows].std() > 5
    if fit == "pad":
        # the mean colour of ImageNet, as SAM2 subtracts it
        assert (image[0, rows:] == [124, 116, 104]).all()
    # corners of the panorama: half a pixel outside the first pixel's centre is the border
    ((_, u, v),) = view.visible(WIDTH - 1, WIDTH // 2 - 1)
    assert u == pytest.approx(63, abs=0.5)
    assert v == pytest.approx(rows - 1, abs=0.5)
    # what is at a place in the panorama is at that place in the view, and comes back to it
    truth = disc(30.0, 10.0, 25.0, WIDTH)
    mask = view.render_ids(truth)
    ys, xs = np.nonzero(truth)
    ((_, u, v),) = view.visible(xs.mean(), ys.mean())
    rows_in, columns_in = np.nonzero(mask[0])
    assert (u, v) == pytest.approx((columns_in.mean(), rows_in.mean()), abs=0.3)
    assert iou(view.to_panorama(mask), truth) > 0.88


def test_a_panorama_on_its_side_of_the_seam_stays_there():
    ((_, u, _),) = WholeView(Scan(), 64, WIDTH).visible(0, 10)
    assert u == 0


def test_what_is_missing_is_said():
    with pytest.raises(UserError, match="'sam3': choose one of sam2, sam2-pad"):
        make("sam3")
    with pytest.raises(UserError, match="method scan needs a model with official weights"):
        make("scan")
    oracle = make("oracle", view_size=64)
    oracle.set_panorama(panorama())
    with pytest.raises(UserError, match="needs the truth"):
        oracle.predict_many(prompts(with_truth=False))


def test_sam2_on_an_image_asks_for_no_object_score():
    """SAM2's image predictor has no such gate; its video predictor has, and so has the scan."""
    model = responsive(presence=NONE)
    image, prompt = panorama(), Prompt([Click(60, 60, 1)])
    found = {}
    for name in ("sam2", "scan"):
        method = make(name, model)
        method.set_panorama(image)
        (found[name],) = method.predict_many([prompt])
    assert found["sam2"].mask.any() and found["sam2"].iou > 0
    assert not found["scan"].mask.any() and found["scan"].iou == 0
