"""What is written shows as a panorama in viewers, and is read back as it was."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.pictures.formats import split
from pipeline.pictures.gpano import Window, read_gpano
from pipeline.pictures.read import read_picture
from pipeline.pictures.write import encode_panorama
from tests.pictures.samples import H, W, panorama

LOSSLESS = (".png", ".webp")


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".JPG", *LOSSLESS])
def test_a_whole_sphere(tmp_path, suffix):
    data = encode_panorama(panorama(), suffix)
    found = read_gpano(split(data).xmp)
    assert found.full == (W, H) and found.crop == (0, 0, W, H) and not found.is_cropped
    (tmp_path / "a").write_bytes(data)
    picture = read_picture(tmp_path / "a")
    assert picture.notes == () and not picture.is_part
    difference = np.abs(picture.pixels.astype(int) - panorama()).mean()
    assert difference == 0 if suffix in LOSSLESS else difference < 3


@pytest.mark.parametrize("left", [40, -56])
def test_a_part_keeps_its_place(tmp_path, left):
    window = Window(left, top=30, width=2 * W, height=2 * H)
    (tmp_path / "a").write_bytes(encode_panorama(panorama(), ".png", window))
    picture = read_picture(tmp_path / "a")
    assert picture.window == window
    np.testing.assert_array_equal(picture.cut(picture.pixels), panorama())


def test_another_suffix_is_refused():
    with pytest.raises(ValueError, match="gif"):
        encode_panorama(panorama(), ".gif")
