"""SA-1B as it is published: pictures of discs whose place is known."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from pipeline.errors import UserError
from sap_model.train.clip import NoObjectError
from sap_model.train.sa1b import Sa1b, mask_at, runs_of, write_index

HEIGHT, WIDTH, SIZE = 120, 200, 64
DISCS = ((50, 40, 22), (140, 50, 30), (100, 95, 15))
"""x, y and radius in pixels; none touch each other. `write` draws each in its own brightness."""


def disc(x: float, y: float, radius: float, shape: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    """(H, W) bool."""
    rows, columns = np.indices(shape)
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def ellipse(x: float, y: float, radius: float, shape: tuple[int, int]) -> np.ndarray:
    """(SIZE, SIZE) bool: a disc of a picture of `shape`, stretched, by formula."""
    wide, high = SIZE / shape[1], SIZE / shape[0]
    rows, columns = np.indices((SIZE, SIZE)) + 0.5
    return (columns / wide - x - 0.5) ** 2 + (rows / high - y - 0.5) ** 2 <= radius**2


def rle(mask: np.ndarray) -> dict:
    """As it stands in a JSON."""
    runs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": runs["counts"].decode()}


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def write(folder: Path, number: int, masks: list[np.ndarray], **wrong) -> Path:
    """A picture whose masks are brighter, and its JSON; returns the picture's path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"sa_{number}.jpg"
    grey = np.full((HEIGHT, WIDTH), 20, np.uint8)
    for k, mask in enumerate(masks):
        grey[mask] = 100 + 50 * k
    Image.fromarray(np.dstack([grey, grey, 255 - grey])).save(path, quality=95)
    data = {
        "image": {"image_id": number, "width": WIDTH, "height": HEIGHT, "file_name": path.name},
        "annotations": [
            {
                "segmentation": rle(mask),
                "area": int(mask.sum()),
                "bbox": coco.toBbox(rle(mask)).tolist(),
                "predicted_iou": 0.9,
                "stability_score": 0.95,
                "point_coords": [[1.0, 1.0]],
                "crop_box": [0, 0, WIDTH, HEIGHT],
                "id": 1000 * number + k,
            }
            for k, mask in enumerate(masks)
        ],
    }
    path.with_suffix(".json").write_text(json.dumps({**data, **wrong}))
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    write(tmp_path / "sa_000001", 12, [disc(*d) for d in DISCS])
    write(tmp_path / "sa_000000", 7, [disc(*DISCS[0])])
    return tmp_path


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_discs_lie_where_they_should_and_mirroring_takes_picture_and_masks_along(folder):
    source = Sa1b(folder, SIZE, objects=3)
    mirrored = 0
    for seed in range(20):
        clip = source.clip(1, rng(seed))
        assert clip.images.shape == (1, SIZE, SIZE, 3) and clip.images.dtype == np.uint8
        assert clip.truth.shape == (1, SIZE, SIZE) and clip.truth.dtype == np.uint8
        assert clip.views.tolist() == [[0, 0, 0]] and clip.views.dtype == np.int64
        assert clip.prompts is None and clip.name == "sa_000001/sa_12.jpg"
        red, blue = clip.images[0, ..., 0].astype(int), clip.images[0, ..., 2].astype(int)
        assert np.median(red + blue) == pytest.approx(255, abs=6)  # RGB, not BGR
        seen = set()
        turned = red[:, : SIZE // 2].sum() > red[:, SIZE // 2 :].sum()  # the right is brighter
        mirrored += turned
        for k in range(3):
            mask = (clip.truth[0] >> k & 1).astype(bool)
            bright = round(float(np.median(red[mask])) / 50) - 2
            expected = ellipse(*DISCS[bright], (HEIGHT, WIDTH))
            assert iou(mask, expected[:, ::-1] if turned else expected) > 0.9
            seen.add(bright)
        assert seen == {0, 1, 2}
    assert 4 <= mirrored <= 16


def test_pictures_are_sorted_and_nothing_but_the_generator_decides(folder):
    source = Sa1b(str(folder), SIZE, objects=2)
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301
    assert len(source) == len(copy) == 2
    assert [source.clip(i, rng()).name for i in range(2)] == [
        "sa_000000/sa_7.jpg",
        "sa_000001/sa_12.jpg",
    ]
    for seed in range(3):
        one, other = source.clip(1, rng(seed)), copy.clip(1, rng(seed))
        assert np.array_equal(one.images, other.images) and np.array_equal(one.truth, other.truth)
    drawn = {source.clip(1, rng(seed)).truth.tobytes() for seed in range(30)}
    assert len(drawn) == 12  # ordered pairs of three objects, mirrored or not


def test_too_few_objects_are_repeated(folder):
    clip = Sa1b(folder, SIZE, objects=8).clip(0, rng())
    assert set(np.unique(clip.truth)) == {0, 255} and clip.views.shape == (1, 8)


def test_masks_of_nine_tenths_and_empty_ones_are_left_out(tmp_path):
    nearly = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) < 0.9 * HEIGHT * WIDTH
    empty = np.zeros((HEIGHT, WIDTH), bool)
    write(tmp_path, 1, [nearly, empty, ~empty, disc(*DISCS[0])])
    write(tmp_path, 2, [nearly, empty])
    write(tmp_path, 3, [])
    source = Sa1b(tmp_path, SIZE, objects=4)
    expected = ellipse(*DISCS[0], (HEIGHT, WIDTH))
    for seed in range(4):
        truth = source.clip(0, rng(seed)).truth[0]
        assert set(np.unique(truth)) == {0, 15}
        assert max(iou(shown > 0, expected) for shown in (truth, truth[:, ::-1])) > 0.9
    for index in (1, 2):
        with pytest.raises(NoObjectError, match=rf"sa_{index + 1}\.jpg has no mask of use"):
            source.clip(index, rng())


def test_a_thin_wire_stays_a_line():
    wire = np.zeros((1500, 2250), bool)
    wire[:, 701] = True
    assert mask_at(runs_of(rle(wire), Path("x")), 512).any(axis=1).all()
    dot = np.zeros((500, 500), bool)
    dot[250, 250] = True
    assert 1 <= mask_at(runs_of(rle(dot), Path("x")), 64).sum() <= 4
    assert not mask_at(runs_of(rle(dot), Path("x")), 8).any()  # a 3900th of a pixel


def test_sam2s_own_loader_finds_the_same_masks(folder):
    peer = pytest.importorskip("training.dataset.vos_segment_loader")
    path = folder / "sa_000001" / "sa_12.jpg"
    theirs = peer.SA1BSegmentLoader(
        str(path.with_suffix(".json")), mask_area_frac_thresh=0.9, video_frame_path=str(path)
    ).load(0)
    data = json.loads(path.with_suffix(".json").read_text())
    for k, entry in enumerate(data["annotations"]):
        assert np.array_equal(runs_of(entry["segmentation"], path).to_array(), theirs[k].numpy())
        assert np.array_equal(theirs[k].numpy(), disc(*DISCS[k]))


def test_names_in_a_json_are_never_followed(folder):
    elsewhere = {"image_id": 7, "width": 1, "height": 1, "file_name": "../../etc/sa_12.jpg"}
    path = write(folder / "sa_000000", 7, [disc(*DISCS[0])], image=elsewhere)
    clip = Sa1b(folder, SIZE, objects=1).clip(0, rng())
    assert clip.name == str(path.relative_to(folder)) and clip.truth.any()


def test_folders_without_pictures_and_pictures_without_json_are_refused(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty holds no sa_<id>\.jpg; give the folder"):
        Sa1b(tmp_path / "empty", SIZE, 1)
    with pytest.raises(UserError, match="nowhere cannot be listed: No such file"):
        Sa1b(tmp_path / "nowhere", SIZE, 1)
    (folder / "sa_000000" / "sa_7.json").unlink()
    with pytest.raises(UserError, match=r"sa_7\.jpg has no JSON beside it; get it, or"):
        Sa1b(folder, SIZE, 1)
    with pytest.raises(ValueError, match="9 objects"):
        Sa1b(folder, SIZE, 9)


GOOD = rle(disc(*DISCS[0]))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (b"\xff{", r"sa_7\.json is damaged, no JSON"),
        (b"[" * 10**5, r"sa_7\.json is damaged, no JSON"),
        (b"[]", r"sa_7\.json has no annotations with a segmentation"),
        (b'{"annotations": null}', r"sa_7\.json has no annotations with a segmentation"),
        (b'{"annotations": [{"area": 1}]}', r"sa_7\.json has no annotations with a segmentation"),
        ([[[1, 1, 5, 1, 5, 5]]], r"sa_7\.json: a mask is damaged"),
        ([{"counts": GOOD["counts"]}], r"sa_7\.json: a mask is damaged"),
        ([{**GOOD, "counts": GOOD["counts"][:-3]}], r"sa_7\.json: a mask is damaged"),
        ([{**GOOD, "counts": "\ud800"}], r"sa_7\.json: a mask is damaged"),
        ([{**GOOD, "size": [-HEIGHT, -WIDTH]}], r"sa_7\.json: a mask is damaged"),
        ([{**GOOD, "size": [WIDTH, HEIGHT]}], r"a mask is for 120 × 200 pixels, but the picture"),
        ([{"size": [60000, 60000], "counts": ""}], r"sa_7\.json: a mask is"),
    ],
)
def test_each_damage_of_a_json_has_its_line(folder, text, line):
    if isinstance(text, list):
        text = json.dumps({"annotations": [{"segmentation": s} for s in text]}).encode()
    (folder / "sa_000000" / "sa_7.json").write_bytes(text)
    with pytest.raises(UserError, match=line) as caught:
        Sa1b(folder, SIZE, 1).clip(0, rng())
    assert "\n" not in str(caught.value)


def test_a_damaged_picture_is_named(folder):
    path = folder / "sa_000000" / "sa_7.jpg"
    for content in (path.read_bytes()[:900], b"", b"GIF89a"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"sa_7\.jpg is missing, damaged or no picture"):
            Sa1b(folder, SIZE, 1).clip(0, rng())


def test_processes_share_one_index_of_the_pictures(folder, monkeypatch):
    """Eleven million names are listed once; every process maps the same file."""
    plain, index = Sa1b(folder, SIZE, objects=2), folder / "run" / "sa1b.npy"
    index.parent.mkdir()
    write_index(folder, index)
    monkeypatch.setattr("sap_model.train.sa1b.list_pictures", None)
    source = Sa1b(folder, SIZE, objects=2, index=index)
    sent = pickle.dumps(source)
    assert b"sa_12.jpg" not in sent
    again = pickle.loads(sent)  # noqa: S301
    for number in range(2):
        names = {each.clip(number, rng()).name for each in (plain, source, again)}
        assert len(names) == 1


def test_augmented_objects_stay_on_the_first_frame(folder):
    source = Sa1b(folder, SIZE, objects=3, augment=True)
    plain = Sa1b(folder, SIZE, objects=3)
    for seed in range(20):
        clip, before = source.clip(1, rng(seed)), plain.clip(1, rng(seed))
        assert all((clip.truth[0] >> k & 1).any() for k in range(3))
        assert not np.array_equal(clip.images, before.images)
        red = clip.images[0, ..., 0].astype(int)  # discs are brighter than what is around
        inside = red[clip.truth[0] > 0]
        assert np.median(inside) > np.median(red[clip.truth[0] == 0]) + 40
