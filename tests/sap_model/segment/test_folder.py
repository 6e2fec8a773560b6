"""Folders and videos of panoramas, with a small model of fresh weights."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from pipeline.cli import main
from pipeline.errors import UserError
from pipeline.pictures.gpano import Window
from pipeline.pictures.read import read_picture
from pipeline.pictures.write import encode_panorama
from sap_model.predict.predictor import SapPredictor
from sap_model.segment.everything import EverythingOptions
from sap_model.segment.folder import FolderJob, read_prompts, segment_folder
from sap_model.segment.sources import count_panoramas, panoramas_of
from tests.sap_model.models import WIDTH, panorama, responsive

HEIGHT = WIDTH // 2
ANYTHING = EverythingOptions(points=48, iou=0, stability=0, follow=False)


@pytest.fixture(scope="module")
def predictor() -> SapPredictor:
    return SapPredictor(responsive(), "warp")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A panorama, a part of one in a folder, and a broken file."""
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    Image.fromarray(panorama()).save(folder / "room.png")
    window = Window(left=64, top=0, width=WIDTH, height=HEIGHT)
    part = encode_panorama(panorama()[:100, 64:224], ".png", window)
    (folder / "more" / "part.png").write_bytes(part)
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("no picture either")
    return folder


def job(source: Path, out: Path, prompts=None, **changes) -> FolderJob:
    options = {"every": 1, "overlays": True, "about": {}, "everything": ANYTHING} | changes
    return FolderJob(source, out, prompts, **options)


def test_everything_in_a_folder(folder, tmp_path, predictor, capsys):
    out = tmp_path / "out"
    lines: list[str] = []
    assert segment_folder(job(folder, out), predictor, lines.append) == 1
    assert "broken.jpg" in capsys.readouterr().err
    assert [line.split(",")[0] for line in lines] == ["2 of 3: more/part.png", "3 of 3: room.png"]
    dataset = COCO(out / "coco.json")
    for image in dataset.imgs.values():
        labels = cv2.imread(str(out / "masks" / f"{image['file_name']}.png"), cv2.IMREAD_UNCHANGED)
        assert labels.shape == (image["height"], image["width"])
        found = dataset.loadAnns(dataset.getAnnIds(imgIds=image["id"]))
        assert found
        union = np.any([coco_mask.decode(one["segmentation"]) for one in found], axis=0)
        np.testing.assert_array_equal(labels > 0, union)
        overlay = read_picture(out / "overlays" / f"{image['file_name']}.jpg")
        assert overlay.size == labels.shape
    assert read_picture(out / "overlays" / "more" / "part.png.jpg").is_part


def test_a_stopped_run_resumes(folder, tmp_path, predictor, monkeypatch, capsys):
    out = tmp_path / "out"
    segment_folder(job(folder, out), predictor, lambda line: None)
    before = (out / "coco.json").read_bytes()
    (out / "panoramas" / "room.png.json").unlink()
    lines: list[str] = []
    segment_folder(job(folder, out), predictor, lines.append)
    assert [line.split(",")[0] for line in lines] == ["3 of 3: room.png"]
    assert (out / "coco.json").read_bytes() == before
    with pytest.raises(UserError, match="other settings"):
        segment_folder(job(folder, out, everything=EverythingOptions(49)), predictor)


def test_prompts_are_in_pixels_of_the_file(folder, tmp_path, predictor, capsys):
    prompts = {
        "more/part.png": [{"points": [[66, 60]], "name": "ball"}, {"box": [60, 40, 20, 16]}],
        "*": [{"points": [[130, 60], [5, 30]], "labels": [1, 0]}],
    }
    place = tmp_path / "prompts.json"
    place.write_text(json.dumps(prompts))
    out = tmp_path / "out"
    given = read_prompts(place)
    assert segment_folder(job(folder, out, given), predictor, lambda line: None) == 1
    content = json.loads((out / "panoramas" / "more" / "part.png.json").read_text())
    ball, box = content["annotations"]
    assert (ball["name"], box["name"]) == ("ball", "object")
    predictor.set_panorama(read_picture(folder / "more" / "part.png").pixels)
    expected = predictor.predict([[130, 60]]).mask[:100, 64:224]
    np.testing.assert_array_equal(coco_mask.decode(ball["segmentation"]), expected)
    predictor.set_panorama(panorama())
    expected = predictor.predict([[130, 60], [5, 30]], [1, 0]).mask
    room = json.loads((out / "panoramas" / "room.png.json").read_text())["annotations"][0]
    np.testing.assert_array_equal(coco_mask.decode(room["segmentation"]), expected)


def test_frames_of_a_video(tmp_path, predictor):
    video = tmp_path / "walk.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), 5, (WIDTH, HEIGHT))
    for turn in range(5):
        writer.write(np.roll(panorama(), 20 * turn, axis=1)[..., ::-1])
    writer.release()
    assert count_panoramas(video, every=2) == 3
    out = tmp_path / "out"
    assert segment_folder(job(video, out, every=2), predictor, lambda line: None) == 0
    names = [image["file_name"] for image in json.loads((out / "coco.json").read_text())["images"]]
    assert names == ["walk.avi/000000", "walk.avi/000002", "walk.avi/000004"]
    frames = [file.read().pixels for file in panoramas_of(video)]
    assert abs(frames[2].astype(int) - np.roll(panorama(), 40, axis=1)).mean() < 8


def test_flat_video_is_refused_by_name(tmp_path, predictor, capsys):
    video = tmp_path / "flat.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), 5, (96, 64))
    writer.write(np.zeros((64, 96, 3), np.uint8))
    writer.release()
    assert segment_folder(job(video, tmp_path / "out"), predictor) == 1
    assert "flat.avi/000000 has 96 × 64 pixels" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["nowhere", "--out", "o"], "nowhere is missing"),
        (["empty", "--out", "o"], "empty holds no picture or video"),
        (["pictures", "--out", "o", "--everything", "--prompts", "p.json"], "EVERYTHING"),
        (["pictures", "--out", "o", "--prompts", "missing.json"], "missing.json cannot be read"),
        (["pictures", "--out", "o", "--prompts", "p.json"], "p.json is no JSON"),
        (["pictures", "--out", "o", "--prompts", "list.json"], "list.json holds no list"),
        (["pictures"], "OUT is not given"),
        (["pictures", "--out", "o", "--points", "0"], "POINTS=0"),
    ],
)
def test_what_cannot_be_done_is_one_line(folder, monkeypatch, capsys, words, named):
    monkeypatch.chdir(folder.parent)
    Path("empty").mkdir()
    Path("p.json").write_text("{")
    Path("list.json").write_text('{"room.png": [3]}')
    with pytest.raises(SystemExit) as ended:
        main(["segment", *words])
    assert ended.value.code == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1 and named in errors
    assert not Path("o").exists()
