"""Forged poses, boxes, rooms and depth are found and located."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.annotations.stage import encode_png
from pipeline.shards.reader import decode_ids
from pipeline.shards.schema import make_schema
from pipeline.verify.row_checks import check_row
from tests.synthetic import PASSES, PLAIN, older_row
from tests.verify.conftest import FIRST, findings


def tilt(row):
    row["camera"]["to_world_opencv"][0][0] += 0.01


def displace(row):
    row["camera"]["to_world_blender"][2][3] += 0.01


def move_camera(row):
    row["camera"]["position"][0] += 3.0


def move_box(row):
    row["objects"][2]["box3d"]["centre"][0] += 1.5


def shrink_box(row):
    row["objects"][2]["box3d"]["size"] = [0.1, 0.1, 0.1]


def stretch_box(row):
    row["objects"][2]["box3d"]["size"][0] *= 2


def mirror_box(row):
    row["objects"][2]["box3d"]["rotation"][0][0] = -1.0


def lose_box(row):
    row["objects"][2]["box3d"] = None


def estrange(row):
    row["objects"][2]["distance"] += 0.5


def exaggerate(row):
    row["objects"][2]["seen"] = 0.3


def deepen(row):
    depth = decode_ids(row["depth"])
    ball = decode_ids(row["ids"]) == row["objects"][2]["id"]
    row["depth"]["bytes"] = encode_png(np.where(ball, depth + 3000, depth).astype(np.uint16))


def rename_room(row):
    row["room"]["name"] = "attic"


def shrink_room(row):
    row["room"]["polygon"] = [[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]


def turn_room_over(row):
    row["room"]["polygon"].reverse()


def leave_room(row):
    row["room"]["polygon"] = [[x + 30_000, y] for x, y in row["room"]["polygon"]]


def raise_ceiling(row):
    row["room"]["height"] = 20.0


def raise_floor(row):
    row["room"]["floor"] = 2.0


def invent_kind(row):
    row["room"]["kind"] = "kitchen"


@pytest.mark.parametrize(
    ("forge", "message"),
    [
        (tilt, "camera.to_world_opencv"),
        (displace, "camera.to_world_blender"),
        (move_camera, "distance is 2.0, by its box"),
        (move_box, "of 64 pixels look past its box3d"),
        (shrink_box, "of 64 pixels look past its box3d"),
        (mirror_box, "box3d is not an upright box"),
        (lose_box, "objects[2].box3d is missing"),
        (estrange, "distance is 2.5"),
        (exaggerate, "seen is 0.3"),
        (deepen, "depth of 64 of 64 pixels"),
        (rename_room, "room is attic"),
        (shrink_room, "room.polygon is smaller than the floor's box3d"),
        (turn_room_over, "room.polygon"),
        (leave_room, "room.polygon does not hold the camera"),
        (raise_ceiling, "room.height is 20.0"),
        (raise_floor, "room.floor 2.0"),
    ],
)
def test_forged_geometry_is_found(forgery, forge, message):
    row, found = forgery.rows(FIRST)[1], []
    forge(row)
    check_row(row, None, lambda text, **place: found.append((text, place.get("object"))))
    assert any(message in text for text, _ in found), found


@pytest.mark.parametrize(
    ("forge", "message"),
    [
        (stretch_box, f"object {PLAIN}: box3d differs from that in"),
        (invent_kind, "room differs from that in"),
    ],
)
def test_geometry_that_differs_within_a_scene_is_found(forgery, forge, message):
    forgery.change(FIRST, 1, forge)
    (line,) = findings(forgery.shards)
    assert line.startswith(f"{FIRST} row 1 (") and message in line


def test_shards_without_geometry_have_no_findings(forgery):
    """As versions before 0.4.0 made them."""
    (forgery.shards / "manifest.json").unlink()
    for path in (forgery.shards / "data").glob("*.parquet"):
        rows = [older_row(row) for row in pq.read_table(path).to_pylist()]
        schema = make_schema(PASSES.passes, geometry=False)
        with pq.ParquetWriter(path, schema, write_page_checksum=True) as writer:
            for row in rows:
                writer.write_table(pa.Table.from_pylist([row], schema))
    assert findings(forgery.shards) == []
