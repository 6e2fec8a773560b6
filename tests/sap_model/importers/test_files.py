"""Names and masks of other people's files."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.errors import UserError
from sap_model.importers.files import inside, read_labels, read_mask, safe_name
from tests.sap_model.importers.layouts import save


@given(st.text(), st.text())
def test_any_name_becomes_one_part_of_a_path_and_two_stay_two(one, other):
    names = safe_name(one), safe_name(other)
    for name in names:
        assert name and "/" not in name and "\\" not in name and not name.startswith((".", "-"))
        assert name.isascii() and name.isprintable() and " " not in name and len(name) <= 100
    assert (names[0] == names[1]) == (one == other)


@pytest.mark.parametrize(
    "name", ["../a", "/a", "a/../../b", "..\\a", "", ".", "a\0b", "C:\\a", "\\\\server\\a"]
)
def test_names_that_lead_out_of_a_folder_are_refused(tmp_path, name):
    with pytest.raises(UserError, match="leads out of"):
        inside(tmp_path, name)


@pytest.mark.parametrize("white", [1, 200, 255])
def test_a_mask_is_what_is_brighter_than_half(tmp_path, white):
    mask = np.eye(8, 16, dtype=np.uint8)
    save(tmp_path / "m.png", mask * np.uint8(white))
    assert np.array_equal(read_mask(tmp_path / "m.png", (8, 16)), mask == 1)


def test_masks_of_colour_of_opacity_and_of_16_bits(tmp_path):
    mask = np.eye(8, 16, dtype=bool)
    grey = mask.astype(np.uint8) * 255
    opaque = np.full((8, 16), 255, np.uint8)
    for name, image in {
        "colour": np.dstack([grey, 0 * grey, 0 * grey]),
        "opacity": np.dstack([opaque, opaque, opaque, grey]),
        "opaque": np.dstack([grey, grey, grey, opaque]),
        "deep": grey.astype(np.uint16) * 257,
    }.items():
        save(tmp_path / f"{name}.png", image)
        assert np.array_equal(read_mask(tmp_path / f"{name}.png", (8, 16)), mask), name


def test_labels_of_palettes_grey_values_and_colours(tmp_path):
    ids = np.arange(8 * 16, dtype=np.uint8).reshape(8, 16) % 5
    save(tmp_path / "grey.png", ids)
    save(tmp_path / "deep.png", ids.astype(np.uint16) * 1000)
    assert np.array_equal(read_labels(tmp_path / "grey.png", (8, 16)), ids)
    assert np.array_equal(read_labels(tmp_path / "deep.png", (8, 16)), ids.astype(int) * 1000)
    palette = Image.fromarray(ids, "P")
    palette.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, 0, 0, 128])
    palette.save(tmp_path / "palette.png")
    colours = np.array([0, 0x800000, 0x008000, 0x808000, 0x000080])
    assert np.array_equal(read_labels(tmp_path / "palette.png", (8, 16)), colours[ids])


def test_palettes_with_one_colour_twice_go_by_their_numbers(tmp_path):
    ids = np.arange(8 * 16, dtype=np.uint8).reshape(8, 16) % 5
    palette = Image.fromarray(ids, "P")
    palette.putpalette([0] * 15)  # a tool that knows no colours
    palette.save(tmp_path / "palette.png")
    assert np.array_equal(read_labels(tmp_path / "palette.png", (8, 16)), ids)


def test_masks_are_turned_as_exif_says(tmp_path):
    mask = np.triu(np.ones((8, 16), np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 3  # upside down
    Image.fromarray(np.ascontiguousarray(mask[::-1, ::-1])).save(tmp_path / "m.png", exif=turned)
    assert np.array_equal(read_mask(tmp_path / "m.png", (8, 16)), mask == 1)
    assert np.array_equal(read_labels(tmp_path / "m.png", (8, 16)), mask)


@pytest.mark.parametrize(
    ("name", "image", "format", "reason"),
    [
        ("m.png", np.eye(8, 16, dtype=np.uint8) * 9, "JPEG", "JPEG with loss"),
        ("m.webp", np.zeros((8, 16, 3), np.uint8), "WEBP", "WebP with loss"),
        ("m.tif", np.zeros((8, 16), np.float32), "TIFF", "float32 values"),
    ],
)
def test_labels_that_may_have_changed_are_refused(tmp_path, name, image, format, reason):
    Image.fromarray(image).save(tmp_path / name, format)
    with pytest.raises(UserError, match=reason):
        read_labels(tmp_path / name, (8, 16))
