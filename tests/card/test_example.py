"""The picture at the head of the card."""

import io

import numpy as np
from PIL import Image

from pipeline.card.example import GAP, example_picture, paint
from pipeline.shards.reader import decode_image
from tests.synthetic import FLOOR, PLAIN, SEAM, TINY, disc_ids, picture


class Rows:
    """A stand-in for `ShardReader`: rows of (category, is_structure), each with a picture."""

    def __init__(self, rows, width=256):
        ids = disc_ids(width)
        self.rows = [
            {
                "objects": [
                    {"id": k, "category": category, "is_structure": structure}
                    for k, (category, structure) in enumerate(things, start=1)
                ],
                "image_id": f"scene/{index}",
                "image": _encoded(picture(ids, index)),
                "ids": _encoded(ids),
            }
            for index, things in enumerate(rows)
        ]

    def annotations(self, columns):
        return iter(self.rows)

    def row(self, index):
        return self.rows[index]


def _encoded(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "png")
    return {"bytes": file.getvalue(), "path": "x.png"}


def test_the_first_furnished_panorama_is_shown():
    fixtures = [("window", False)] * 6
    structure = [("wall", True)] * 6
    furniture = [("chair", False)] * 5
    assert example_picture(Rows([fixtures, structure, furniture, furniture]))[1] == "scene/2"
    assert example_picture(Rows([fixtures, structure]))[1] == "scene/0"


def test_picture_is_the_panorama_above_its_masks(monkeypatch):
    monkeypatch.setattr("pipeline.card.example.MAX_WIDTH", 128)
    rows = Rows([[("chair", False)] * 6], width=256)
    jpeg, _ = example_picture(rows)
    half = 64
    with Image.open(io.BytesIO(jpeg)) as image:
        assert image.size == (128, half + GAP + half)
        shown = np.asarray(image).astype(float)
    original = decode_image(rows.row(0)["image"]).astype(float)
    averages = original.reshape(half, 2, 128, 2, 3).mean(axis=(1, 3))
    assert np.abs(shown[:half] - averages).mean() < 6  # loss of JPEG on noise
    assert shown[half : half + GAP].min() > 240


def test_only_annotated_instances_are_coloured():
    ids = disc_ids(256)
    flat = np.full((128, 256, 3), 255, np.uint8)
    painted = paint(flat, ids, annotated={FLOOR, PLAIN, SEAM}, pale={FLOOR})

    def colour(label):
        values, counts = np.unique(painted[ids == label], axis=0, return_counts=True)
        return values[counts.argmax()].astype(int)

    assert np.ptp(colour(PLAIN)) > 100 and np.ptp(colour(SEAM)) > 100
    assert np.abs(colour(PLAIN) - colour(SEAM)).max() > 60
    assert np.ptp(colour(FLOOR)) < 60
    assert np.ptp(colour(TINY)) == 0 and colour(TINY).max() < 60
    # no outline along the seam: both parts of the disc there are one instance
    row = ids.shape[0] // 2 - 8
    assert ids[row, 0] == ids[row, -1] == SEAM
    np.testing.assert_array_equal(painted[row, 0], colour(SEAM))
