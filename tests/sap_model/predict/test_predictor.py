"""The predictor as other programs use it: names, prompts, saved models, sessions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from sam2.sam2_video_predictor import SAM2VideoPredictor

from pipeline.errors import UserError
from sap_model.clicks import Click
from sap_model.model import checkpoints
from sap_model.model.build import build
from sap_model.model.pretrained import find_pretrained
from sap_model.predict.objects import Prompt
from sap_model.predict.predictor import SapPredictor
from sap_model.predict.warp import BOX_CORNERS
from sap_model.scan.views import PerspectiveViews
from tests.hub.server import Hub
from tests.sap_model.models import WIDTH, panorama, responsive

HEIGHT = WIDTH // 2
POINT = [130, 60]


@pytest.fixture(scope="module")
def predictor() -> SapPredictor:
    """A nano predictor that has seen a panorama."""
    predictor = SapPredictor(responsive(), "warp")
    predictor.set_panorama(panorama())
    return predictor


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """An empty Hub, which this process uses with an empty cache."""
    with Hub() as hub:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", hub.token)
        yield hub


def mask_of(predictor: SapPredictor) -> np.ndarray:
    predictor.set_panorama(panorama())
    return predictor.predict(points=[POINT]).mask


# ---- names and folders


def test_saved_model_gives_equal_masks(predictor, tmp_path):
    saved = predictor.save_pretrained(tmp_path / "mine")
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "model.safetensors"]
    again = SapPredictor.from_pretrained(saved, device="cpu")
    assert (again.method, again.model.image_size) == ("warp", 64)
    twice = SapPredictor.from_pretrained(again.save_pretrained(tmp_path / "again"), device="cpu")
    expected = predictor.predict(points=[POINT]).mask
    assert 0 < expected.sum() < expected.size
    for one in (again, twice):
        np.testing.assert_array_equal(mask_of(one), expected)


def test_pt_file_and_its_safetensors_twin_give_equal_masks(tmp_path):
    model = responsive()
    torch.save({"model": model.state_dict()}, tmp_path / "model.pt")
    SapPredictor(model).save_pretrained(tmp_path / "twin")
    given = {"method": "warp", "image_size": 64, "device": "cpu"}
    ours = SapPredictor.from_pretrained(tmp_path / "model.pt", **given)
    twin = SapPredictor.from_pretrained(tmp_path / "twin" / "model.safetensors", **given)
    np.testing.assert_array_equal(mask_of(ours), mask_of(twin))


def test_model_goes_to_the_hub_and_back(predictor, hub):
    address = predictor.push_to_hub("user/name")
    assert "user/name" in address and hub.repos["user/name"].private
    files = hub.repos["user/name"].files()
    assert files.keys() >= {"README.md", "config.json", "model.safetensors"}
    loaded = SapPredictor.from_pretrained("user/name", device="cpu")
    np.testing.assert_array_equal(mask_of(loaded), predictor.predict(points=[POINT]).mask)

    pinned = hub.repos["user/name"].commits[-1].oid
    predictor.push_to_hub("user/name")
    found = find_pretrained("user/name", revision=pinned)
    assert pinned in found.weights.parts
    with pytest.raises(UserError, match="user/name"):
        predictor_of_another = SapPredictor(predictor.model)
        predictor_of_another.push_to_hub("user/name", token=hub.read_token)
    with pytest.raises(UserError, match="user/none"):
        SapPredictor.from_pretrained("user/none")


def test_config_of_another_library_is_left_alone(predictor, hub, tmp_path):
    """SAM2's repositories hold transformers' files beside Meta's checkpoint."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "sam2_video"}')
    (folder / "model.safetensors").write_bytes(b"theirs")
    torch.save({"model": predictor.model.state_dict()}, folder / "sam2.pt")
    assert find_pretrained(folder).weights == folder / "sam2.pt"
    hub.api().create_repo("user/theirs")
    hub.api().upload_folder(repo_id="user/theirs", folder_path=folder)
    assert find_pretrained("user/theirs").weights.name == "sam2.pt"


def test_files_of_meta_must_have_their_hash(hub, monkeypatch, tmp_path):
    monkeypatch.setitem(checkpoints.OFFICIAL, "tiny", "user/sam2:sam2.1_hiera_tiny.pt")
    hub.api().create_repo("user/sam2")
    upload = {"repo_id": "user/sam2", "path_in_repo": "sam2.1_hiera_tiny.pt"}
    hub.api().upload_file(path_or_fileobj=b"another\0file", **upload)
    for name in ("user/sam2", "user/sam2:sam2.1_hiera_tiny.pt"):
        with pytest.raises(UserError, match="SHA-256"):
            find_pretrained(name)


@pytest.mark.parametrize(
    "change", [{"size": "huge"}, {"image_size": "256"}, {"method": 3}], ids=lambda each: str(each)
)
def test_config_that_is_not_understood_is_refused(predictor, tmp_path, change):
    folder = predictor.save_pretrained(tmp_path)
    config = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=str(*change.keys())):
        SapPredictor.from_pretrained(folder)


# ---- prompts


@pytest.mark.parametrize("method", ["warp", "zoom", "sap"])
def test_points_equal_clicks(method):
    predictor = SapPredictor(responsive(), method)
    predictor.set_panorama(panorama())
    points, labels = [POINT, [5, 30]], [1, 0]
    clicks = [Click(x, y, label) for (x, y), label in zip(points, labels, strict=True)]
    (expected,) = predictor._method.predict_many([Prompt(clicks)], True)
    (many,) = predictor.predict_many([{"points": points, "labels": labels}])
    found = predictor.predict(points, labels, scores=True)
    np.testing.assert_array_equal(found.scores, expected.scores)
    np.testing.assert_array_equal(many.mask, expected.mask)
    assert found.iou == expected.iou


@pytest.mark.parametrize("box", [[134, 44, 16, 12], [WIDTH - 7, 44, 14, 12]], ids=["in", "seam"])
def test_box_is_sam2s_own_box_prompt(predictor, monkeypatch, box):
    """In each view that holds the box: the same logits as plain SAM2 for that box."""
    asked = []
    decode = predictor.model.decode

    def spy(features, queries):
        answers = decode(features, queries)
        asked.append(list(zip(queries, answers, strict=True)))
        return answers

    monkeypatch.setattr(predictor.model, "decode", spy)
    predictor.predict(box=box)
    official = build("nano", 64, target="sam2.sam2_video_predictor.SAM2VideoPredictor")
    assert type(official) is SAM2VideoPredictor
    official.load_state_dict(predictor.model.state_dict())
    frames = PerspectiveViews(predictor.scan, 64, WIDTH).render(panorama())
    assert len(asked[0]) >= 2
    for query, answer in asked[0]:
        state = state_of(official, predictor, frames[query.view])
        (left, top, _), (right, bottom, _) = query.spots
        assert tuple(spot[2] for spot in query.spots) == BOX_CORNERS
        edges = np.array([left, top, right, bottom], np.float32)
        official.add_new_points_or_box(state, 0, 1, box=edges)
        logits = state["temp_output_dict_per_obj"][0]["cond_frame_outputs"][0]["pred_masks"]
        assert abs(logits[0, 0].numpy() - answer.logits).max() < 1e-4
        assert answer.logits.std() > 0.1


def state_of(official: SAM2VideoPredictor, predictor: SapPredictor, frame: np.ndarray) -> dict:
    """SAM2's state of a video of one frame, without a folder of JPEGs."""
    state = {
        "images": predictor.model._to_input(frame[None]),
        "num_frames": 1,
        "offload_video_to_cpu": False,
        "offload_state_to_cpu": False,
        "video_height": 64,
        "video_width": 64,
        "device": torch.device("cpu"),
        "storage_device": torch.device("cpu"),
        "constants": {},
    }
    per_object = ("point_inputs", "mask_inputs", "output_dict", "temp_output_dict")
    state |= {f"{name}_per_obj": {} for name in per_object} | {"frames_tracked_per_obj": {}}
    state |= {"obj_id_to_idx": {}, "obj_idx_to_id": {}, "obj_ids": [], "cached_features": {}}
    return state


def test_earlier_mask_corrects(predictor):
    first = predictor.predict(points=[POINT]).mask
    again = predictor.predict(mask=first).mask
    both = predictor.predict(points=[POINT, [5, 30]], labels=[1, 0], mask=first).mask
    assert again.any() and both.any()
    assert (both != predictor.predict(points=[POINT, [5, 30]], labels=[1, 0]).mask).any()


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ({}, "point"),
        ({"points": [POINT], "labels": [0]}, "label 1"),
        ({"points": [POINT], "labels": [2]}, r"\[2"),
        ({"points": [POINT], "labels": [1, 0]}, "1 points have 2 labels"),
        ({"points": [[WIDTH, 3]]}, f"{WIDTH}, 3"),
        ({"points": [[float("nan"), 3]]}, "nan"),
        ({"points": [1, 2, 3]}, r"\(3,\)"),
        ({"points": ["a"]}, "points"),
        ({"box": [1, 2, 0, 4]}, "no area"),
        ({"box": [1, 2, 3]}, "3 numbers"),
        ({"box": [1, HEIGHT - 2, 5, 40]}, "outside"),
        ({"mask": np.ones((4, 8))}, r"\(4, 8\)"),
        ({"mask": np.zeros((HEIGHT, WIDTH))}, "empty"),
    ],
)
def test_prompts_that_name_nothing_are_one_line(predictor, prompt, named):
    with pytest.raises(UserError, match=named) as caught:
        predictor.predict(**prompt)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=named):
        predictor.predict_many([prompt])


def test_what_a_method_cannot_do_is_one_line(predictor):
    with pytest.raises(UserError, match="oracle"):
        SapPredictor(predictor.model, "oracle")
    memory = SapPredictor(predictor.model, "sap")
    memory.set_panorama(panorama())
    with pytest.raises(UserError, match="points alone"):
        memory.predict(box=[1, 2, 3, 4])
    with pytest.raises(UserError, match="colour"):
        predictor.predict_many([{"colour": "red"}])


# ---- sessions


def test_session_remembers_clicks_and_the_way_back(predictor):
    session = predictor.session()
    first = session.add_click(*POINT)
    corrected = session.add_click(5, 30, label=0)
    expected = predictor.predict([POINT, [5, 30]], [1, 0])
    np.testing.assert_array_equal(corrected.mask, expected.mask)
    assert (first.mask != corrected.mask).any()
    other = session.add_click(66, 60, object_id=2)
    assert session.predictions().keys() == {1, 2}

    assert session.undo() is None, "the second object did not exist before"
    assert session.undo().prediction is first
    assert session.predictions().keys() == {1}
    session.remove(1)
    assert session.undo().prediction is first
    boxed = session.set_box([100, 40, 40, 30], object_id=2)
    assert (boxed.mask != other.mask).any()
    session.reset()
    assert (session.objects, session.undo()) == ({}, None)


def test_negative_click_alone_waits_for_a_positive_one(predictor):
    session = predictor.session()
    assert session.add_click(5, 30, label=0) is None
    found = session.add_click(*POINT)
    expected = predictor.predict([[5, 30], POINT], [0, 1])
    np.testing.assert_array_equal(found.mask, expected.mask)


def test_session_may_give_the_last_mask_along(predictor):
    session = predictor.session()
    session.keep_mask = True
    first = session.add_click(*POINT)
    corrected = session.add_click(5, 30, label=0)
    expected = predictor.predict([POINT, [5, 30]], [1, 0], mask=first.mask)
    np.testing.assert_array_equal(corrected.mask, expected.mask)


def test_session_ends_with_its_panorama(predictor):
    session = predictor.session()
    predictor.set_panorama(panorama(turn=10))
    try:
        with pytest.raises(RuntimeError, match="new session"):
            session.add_click(*POINT)
    finally:
        predictor.set_panorama(panorama())
