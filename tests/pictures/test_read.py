"""Whatever file a person has is read as it is meant, or refused in one line that names it."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import cv2
import numpy as np
import pytest
from PIL import Image

from pipeline.errors import UserError
from pipeline.exposure import MIDDLE_GREY
from pipeline.pictures import decode
from pipeline.pictures.gpano import Window
from pipeline.pictures.read import read_picture
from tests.pictures import samples
from tests.pictures.metadata_samples import CROPS
from tests.pictures.read_samples import READ
from tests.pictures.refused_samples import REFUSED
from tests.pictures.samples import QUARTER, H, W, area, encoded, gpano, panorama, ramp

CLOSE = 6.0
"""Mean difference of 255 that JPEG at full quality and CMYK may make."""


def made(folder, name, make):
    path = folder / name
    make(path)
    return path


@pytest.mark.parametrize("kind", READ)
def test_read_as_the_panorama(tmp_path, kind):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = read_picture(made(tmp_path, *READ[kind]))
    assert picture.pixels.dtype == np.uint8 and picture.pixels.shape == (H, W, 3)
    assert picture.known is None and not picture.is_part
    exact = not any(word in kind for word in ("JPEG", "CMYK", "with loss"))
    difference = np.abs(picture.pixels.astype(int) - panorama()).mean()
    assert difference == 0 if exact else difference < CLOSE


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_in_one_line_that_names_the_file(tmp_path, kind, capfd):
    name, make, reason = REFUSED[kind]
    path = made(tmp_path, name, make)
    with pytest.raises(UserError) as error:
        read_picture(path)
    text = str(error.value)
    assert str(path) in text and reason in text
    assert "\n" not in text and "; " in text
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1"])
def test_grey_palette_and_1_bit(tmp_path, mode):
    original = Image.fromarray(panorama()).convert(mode)
    for suffix in ("png", "tif") if mode != "LA" else ("png",):
        original.save(tmp_path / f"a.{suffix}")
        pixels = read_picture(tmp_path / f"a.{suffix}").pixels
        np.testing.assert_array_equal(pixels, np.array(original.convert("RGB")))


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_integers_are_scaled_by_the_bits_in_use(tmp_path, bits):
    values = np.rint(ramp() * (2**bits - 1)).astype(np.uint16)
    expected = np.rint(values / (2**bits - 1) * 255)
    samples.by_opencv(values, ".png")(tmp_path / "a.png")
    samples.tiff(values, photometric="rgb")(tmp_path / "a.tif")
    for name in ("a.png", "a.tif"):
        picture = read_picture(tmp_path / name)
        np.testing.assert_array_equal(picture.pixels, expected)
        assert any(f"{bits} of 16" in note for note in picture.notes)


def test_a_hot_pixel_does_not_change_the_depth(tmp_path):
    values = np.rint(ramp() * 4095).astype(np.uint16)
    values[7, 9] = 65535
    samples.tiff(values, photometric="rgb")(tmp_path / "a.tif")
    picture = read_picture(tmp_path / "a.tif")
    np.testing.assert_array_equal(picture.pixels, np.minimum(np.rint(values / 4095 * 255), 255))
    assert any(note.startswith("hot pixels: 3 values") for note in picture.notes)


@pytest.mark.parametrize("lamp", [[65535] * 40, [65535, 20000]])
def test_lights_in_a_dark_picture_are_no_hot_pixels(tmp_path, lamp):
    values = np.rint(ramp(1)[..., 0] * 4095).astype(np.uint16)
    values[7, : len(lamp)] = lamp
    samples.tiff(values)(tmp_path / "a.tif")
    picture = read_picture(tmp_path / "a.tif")
    np.testing.assert_array_equal(picture.pixels[..., 1], np.rint(values / 65535 * 255))


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_packed_tiff_declares_its_bits(tmp_path, bits):
    values = np.rint(ramp(1)[..., 0] * (2**bits - 1) / 8).astype(np.int64)  # a dark one
    (tmp_path / "a.tif").write_bytes(samples.packed_tiff(values, bits))
    expected = np.rint(values / (2**bits - 1) * 255)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.tif").pixels[..., 1], expected)


def test_a_png_declares_its_bits(tmp_path):
    values = np.rint(ramp() * 400).astype(np.uint16)
    data = cv2.imencode(".png", values)[1].tobytes()
    (tmp_path / "a.png").write_bytes(samples.with_chunk(b"sBIT", bytes([12, 12, 12]))(data))
    assert read_picture(tmp_path / "a.png").pixels.max() == round(400 / 4095 * 255)


def test_white_is_0(tmp_path):
    samples.tiff((ramp(1)[..., 0] * 65535).astype(np.uint16), photometric="miniswhite")(
        tmp_path / "a.tif"
    )
    pixels = read_picture(tmp_path / "a.tif").pixels
    assert pixels[0, 0, 0] == 255 and pixels[0, -1, 0] == 0


@pytest.mark.parametrize(
    ("suffix", "unit"),
    [
        *(
            (suffix, unit)
            for suffix in ("exr", "tif", "grey.exr")
            for unit in (1e-37, 1e-7, 1, 1e6, 1e36)
        ),
        ("hdr", 1),
        ("hdr", 1e6),
        ("half.exr", 1),
    ],
)
def test_light_is_exposed_to_middle_grey(tmp_path, suffix, unit):
    light = np.exp(3 * ramp()).astype(np.float32) * np.float32(unit)
    path = tmp_path / f"a.{suffix}"
    {
        "exr": lambda: samples.exr({"RGB": light})(path),
        "hdr": lambda: samples.by_opencv(light, ".hdr")(path),
        "tif": lambda: samples.tiff(light, photometric="rgb")(path),
        "half.exr": lambda: samples.exr({"RGB": light.astype(np.float16)})(path),
        "grey.exr": lambda: samples.exr({"Y": light[..., 0].copy()})(path),
    }[suffix]()
    pixels = read_picture(path).pixels / 255
    linear = np.where(pixels <= 0.04045, pixels / 12.92, ((pixels + 0.055) / 1.055) ** 2.4)
    unclipped = linear[:, : W // 2]
    expected = light[:, : W // 2] / np.exp(np.log(light).mean()) * MIDDLE_GREY
    np.testing.assert_allclose(unclipped, expected, atol=0.01, rtol=0.03)


def test_light_that_is_no_number_is_black_and_infinite_light_is_white(tmp_path):
    light = np.ones((H, W, 3), np.float32)
    light[0], light[1], light[2] = np.nan, np.inf, -1
    samples.exr({"RGB": light})(tmp_path / "a.exr")
    rows = read_picture(tmp_path / "a.exr").pixels[:4].mean(axis=(1, 2))
    assert rows[0] == 0 and rows[1] == 255 and rows[2] == 0 and 0 < rows[3] < 255


def test_inks_go_by_the_profile(tmp_path):
    cyan = Image.new("CMYK", (W, H), (255, 0, 0, 0))
    for suffix in ("jpg", "tif"):
        path = tmp_path / f"a.{suffix}"
        cyan.save(path, icc_profile=samples.cmyk_profile(black=20))
        assert (read_picture(path).pixels >= 254).all(), "by this profile cyan shows as paper"
        cyan.save(path, icc_profile=b"nonsense")
        assert read_picture(path).pixels[0, 0].tolist() == pytest.approx([0, 255, 255], abs=2)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_colours_go_by_the_profile(tmp_path, format):
    red = Image.new("RGB", (W, H), (255, 0, 0))
    options = {"lossless": True} if format == "WEBP" else {}
    red.save(tmp_path / "a", format, icc_profile=samples.swapped_profile(), **options)
    assert read_picture(tmp_path / "a").pixels[5, 5].tolist() == pytest.approx([0, 255, 0], abs=2)


def test_transparent_pixels_are_unknown(tmp_path):
    opacity = np.full((H, W), 255, np.uint8)
    opacity[-8:] = 0
    Image.fromarray(np.dstack([panorama(), opacity])).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    np.testing.assert_array_equal(picture.known, opacity > 0)
    assert not picture.pixels[-8:].any() and (picture.pixels[:-8] == panorama()[:-8]).all()
    assert picture.notes == ("transparent: 12.5% of the pixels show nothing",)


@pytest.mark.parametrize(("bits", "channels"), [(4, 1), (8, 1), (16, 1), (8, 3), (16, 3)])
def test_a_transparent_colour_is_unknown(tmp_path, bits, channels):
    values = np.arange(H * W * channels).reshape(H, W * channels) % (13 if bits == 4 else 251)
    rows = values.astype({4: np.uint8, 8: np.uint8, 16: ">u2"}[bits])
    if bits == 4:
        rows = rows[:, ::2] << 4 | rows[:, 1::2]
    key = values[5, : 1 if channels == 1 else 3]
    chunk = (b"tRNS", key.astype(">u2").tobytes())
    samples.plain_png(rows, bits, 0 if channels == 1 else 2, chunk)(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    known = (values.reshape(H, W, channels) != key).any(axis=2)
    assert 0 < known.sum() < known.size
    np.testing.assert_array_equal(picture.known, known)
    assert not picture.pixels[~known].any()


@pytest.mark.parametrize(
    ("chunks", "note"),
    [
        ([(b"gAMA", 100_000)], "gAMA gives 1,"),
        ([(b"gAMA", 55_556)], ""),
        ([(b"gAMA", 45_455)], ""),
        ([(b"gAMA", 100_000), (b"sRGB", 0)], ""),
        ([(b"cICP", 0x09080001)], "values are linear"),
        ([(b"gAMA", 100_000), (b"cICP", 0x010D0001)], ""),
    ],
)
def test_a_curve_that_is_not_applied_is_reported(tmp_path, chunks, note):
    data = encoded("PNG")
    for name, value in chunks:
        data = samples.with_chunk(name, value.to_bytes(4, "big"))(data)
    (tmp_path / "a.png").write_bytes(data)
    notes = read_picture(tmp_path / "a.png").notes
    assert note in notes[0] if note else notes == ()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_crop_is_placed_on_its_sphere(tmp_path, format):
    xmp = gpano(ProjectionType="equirectangular", **QUARTER)
    options = (
        {"quality": 100} if format == "JPEG" else {"lossless": True} if format == "WEBP" else {}
    )
    image = Image.fromarray(panorama())
    if format == "PNG":
        data = samples.with_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)(encoded("PNG"))
        (tmp_path / "a").write_bytes(data)
    elif format == "TIFF":
        image.save(tmp_path / "a", format, tiffinfo={700: xmp})
    else:
        image.save(tmp_path / "a", format, xmp=xmp, **options)
    picture = read_picture(tmp_path / "a")
    assert picture.pixels.shape == (2 * H, 2 * W, 3) and picture.size == (H, W)
    inside = picture.cut(picture.pixels)
    assert np.abs(inside.astype(int) - panorama()).mean() < (CLOSE if format == "JPEG" else 1e-9)
    assert picture.known[30 : 30 + H, 40 : 40 + W].all() and picture.known.sum() == H * W
    assert not picture.pixels[~picture.known].any()
    assert any(note.startswith("GPano crop: 180° × 90°") for note in picture.notes)
    values = np.arange(H * W).reshape(H, W)
    np.testing.assert_array_equal(picture.cut(picture.place(values)), values)


@pytest.mark.parametrize("kind", CROPS)
def test_a_crop_is_found_wherever_its_metadata_are(tmp_path, kind):
    picture = read_picture(made(tmp_path, "a", CROPS[kind]))
    assert picture.window == Window(40, 30, 2 * W, 2 * H)
    assert picture.known.sum() == H * W


def test_a_crop_that_is_not_2_to_1_is_a_panorama_too(tmp_path):
    Image.fromarray(panorama()[:50]).save(
        tmp_path / "a.jpg", xmp=gpano(**area((W, H), (W, 50), (0, 7)))
    )
    picture = read_picture(tmp_path / "a.jpg")
    assert picture.pixels.shape == (H, W, 3)
    assert picture.known.all(axis=1).tolist() == [7 <= row < 57 for row in range(H)]


@pytest.mark.parametrize("left", [200, 200 - 2 * W])
@pytest.mark.parametrize("scale", [1, 8])
def test_a_crop_may_cross_the_seam(tmp_path, left, scale):
    fields = area(*(tuple(scale * v for v in pair) for pair in ((256, 128), (W, H), (left, 30))))
    Image.fromarray(panorama()).save(tmp_path / "a.webp", lossless=True, xmp=gpano(**fields))
    picture = read_picture(tmp_path / "a.webp")
    expected = np.zeros((2 * H, 2 * W, 3), np.uint8)
    expected[30 : 30 + H, :W] = panorama()
    np.testing.assert_array_equal(picture.pixels, np.roll(expected, left, axis=1))
    np.testing.assert_array_equal(picture.cut(picture.pixels), panorama())
    assert picture.known.sum() == H * W
    assert picture.notes[0].startswith("GPano crop: 180° × 90° at 200,30 ")


def test_a_crop_that_was_scaled_after_its_metadata_were_written(tmp_path):
    Image.fromarray(panorama()).save(
        tmp_path / "a.jpg", xmp=gpano(**area((16 * W, 16 * H), (8 * W, 8 * H), (320, 240)))
    )
    picture = read_picture(tmp_path / "a.jpg")
    assert (picture.window.width, picture.window.left, picture.window.top) == (2 * W, 40, 30)


@pytest.mark.parametrize(
    "fields",
    [
        {"FullPanoWidthPixels": "many", "FullPanoHeightPixels": 64},
        area((2 * W, 2 * H), (W, H), (40, 100)),
        area((2 * W, 2 * H), (W, H), (2 * W, 0)),
        area((2 * W, 2 * H), (W, H), (-2 * W, 0)),
        area((W, H), (W, H), (1, 0)),
        area((2 * W, 2 * H), (W, 3 * H), (0, 0)),
        area((-2 * W, 2 * H), (W, H), (0, 0)),
        area((2 * W, 7), (W, 7), (0, 0)),
        {"FullPanoWidthPixels": "1e999"},
        {"CroppedAreaLeftPixels": "9" * 400},
    ],
)
def test_sizes_that_cannot_be_true_are_reported_and_ignored(tmp_path, fields):
    Image.fromarray(panorama()).save(tmp_path / "a.jpg", xmp=gpano(**fields))
    picture = read_picture(tmp_path / "a.jpg")
    assert not picture.is_part and picture.notes[0].startswith("nonsense: ")


def test_pose_is_reported(tmp_path):
    fields = {"PoseHeadingDegrees": 213.5, "PosePitchDegrees": -4, "PoseRollDegrees": 2.25}
    Image.fromarray(panorama()).save(tmp_path / "a.jpg", xmp=gpano(**fields))
    tilted, heading = read_picture(tmp_path / "a.jpg").notes
    assert "-4°" in tilted and "2.25°" in tilted and "213.5°" in heading


@pytest.mark.parametrize(("grey_rows", "end"), [(0, b"\xff\0"), (16, b"\0")], ids=["ff00", "00"])
def test_zeros_behind_a_scan_that_ends_in_zeros(tmp_path, grey_rows, end):
    image = np.random.default_rng(0).integers(0, 255, (H, W, 3), np.uint8)
    image[H - grey_rows :] = 128  # its code is mostly zeros
    files = (encoded("JPEG", image, quality=quality) for quality in range(100, 0, -1))
    data = next(data for data in files if data[:-2].endswith(end))
    (tmp_path / "whole.jpg").write_bytes(data)
    (tmp_path / "padded.jpg").write_bytes(samples.before_end(bytes(999))(data))
    whole, padded = (read_picture(tmp_path / f"{name}.jpg") for name in ("whole", "padded"))
    np.testing.assert_array_equal(padded.pixels, whole.pixels)


def test_stderr_may_be_closed(tmp_path, monkeypatch):
    samples.tiff(ramp() + 1, photometric="rgb")(tmp_path / "a.tif")
    monkeypatch.setattr("sys.stderr", None)
    kept = os.dup(2)
    os.close(2)
    try:
        picture = read_picture(tmp_path / "a.tif")
    finally:
        os.dup2(kept, 2)
        os.close(kept)
    assert picture.pixels.any()


def test_many_scans_are_refused_before_they_are_decoded(tmp_path):
    data = encoded("JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    (tmp_path / "a.jpg").write_bytes(data[:-2] + scan * 5000 + b"\xff\xd9")
    with pytest.raises(UserError, match="more than 100 scans"):
        read_picture(tmp_path / "a.jpg")


def test_files_beyond_the_bound_are_refused_unread(tmp_path, monkeypatch):
    with open(tmp_path / "a.jpg", "wb") as file:
        file.truncate(decode.MOST_BYTES + 1)  # a hole, which takes no room
    with pytest.raises(UserError, match=f"{decode.MOST_BYTES + 1} bytes"):
        read_picture(tmp_path / "a.jpg")


def test_memory_is_bounded_by_the_declared_size(tmp_path):
    (tmp_path / "a.png").write_bytes(samples.bomb(19_000, 9_500))
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30));"
        "from pathlib import Path; from pipeline.errors import UserError;"
        "from pipeline.pictures.read import read_picture\n"
        f"try: read_picture(Path({str(tmp_path / 'a.png')!r}))\n"
        "except UserError: sys.exit(3)"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 3
