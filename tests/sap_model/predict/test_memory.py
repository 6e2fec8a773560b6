"""The predictor: against SAM2's own way, and what it promises about cost, rounds and turns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sam2.sam2_video_predictor import SAM2VideoPredictor
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.errors import UserError
from sap_model.clicks import Click
from sap_model.model.build import build
from sap_model.model.tracker import Points, PromptBatch
from sap_model.predict import memory
from sap_model.predict.memory import ABSENT, MemoryPredictor
from sap_model.predict.prompts import PromptPlan, batches, plan_prompts
from sap_model.scan.trajectory import Scan
from sap_model.scan.views import PerspectiveViews
from tests.sap_model.models import NONE, SOME, WIDTH, panorama, responsive

AHEAD, BEHIND, SEAM = Click(130, 60, 1), Click(5, 30, 0), Click(0, 64, 1)
OBJECTS = [[AHEAD], [SEAM], [Click(200, 20, 1)], [AHEAD, BEHIND], [Click(66, 60, 1)]]


@pytest.fixture(scope="module")
def predictor() -> MemoryPredictor:
    """A nano predictor that has seen a panorama."""
    predictor = MemoryPredictor(responsive())
    predictor.set_panorama(panorama())
    return predictor


def folder_of(frames: np.ndarray, folder: Path) -> np.ndarray:
    """Write frames as JPEGs, as SAM2 wants them; what is read back from them."""
    folder.mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{number:05d}.jpg", quality=100, subsampling=0)
    paths = sorted(folder.iterdir())
    return np.stack([np.asarray(Image.open(path)) for path in paths])


def official(size: str, presence: float, folder: Path, made: PromptPlan) -> list[np.ndarray]:
    """Logits per frame from SAM2's class, folder, prompts and propagation. Positive clicks only."""
    model = build(size, 64, target="sam2.sam2_video_predictor.SAM2VideoPredictor")
    assert type(model) is SAM2VideoPredictor
    model.load_state_dict(responsive(size, 64, presence).state_dict())
    state = model.init_state(str(folder))
    for frame, spots in made.conditioning.items():
        points = np.array(spots, np.float32)
        model.add_new_points_or_box(state, frame, 1, points[:, :2], points[:, 2].astype(np.int32))
    list(model.propagate_in_video(state, start_frame_idx=0))
    found = state["output_dict_per_obj"][0]
    frames = found["cond_frame_outputs"] | found["non_cond_frame_outputs"]
    return [frames[frame]["pred_masks"][0, 0].numpy() for frame in range(len(made.views))]


@pytest.mark.parametrize(
    ("size", "presence", "cycles"), [("nano", 2.0, 1), ("nano", SOME, 2), ("tiny", 2.0, 1)], ids=str
)
def test_masks_are_sam2s_own(tmp_path, size, presence, cycles):
    views = PerspectiveViews(Scan(), 64, WIDTH)
    made = plan_prompts([AHEAD, Click(131, 60, 0)], views, cycles, image_size=64)
    assert made is not None
    assert not made.corrections, "SAM2 corrects in another round, which is not compared here"
    frames = views.render(panorama())[list(made.views)]
    decoded = folder_of(frames, tmp_path / "frames")
    expected = official(size, presence, tmp_path / "frames", made)

    model = responsive(size, 64, presence)
    # in two cycles the folder's 48 frames show 24 views twice; encode each once
    first = [made.views.index(view) for view in range(24)]
    features = model.encode(decoded[first])
    ((_, batch),) = batches([made], 1)
    for visit, logits in zip(model.follow(features, batch), expected, strict=True):
        assert abs(visit.logits[0].numpy() - logits).max() <= 3e-4
    absent = sum(logits.max() == ABSENT for logits in expected)
    assert 0 < absent < len(expected) if presence == SOME else absent == 0
    assert max(logits.std() for logits in expected) > 1


def test_a_correction_of_a_mask_is_sam2s_own(tmp_path):
    """Two clicks on one frame, the second with the mask that it corrects."""
    views = PerspectiveViews(Scan(), 64, WIDTH)
    decoded = folder_of(views.render(panorama())[:1], tmp_path / "frames")
    model = build("nano", 64, target="sam2.sam2_video_predictor.SAM2VideoPredictor")
    model.load_state_dict(responsive().state_dict())
    state = model.init_state(str(tmp_path / "frames"))
    clicks = np.array([[30, 30], [40, 12]], np.float32)
    model.add_new_points_or_box(state, 0, 1, clicks[:1], np.array([1], np.int32))
    (first,) = (frame["pred_masks"].numpy() for frame in
                state["temp_output_dict_per_obj"][0]["cond_frame_outputs"].values())  # fmt: skip
    model.add_new_points_or_box(
        state, 0, 1, clicks[1:], np.array([0], np.int32), clear_old_points=False
    )
    (expected,) = (frame["pred_masks"].numpy() for frame in
                   state["temp_output_dict_per_obj"][0]["cond_frame_outputs"].values())  # fmt: skip

    ours = responsive()
    features = ours.encode(decoded)
    points = Points(clicks[None], np.array([[1, 0]], np.int32))
    frames = np.zeros((1, 1), np.int64)
    (plain,) = ours.follow(features, PromptBatch(frames, {0: points}))
    batch = PromptBatch(frames, {0: points}, masks={0: first[:, 0]})
    (corrected,) = ours.follow(features, batch)
    assert abs(corrected.logits.numpy() - expected[0]).max() <= 1e-4
    assert abs(corrected.logits - plain.logits).max() > 0.1


def test_previous_masks_reach_the_views_that_see_a_click(predictor):
    first = predictor.predict([AHEAD], logits=True)
    clicks = [AHEAD, Click(110, 50, 1)]
    plain = predictor.predict(clicks, logits=True)
    same, corrected = predictor.predict_many(
        [clicks, clicks], logits=True, previous=[None, first.logits]
    )
    assert np.array_equal(same.logits, plain.logits)
    change = abs(corrected.logits - plain.logits).max(axis=(1, 2))
    seen = {s.view for x, y, _ in clicks for s in predictor._views.visible(x, y)}
    assert change[list(seen)].min() > 1e-3


@pytest.mark.parametrize("side", [64, 96])
def test_frames_are_brought_to_the_input_as_sam2_does_it(tmp_path, side):
    frames = np.random.default_rng(0).integers(0, 255, (3, side, side, 3), np.uint8)
    decoded = folder_of(frames, tmp_path / "frames")
    model = responsive()
    state = SAM2VideoPredictor.init_state(
        build("nano", 64, target="sam2.sam2_video_predictor.SAM2VideoPredictor"),
        str(tmp_path / "frames"),
    )
    assert torch.equal(state["images"], model._to_input(decoded))


def test_each_view_is_encoded_once_whatever_is_asked_of_it(monkeypatch):
    predictor = MemoryPredictor(responsive())
    encoded = []
    forward = predictor.model.forward_image
    monkeypatch.setattr(
        predictor.model, "forward_image", lambda x: encoded.append(len(x)) or forward(x)
    )
    predictor.set_panorama(panorama())
    for clicks in ([AHEAD], [AHEAD, BEHIND]):
        predictor.predict(clicks)
    predictor.predict_many(OBJECTS[:2])
    assert sum(encoded) == 24
    predictor.set_panorama(panorama(turn=10))
    assert sum(encoded) == 48


def test_a_click_of_the_second_round_changes_the_mask(predictor):
    first = predictor.predict([AHEAD], scores=True, logits=True)
    for second in (BEHIND, Click(110, 50, 1)):
        both = predictor.predict([AHEAD, second], scores=True, logits=True)
        assert (first.mask != both.mask).sum() > 20
        # where it is seen, and through memory where it is not
        sightings = PerspectiveViews(Scan(), 64, WIDTH).visible(second.x, second.y)
        seen = {sighting.view for sighting in sightings}
        change = abs(first.logits - both.logits).max(axis=(1, 2))
        assert change[list(seen)].max() > 0.1
        assert change[[view for view in range(24) if view not in seen]].max() > 1e-3
    again = predictor.predict([AHEAD], scores=True)
    assert np.array_equal(again.scores, first.scores), "nothing is remembered"


class Float32:
    """torch, as the module of SAM2's predictor sees it, without bfloat16."""

    bfloat16 = torch.float32

    def __getattr__(self, name: str) -> object:
        return getattr(torch, name)


@pytest.mark.parametrize("max_batch", [1, 2, 8])
def test_many_objects_come_out_as_one_by_one(predictor, monkeypatch, max_batch):
    if max_batch > 1:
        # memories rounded to bfloat16 would turn a last bit into 1/256
        monkeypatch.setattr("sam2.sam2_video_predictor.torch", Float32())
    batched = MemoryPredictor(predictor.model, cycles=1, max_batch=max_batch)
    batched.set_panorama(panorama())
    # the first four twice, so that there are objects of equal shape
    several = batched.predict_many(OBJECTS + OBJECTS[:4], scores=True, logits=True)
    for clicks, together in zip(OBJECTS[:4], several[5:], strict=True):
        alone = batched.predict(clicks, scores=True, logits=True)
        assert abs(together.scores - alone.scores).max() <= (1e-5 if max_batch > 1 else 0)
        assert abs(together.logits - alone.logits).max() <= (1e-4 if max_batch > 1 else 0)
        assert together.iou == pytest.approx(alone.iou, abs=1e-5)


def test_batches_change_no_more_than_rounded_memories_can(predictor):
    single, batched = (MemoryPredictor(predictor.model, cycles=1, max_batch=n) for n in (1, 8))
    for each in (single, batched):
        each.set_panorama(panorama())
    assert MemoryPredictor(predictor.model).max_batch == 1, "on a CPU"
    pairs = zip(single.predict_many(OBJECTS), batched.predict_many(OBJECTS), strict=True)
    assert all((one.mask != other.mask).mean() <= 2e-3 for one, other in pairs)


def test_turning_the_panorama_turns_the_answer(predictor):
    # by 90°, two columns of the scan: it then runs through the same views in the same order
    turn = WIDTH // 4
    turned = MemoryPredictor(predictor.model)
    turned.set_panorama(np.roll(panorama(), turn, axis=1))
    for clicks in ([SEAM], [AHEAD, BEHIND]):
        moved = [Click((click.x + turn) % WIDTH, click.y, click.label) for click in clicks]
        here = predictor.predict(clicks, scores=True, logits=True)
        there = turned.predict(moved, scores=True, logits=True)
        assert abs(np.roll(here.logits, 6, axis=0) - there.logits).max() <= 1e-4
        assert abs(np.roll(here.scores, turn, axis=1) - there.scores).max() <= 1e-4
        assert (np.roll(here.mask, turn, axis=1) != there.mask).mean() <= 1e-4
        assert 0.02 < here.mask.mean() < 0.98


def test_the_last_visit_counts_or_both(predictor):
    last, both = (
        MemoryPredictor(predictor.model, cycles=2, visits=visits) for visits in ("last", "all")
    )
    for other in (last, both):
        other.set_panorama(panorama())
    once, last, both = (
        each.predict([AHEAD], logits=True).logits for each in (predictor, last, both)
    )
    assert (both >= last - 1e-6).all()
    assert (both > last + 1e-6).any()
    assert abs(once - last).max() > 1e-4


def test_clicked_views_may_be_followed_on_the_second_visit(predictor):
    model = predictor.model
    both = [MemoryPredictor(model, cycles=2, prompted=each) for each in ("every", "first")]
    for each in both:
        each.set_panorama(panorama())
    every, first = (each.predict([AHEAD], logits=True).logits for each in both)
    clicked = [sighting.view for sighting in predictor._views.visible(AHEAD.x, AHEAD.y)]
    assert abs(every - first)[clicked].max() > 0.1


def test_mean_fusion_of_masks_is_no_larger(predictor):
    mean = MemoryPredictor(predictor.model, fusion="mean")
    mean.set_panorama(panorama())
    larger, smaller = predictor.predict([AHEAD]).mask, mean.predict([AHEAD]).mask
    assert (larger >= smaller).all()
    assert larger.sum() > smaller.sum()


def test_what_is_given(predictor):
    plain = predictor.predict([AHEAD])
    full = predictor.predict([AHEAD], scores=True, logits=True)
    assert plain.scores is None
    assert plain.logits is None
    assert plain.mask.dtype == bool
    assert plain.mask.shape == full.scores.shape == (WIDTH // 2, WIDTH)
    assert np.array_equal(plain.mask, full.mask)
    assert np.array_equal(full.scores >= 0.5, full.mask)
    assert full.logits.shape == (24, 16, 16)
    clicked = {sighting.view for sighting in predictor._views.visible(AHEAD.x, AHEAD.y)}
    assert full.iou == pytest.approx(full.view_ious[list(clicked)].mean())


def test_an_object_that_is_judged_absent_has_an_empty_mask():
    predictor = MemoryPredictor(responsive(presence=NONE))
    predictor.set_panorama(panorama())
    prediction = predictor.predict([AHEAD], scores=True)
    assert not prediction.mask.any()
    assert prediction.scores.max() == prediction.iou == 0


def test_an_object_between_the_views_has_an_empty_mask(predictor):
    apart = MemoryPredictor(predictor.model, Scan(overlap=0))
    apart.set_panorama(panorama())
    hidden, shown = apart.predict_many([[Click(160, 64, 1)], [Click(128, 64, 1)]], scores=True)
    assert not hidden.mask.any()
    assert hidden.scores.max() == hidden.iou == 0
    assert shown.mask.any()


def test_views_may_be_larger_than_the_input(predictor):
    large = MemoryPredictor(predictor.model, view_size=96)
    large.set_panorama(panorama())
    mask = large.predict([AHEAD]).mask
    reference = predictor.predict([AHEAD]).mask
    assert (mask & reference).sum() > 0.7 * (mask | reference).sum()


def test_memories_may_be_kept_elsewhere(predictor):
    offloading = MemoryPredictor(predictor.model, offload_state_to_cpu=True)
    offloading.set_panorama(panorama())
    assert np.array_equal(offloading.predict([AHEAD]).mask, predictor.predict([AHEAD]).mask)


def test_memories_that_are_out_of_reach_are_dropped(predictor, monkeypatch):
    held = []
    segment = predictor.model._segment

    def spy(state, outputs, *args, **kwargs):
        memories = [out["maskmem_features"] for out in outputs["non_cond_frame_outputs"].values()]
        held.append(sum(memory is not None for memory in memories))
        return segment(state, outputs, *args, **kwargs)

    monkeypatch.setattr(predictor.model, "_segment", spy)
    predictor.predict([AHEAD])
    assert len(held) == 24
    assert max(held) <= 8


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((64, 128), np.uint8),
        np.zeros((64, 128, 4), np.uint8),
        np.zeros((64, 128, 3), np.float32),
        np.zeros((64, 64, 3), np.uint8),
    ],
)
def test_images_that_are_no_panoramas_are_refused(predictor, image):
    with pytest.raises(UserError, match="due"):
        MemoryPredictor(predictor.model).set_panorama(image)


def test_settings_that_do_not_exist_are_refused(predictor):
    for wrong in (
        {"cycles": 0},
        {"max_batch": 0},
        {"visits": "first"},
        {"fusion": "sum"},
        {"prompted": "x"},
    ):
        with pytest.raises(UserError, match="choose"):
            MemoryPredictor(predictor.model, **wrong)
    with pytest.raises(UserError, match="labelled 1"):
        predictor.predict([BEHIND])
    with pytest.raises(RuntimeError, match="before set_panorama"):
        MemoryPredictor(predictor.model).predict([AHEAD])


@pytest.mark.parametrize(
    "click", [(10, -1, 1), (10, 128, 1), (float("nan"), 5, 1), (5, float("inf"), 1)]
)
def test_a_click_outside_of_the_panorama_is_refused(click):
    predictor = MemoryPredictor(responsive())
    predictor.set_panorama(panorama())
    with pytest.raises(UserError, match="lies outside of the panorama"):
        predictor.predict([Click(*click)])


def test_torch_renders_and_fuses_as_opencv_does(predictor, monkeypatch):
    """As on GPUs: on the model's device, which is waited for a few times per object, not per
    frame."""
    twin = MemoryPredictor(predictor.model, in_torch=True)
    monkeypatch.setattr(PerspectiveViews, "render", None)
    twin.set_panorama(panorama())
    monkeypatch.undo()
    fetched = []
    fetch = memory._fetch
    monkeypatch.setattr(memory, "_fetch", lambda one: fetched.append(one.shape) or fetch(one))
    found = twin.predict_many(OBJECTS[:2])
    assert len(fetched) == 2 * 3, "IoUs, scores and one mask; each object is a batch here"
    for ours, theirs in zip(found, predictor.predict_many(OBJECTS[:2]), strict=True):
        assert (ours.mask != theirs.mask).mean() < 0.01
        assert ours.iou == pytest.approx(theirs.iou, abs=0.02)
    soft = twin.predict(OBJECTS[0], scores=True, logits=True)
    assert np.array_equal(soft.scores >= 0.5, soft.mask)
    assert np.array_equal(soft.mask, found[0].mask)


def test_masks_in_bfloat16_are_nearly_those_in_float32(predictor):
    """As on GPUs; a layer that mixed both precisions would refuse to compute."""
    model = responsive()
    model.precision = "bf16"
    half = MemoryPredictor(model)
    half.set_panorama(panorama())
    ours, exact = (each.predict([AHEAD], logits=True) for each in (half, predictor))
    assert ours.logits.dtype == np.float32
    assert 0 < abs(ours.logits - exact.logits).mean() < 0.1 * exact.logits.std()
    model.obj_ptr_proj.layers[0].bfloat16()
    model.precision = "float32"
    with pytest.raises(RuntimeError, match="dtype"):
        half.predict([AHEAD])


def test_a_compiled_encoder_gives_the_same_features(predictor):
    model = responsive()
    model.compile_encoder(backend="aot_eager")
    frames = predictor._views.render(panorama())[:2]
    for ours, plain in zip(
        model.encode(frames).levels, predictor.model.encode(frames).levels, strict=True
    ):
        assert torch.allclose(ours, plain, atol=1e-4)


def test_followed_frames_do_not_wait_for_the_device(predictor):
    """Nothing is read from a tensor while frames are followed, whatever the number of objects."""
    plans = [plan_prompts([AHEAD], predictor._views, 1, 64) for _ in range(2)]
    ((_, both),), ((_, one),) = list(batches(plans, 2)), list(batches(plans[:1], 1))
    for batch in (both, one):
        with Waits() as waits:
            predictor._follow(predictor._features, batch)
        assert not waits.seen
    with Waits() as waits:
        torch.ones(3).sum().item()
    assert waits.seen == ["aten._local_scalar_dense.default"]


class Waits(TorchDispatchMode):
    """Notes operations that a GPU would be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = str(operation)
        if name.startswith(("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select")):
            self.seen.append(name)
        return operation(*args, **(kwargs or {}))
