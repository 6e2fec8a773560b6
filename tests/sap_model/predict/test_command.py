"""`python -m sap_model.predict`: its answer is the predictor's, and faults are one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.cli import main
from pipeline.pictures.gpano import Window
from pipeline.pictures.read import read_picture
from pipeline.pictures.write import encode_panorama
from pipeline.sphere import pixel_solid_angles
from sap_model.clicks import Click
from sap_model.model import checkpoints
from sap_model.predict.command import describe
from sap_model.predict.memory import MemoryPredictor
from sap_model.predict.objects import Prompt
from sap_model.predict.overlay import CLICKS, PREDICTED, WHITE, overlay
from sap_model.predict.zoom import ZoomPredictor
from tests.sap_model.models import NONE, WIDTH, panorama, responsive

ROOT = Path(__file__).parents[3]
CLICKED = [Click(130, 60, 1), Click(5, 30, 0)]
GIVEN = ["--click", "130,60", "--click", "5,30,0"]
SAP = [*GIVEN, "--method", "sap"]


@pytest.fixture
def files(tmp_path, monkeypatch) -> Path:
    """A folder with a panorama, which is where the command works; and weights that are shipped."""
    Image.fromarray(panorama()).save(tmp_path / "room.png")
    (tmp_path / "weights").mkdir()
    torch.save({"model": responsive().state_dict()}, tmp_path / "weights" / "sap_nano.pt")
    monkeypatch.setattr(checkpoints, "WEIGHTS", tmp_path / "weights")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(files, capsys):
    """Calls the command in this process: its exit code, what it said, and its errors."""

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["predict", *arguments])
        return ended.value.code, *capsys.readouterr()

    return call


def names() -> list[str]:
    return sorted(path.name for path in Path().iterdir())


def predicted(image, image_size=64, fusion="mean"):
    predictor = MemoryPredictor(responsive(image_size=image_size), fusion=fusion)
    predictor.set_panorama(image)
    return predictor.predict(CLICKED)


def test_the_command_gives_the_predictors_mask(files):
    command = [sys.executable, "-m", "sap_model.predict", files / "room.png", *SAP]
    command += ["--out", "mask.png", "--overlay", "look.jpg", "--image-size", "64"]
    command += ["--checkpoint", files / "weights" / "sap_nano.pt"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    written = Image.open("mask.png")
    assert written.mode == "L" and written.size == (WIDTH, WIDTH // 2)
    expected = predicted(panorama())
    assert 0 < expected.mask.mean() < 1
    np.testing.assert_array_equal(np.asarray(written), expected.mask * 255)
    assert f"estimated IoU: {expected.iou:.2f}" in done.stdout and "seconds:" in done.stdout
    assert f"{expected.mask.mean():.2%} of the pixels" in done.stdout
    picture = np.asarray(Image.open("look.jpg"))
    assert picture.shape == (WIDTH // 2, WIDTH, 3)
    assert names() == ["look.jpg", "mask.png", "room.png", "weights"]


def test_without_further_words_the_shipped_weights_see_256_pixels(run):
    Path("mask.png").write_text("an older one")
    code, said, errors = run("room.png", *GIVEN, "--out", "mask.png")
    assert (code, errors) == (0, "") and "mask.png" in said
    predictor = ZoomPredictor(responsive(image_size=256))
    predictor.set_panorama(panorama())
    (expected,) = predictor.predict_many([Prompt(CLICKED)])
    np.testing.assert_array_equal(np.asarray(Image.open("mask.png")), expected.mask * 255)


def test_method_and_fusion_are_those_that_were_asked_for(run):
    words = ["--image-size", "64", "--out", "mask.png"]
    run("room.png", *SAP, *words, "--fusion", "max")
    most = np.asarray(Image.open("mask.png")) > 0
    np.testing.assert_array_equal(most, predicted(panorama(), fusion="max").mask)
    code, _, _ = run("room.png", *GIVEN, *words, "--method", "sam2", "--checkpoint", "sap-nano")
    assert code == 0 and (most != (np.asarray(Image.open("mask.png")) > 0)).any()


def test_an_object_that_is_not_seen_is_said_to_be_none(run, files):
    blind = responsive(presence=NONE).state_dict()
    torch.save({"model": blind}, files / "weights" / "sap_nano.pt")
    code, said, _ = run("room.png", *SAP, "--image-size", "64", "--out", "mask.png")
    assert code == 0 and "found:         nothing" in said
    assert not np.asarray(Image.open("mask.png")).any()


def damaged_panoramas(folder: Path) -> None:
    Image.fromarray(panorama()[:, :200]).save(folder / "narrow.png")
    Image.fromarray(panorama()).save(folder / "room.gif")
    Image.fromarray(panorama()).save(folder / "whole.jpg")
    data = (folder / "whole.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing.png", "is missing"),
        ("weights", "is a folder"),
        ("narrow.png", "has 200 × 128 pixels"),
        ("room.gif", "is a GIF picture"),
        ("cut.jpg", "is damaged"),
    ],
)
def test_a_panorama_that_cannot_be_used_is_one_line(run, files, name, reason):
    damaged_panoramas(files)
    code, said, errors = run(name, *GIVEN)
    assert (code, said) == (2, "") and errors.count("\n") == 1
    assert errors.startswith(f"error: {name} {reason}")


@pytest.mark.parametrize("left", [64, -40], ids=["inside", "across the seam"])
def test_a_part_of_a_sphere_is_segmented_in_its_own_pixels(run, left):
    window = Window(left=left, top=0, width=WIDTH, height=WIDTH // 2)
    part = np.roll(panorama(), -left, axis=1)[:100, :160]
    Path("part.jpg").write_bytes(encode_panorama(part, ".jpg", window))
    sphere = read_picture(Path("part.jpg"))
    words = ["--click", "66,60", "--image-size", "64", "--out", "mask.png", "--overlay", "o.png"]
    words += ["--method", "sap"]
    code, said, _ = run("part.jpg", *words)
    assert code == 0 and "note:          GPano crop: 225° × 141°" in said
    predictor = MemoryPredictor(responsive(image_size=64), fusion="mean")
    predictor.set_panorama(sphere.pixels)
    expected = predictor.predict([Click((66 + left) % WIDTH, 60, 1)]).mask
    expected = np.roll(expected, -left, axis=1)[:100, :160]
    assert expected.any()
    np.testing.assert_array_equal(np.asarray(Image.open("mask.png")) > 0, expected)
    assert read_picture(Path("o.png")).window == window


def test_a_click_where_the_picture_shows_nothing_is_refused(run):
    opacity = np.full((WIDTH // 2, WIDTH, 1), 255, np.uint8)
    opacity[50:70, 100:140] = 0
    Image.fromarray(np.dstack([panorama(), opacity])).save("hole.png")
    code, _, errors = run("hole.png", *GIVEN)
    assert code == 2 and errors.startswith("error: click 130,60 lies where the picture is trans")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "CLICK is not given; give it, for example CLICK=1200,900"),
        (["--click", "256,3"], "click 256,3 lies outside of the panorama: 0 to 255,127"),
        (["--click", "3,128"], "click 3,128 lies outside of the panorama"),
        (["--click=-1,3"], "click -1,3 lies outside of the panorama"),
        (["--click", "3,4,0"], "no click on the object"),
        (["--click", "3,4,2"], "CLICK=3,4,2 is not X,Y or X,Y,0 in pixels"),
        (["--click", "3.5,4"], "CLICK=3.5,4 is not X,Y"),
        ([*GIVEN, "--out", "mask.jpg"], "OUT mask.jpg must end in .png"),
        ([*GIVEN, "--overlay", "look.gif"], "OVERLAY look.gif must end in .png or .jpg"),
        ([*GIVEN, "--out", "no/mask.png"], "OUT no/mask.png: there is no folder no"),
        ([*GIVEN, "--out", "room.png/mask.png"], "OUT room.png/mask.png: there is no folder"),
        ([*GIVEN, "--out", "room.png"], "OUT room.png is the panorama"),
        ([*GIVEN, "--out", "a.png", "--overlay", "./a.png"], "OVERLAY a.png is the mask"),
        ([*GIVEN, "--method", "magic"], "METHOD=magic is unknown; choose sam2"),
        ([*GIVEN, "--method", "oracle"], "method oracle needs the truth"),
        ([*GIVEN, "--method", "erp"], "method erp needs CHECKPOINT"),
        ([*SAP, "--size", "large"], "method sap needs CHECKPOINT"),
        ([*SAP, "--size", "huge"], "method sap needs CHECKPOINT"),
        ([*GIVEN, "--size", "huge", "--checkpoint", "sap-nano"], "model size 'huge': choose"),
        ([*GIVEN, "--checkpoint", "no.pt"], "no checkpoint no.pt"),
        ([*GIVEN, "--image-size", "100"], "image_size 100: choose a multiple of 32"),
        ([*GIVEN, "--image-size", "x"], "IMAGE_SIZE=x is not an integer"),
        ([*GIVEN, "--fusion", "min"], "FUSION=min is unknown; choose max, mean"),
    ],
)
def test_what_cannot_be_done_is_one_line(run, words, reason):
    code, said, errors = run("room.png", *words)
    assert (code, said) == (2, "") and errors.count("\n") == 1
    assert errors.startswith(f"error: {reason}")
    assert names() == ["room.png", "weights"]


def test_folders_that_cannot_be_written_to_are_found_first(run, monkeypatch):
    Path("folder.png").mkdir()
    assert "is a folder; name a file" in run("room.png", *GIVEN, "--out", "folder.png")[2]
    # root may write everywhere, whatever the permissions say
    monkeypatch.setattr(os, "access", lambda path, mode: mode == os.F_OK)
    code, _, errors = run("room.png", *GIVEN, "--out", "mask.png")
    assert code == 2 and errors == "error: OUT mask.png: the folder . is not writable\n"


def test_a_full_disk_leaves_the_older_mask(run, monkeypatch):
    Path("mask.png").write_text("an older one")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    code, _, errors = run("room.png", *GIVEN, "--image-size", "64", "--out", "mask.png")
    assert code == 2 and errors == "error: mask.png cannot be written: No space left on device\n"
    assert Path("mask.png").read_text() == "an older one"
    assert names() == ["mask.png", "room.png", "weights"]


def test_shares_are_of_pixels_and_of_the_sphere():
    mask = np.zeros((64, 128), bool)
    mask[:16] = True  # above 45°: (1 - sin 45°) / 2 of the sphere
    assert describe(mask, 0.5).startswith("found:         25.00% of the pixels, 14.64% of the")
    assert pixel_solid_angles(128, 64)[:16].sum() * 128 / (4 * np.pi) == pytest.approx(
        0.14645, 1e-4
    )


def test_the_overlay_goes_on_across_the_seam():
    image = np.full((64, 128, 3), 100, np.uint8)
    mask = np.zeros((64, 128), bool)
    mask[20:40, 100:] = mask[20:40, :20] = True
    clicks = [Click(0, 30, 1), Click(60, 50, 0)]
    painted = overlay(image, mask, clicks)
    assert (image == 100).all(), "the panorama is left as it is"
    tint = image[0, 0] // 2 + np.array(PREDICTED) // 2
    assert (painted[22, [100, 127, 0, 19]] == tint).all(), "no outline on the seam"
    assert (painted[30, [20, 99]] == WHITE).all() and (painted[[19, 40], 110] == WHITE).all()
    assert (painted[30, [0, 1, 127]] == CLICKS[1]).all() and (painted[50, 60] == CLICKS[0]).all()
    assert (painted[:10] == 100).all()
    np.testing.assert_array_equal(
        overlay(
            np.roll(image, 64, 1),
            np.roll(mask, 64, 1),
            [Click((x + 64) % 128, y, b) for x, y, b in clicks],
        ),
        np.roll(painted, 64, 1),
    )
