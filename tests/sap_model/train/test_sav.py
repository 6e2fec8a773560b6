"""SA-V as it is published: videos of a moving disc, whose place on every frame is known."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from pipeline.errors import UserError
from sap_model.train.clip import NoObjectError
from sap_model.train.sav import EVERY, Sav
from tests.sap_model.train.test_sa1b import SIZE, disc, ellipse, iou, rle, rng

HEIGHT, WIDTH, FRAMES = 96, 160, 49
ANNOTATED = range(0, FRAMES, EVERY)
SHAPE = HEIGHT, WIDTH


def place(frame: int) -> tuple[int, int, int]:
    """x, y and radius of the disc: a frame too early or too late lowers the IoU below 0.9."""
    return 20 + 2 * frame, 40 + frame // 2, 15


def masklet(empty: range = range(0)) -> list[list[dict]]:
    """Of two objects: the disc, hidden on some annotations; and one that is never seen."""
    never = rle(np.zeros(SHAPE, bool))
    return [
        [never if number in empty else rle(disc(*place(frame), SHAPE)), never]
        for number, frame in enumerate(ANNOTATED)
    ]


def picture(frame: int) -> np.ndarray:
    """(H, W, 3) RGB: a red disc on dark blue."""
    colours = np.array([[10, 10, 60], [220, 30, 30]], np.uint8)
    return colours[disc(*place(frame), SHAPE).astype(int)]


def write_json(file: Path, masks: list, **wrong) -> None:
    data = {
        "video_id": file.stem.rpartition("_")[0],
        "video_duration": FRAMES / 24,
        "video_frame_count": float(FRAMES),
        "video_height": float(HEIGHT),
        "video_width": float(WIDTH),
        "video_resolution": float(HEIGHT * WIDTH),
        "video_environment": "Indoor",
        "video_split": "train",
        "masklet": masks,
        "masklet_id": [0, 1],
        "masklet_frame_count": [len(masks)] * 2,
        "masklet_first_appeared_frame": [0.0, 0.0],
        "masklet_num": 2,
    }
    file.write_text(json.dumps({**data, **wrong}))


@pytest.fixture(scope="session")
def published(tmp_path_factory) -> Path:
    """sav_000001 as a video, sav_000002 as a folder of every fourth frame."""
    folder = tmp_path_factory.mktemp("sav") / "sav_000"
    (folder / "sav_000002").mkdir(parents=True)
    codec = cv2.VideoWriter.fourcc(*"mp4v")
    video = cv2.VideoWriter(str(folder / "sav_000001.mp4"), codec, 24, (WIDTH, HEIGHT))
    for frame in range(FRAMES):
        video.write(np.ascontiguousarray(picture(frame)[..., ::-1]))
        if frame % EVERY == 0:
            image = Image.fromarray(picture(frame))
            image.save(folder / "sav_000002" / f"{frame:05d}.jpg", quality=95)
    video.release()
    for name in ("sav_000001", "sav_000002"):
        write_json(folder / f"{name}_manual.json", masklet())
    return folder.parent


@pytest.fixture
def folder(published, tmp_path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "copy"))


@pytest.mark.parametrize("index", [0, 1])
def test_frames_and_masks_belong_together_forwards_backwards_and_mirrored(published, index):
    source = Sav(published, SIZE, objects=2, frames=4)
    kinds = set()
    for seed in range(24):
        clip = source.clip(index, rng(seed))
        assert clip.images.shape == (4, SIZE, SIZE, 3) and clip.truth.shape == (4, SIZE, SIZE)
        assert clip.images.dtype == clip.truth.dtype == np.uint8
        assert clip.views.tolist() == [[0, 0], [1, 1], [2, 2], [3, 3]]
        assert clip.views.dtype == np.int64 and clip.prompts is None
        assert clip.name == f"sav_000/sav_00000{index + 1}"
        assert set(np.unique(clip.truth)) == {0, 3}  # the disc twice, never the hidden object
        for image, truth in zip(clip.images, clip.truth, strict=True):
            assert iou(image[..., 0] > 120, truth > 0) > 0.9
        # Exactly one stretch, forwards or backwards, mirrored or not, has its discs there.
        whole = [ellipse(*place(frame), SHAPE) for frame in ANNOTATED]
        fits = [
            (mirrored, backwards)
            for mirrored in (1, -1)
            for backwards in (1, -1)
            for start in range(len(whole) - 3)
            if all(
                iou(truth > 0, expected[:, ::mirrored]) > 0.9
                for truth, expected in zip(
                    clip.truth, whole[::backwards][start : start + 4], strict=True
                )
            )
        ]
        assert len(fits) == 1
        kinds.update(fits)
    assert len(kinds) == 4


def test_nothing_but_the_generator_decides(published):
    source = Sav(str(published), SIZE, objects=1, frames=3)
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301
    assert len(source) == len(copy) == 2
    for seed in range(3):
        one, other = source.clip(0, rng(seed)), copy.clip(0, rng(seed))
        assert np.array_equal(one.images, other.images) and np.array_equal(one.truth, other.truth)
    assert len({source.clip(1, rng(seed)).truth.tobytes() for seed in range(20)}) > 8


def test_video_and_folder_give_the_same_clip(published):
    source = Sav(published, SIZE, objects=1, frames=3)
    for seed in range(3):
        video, jpegs = source.clip(0, rng(seed)), source.clip(1, rng(seed))
        assert np.array_equal(video.truth, jpegs.truth)
        assert np.abs(video.images.astype(int) - jpegs.images).mean() < 6


def test_a_stretch_begins_where_its_object_is_visible(folder):
    file = folder / "sav_000" / "sav_000002_manual.json"
    write_json(file, masklet(empty=range(1, 12)))  # seen on the first and last annotation alone
    source = Sav(folder, SIZE, objects=1, frames=5)
    lefts = []
    for seed in range(12):
        clip = source.clip(1, rng(seed))
        assert clip.truth[0].any() and not clip.truth[1:].any()
        lefts.append(clip.images[0, :, : SIZE // 2, 0].max() > 120)
    assert 0 < sum(lefts) < 12
    write_json(file, masklet(empty=range(99)))
    with pytest.raises(NoObjectError, match="sav_000002 shows no annotated object"):
        source.clip(1, rng())
    with pytest.raises(NoObjectError, match="has 13 annotated frames, not 14"):
        Sav(folder, SIZE, objects=1, frames=14).clip(1, rng())
    write_json(file, [])
    with pytest.raises(NoObjectError, match="has 0 annotated frames"):
        source.clip(1, rng())


def test_objects_of_both_jsons_are_drawn(folder):
    still = rle(disc(30, 80, 10, SHAPE))
    auto = folder / "sav_000" / "sav_000002_auto.json"
    write_json(auto, [[still] for _ in ANNOTATED])
    clip = Sav(folder, SIZE, objects=2, frames=3).clip(1, rng())
    assert set(np.unique(clip.truth)) == {0, 1, 2}
    (folder / "sav_000" / "sav_000002_manual.json").unlink()
    clip = Sav(folder, SIZE, objects=1, frames=3).clip(1, rng())
    expected = ellipse(30, 80, 10, SHAPE)
    assert iou(clip.truth[2] > 0, expected) > 0.9 or iou(clip.truth[2] > 0, expected[:, ::-1]) > 0.9


def test_frames_that_were_not_annotated_are_passed_over(folder):
    rows = masklet()
    for number in range(2, 10):
        rows[number][1] = None
    write_json(folder / "sav_000" / "sav_000002_manual.json", rows)
    clip = Sav(folder, SIZE, objects=1, frames=5).clip(1, rng())  # annotations 0, 1, 10, 11, 12
    for image, truth in zip(clip.images, clip.truth, strict=True):
        assert iou(image[..., 0] > 120, truth > 0) > 0.9
    with pytest.raises(NoObjectError, match="has 5 annotated frames, not 6"):
        Sav(folder, SIZE, objects=1, frames=6).clip(1, rng())


def test_sam2s_own_loader_finds_the_same_masks(published):
    peer = pytest.importorskip("training.dataset.vos_segment_loader")
    file = published / "sav_000" / "sav_000001_manual.json"
    theirs = peer.JSONSegmentLoader(str(file), ann_every=EVERY)
    rows = Sav(published, SIZE, objects=1)._rows("sav_000/sav_000001")
    for number, frame in enumerate(ANNOTATED):
        segments = theirs.load(frame)
        for k, runs in enumerate(rows[number]):
            assert np.array_equal(runs.to_array(), segments[k].numpy())
        assert np.array_equal(segments[0].numpy(), disc(*place(frame), SHAPE))


def test_jpegs_may_lie_elsewhere(folder, tmp_path):
    expected = Sav(folder, SIZE, objects=1).clip(1, rng())
    (tmp_path / "JPEGImages").mkdir()
    shutil.move(folder / "sav_000" / "sav_000002", tmp_path / "JPEGImages")
    with pytest.raises(UserError, match=r"sav_000002 has a JSON, but neither \.mp4 nor a folder"):
        Sav(folder, SIZE, objects=1)
    source = Sav(folder, SIZE, objects=1, jpegs=tmp_path / "JPEGImages")
    assert np.array_equal(source.clip(1, rng()).images, expected.images)
    assert source.clip(0, rng()).name.endswith("sav_000001")  # still from its video


def test_folders_without_videos_and_videos_without_json_are_refused(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty holds no sav_<id>_manual\.json; give the folder"):
        Sav(tmp_path / "empty", SIZE, 1)
    with pytest.raises(UserError, match="nowhere cannot be listed: No such file"):
        Sav(folder, SIZE, 1, jpegs=tmp_path / "nowhere")
    (folder / "sav_000" / "sav_000001_manual.json").unlink()
    with pytest.raises(UserError, match=r"sav_000001\.mp4 has no JSON beside it; get it, or"):
        Sav(folder, SIZE, 1)


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ("{", r"sav_000001_manual\.json is damaged, no JSON"),
        ({"masklet": 5}, r"sav_000001_manual\.json has no masklet as SA-V has"),
        ({"masklet": [5]}, r"sav_000001_manual\.json has no masklet as SA-V has"),
        ({"masks": []}, r"sav_000001_manual\.json has no masklet as SA-V has"),
        ({"masklet": [[None], []]}, r"_manual\.json has more objects on some frames"),
        ({"masklet": [["x"]]}, r"_manual\.json: a mask is damaged"),
        ({"masklet": [[{"size": [9, 9], "counts": "1"}]]}, r"_manual\.json: a mask is damaged"),
        (
            {"masklet": [[rle(np.ones((9, 8), bool))]] * 9},
            r"sav_000001\.mp4 has frames of 160 × 96 pixels, its JSON masks of 8 × 9",
        ),
        ({"masklet": masklet() * 3}, r"sav_000001\.mp4 holds 13 of 39 annotated frames"),
    ],
)
def test_each_damage_of_a_json_has_its_line(folder, wrong, line):
    text = wrong if isinstance(wrong, str) else json.dumps(wrong)
    (folder / "sav_000" / "sav_000001_manual.json").write_text(text)
    with pytest.raises(UserError, match=line) as caught:
        Sav(folder, SIZE, objects=1, frames=3).clip(0, rng())
    assert "\n" not in str(caught.value)


def test_a_damaged_video_and_a_damaged_frame_are_named(folder):
    source = Sav(folder, SIZE, objects=1, frames=13)
    video = folder / "sav_000" / "sav_000001.mp4"
    whole = video.read_bytes()
    for content in (b"", whole[: len(whole) // 2]):
        video.write_bytes(content)
        with pytest.raises(UserError, match=r"sav_000001\.mp4 is missing, damaged or no video"):
            source.clip(0, rng())
    # The list of frames at the end stays, most of what it points to goes.
    start, end = whole.index(b"mdat") + len(whole) // 4, whole.index(b"moov") - 4
    video.write_bytes(whole[:start] + bytes(end - start) + whole[end:])
    with pytest.raises(UserError, match=r"sav_000001\.mp4 cannot be decoded from frame \d+ on"):
        source.clip(0, rng())
    (folder / "sav_000" / "sav_000002" / "00008.jpg").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"00008\.jpg is missing, damaged or no picture"):
        source.clip(1, rng())


def test_frames_that_were_numbered_anew_are_refused(folder):
    frames = folder / "sav_000" / "sav_000002"
    for number, frame in enumerate(ANNOTATED):
        (frames / f"{frame:05d}.jpg").rename(frames / f"{number:05d}.jpg")
    with pytest.raises(UserError, match="sav_000002 holds 4 of 13 annotated frames"):
        Sav(folder, SIZE, objects=1, frames=3).clip(1, rng())
