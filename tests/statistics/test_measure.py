"""Statistics against plain loops over the rows, and against scenes whose answer is known."""

import json
import math
import re
import warnings
from collections import Counter, defaultdict
from statistics import mean, median

import numpy as np
import pyarrow as pa
import pytest

from pipeline.annotations.sizes import size_of
from pipeline.errors import UserError
from pipeline.layout import RunFolder
from pipeline.shards.reader import ShardReader
from pipeline.shards.schema import make_schema
from pipeline.shards.writer import pack
from pipeline.statistics.counts import COLUMNS, solid_angle_edges
from pipeline.statistics.measure import measure, measure_batches, write_statistics
from tests.benchmarks.statistics import row_of
from tests.disks import little_space
from tests.synthetic import DISCS, SETTINGS, TINY, finish_scene

QUANTILES = {"p5": 5, "p25": 25, "median": 50, "p75": 75, "p95": 95}


def batch(rows):
    """Rows as a batch; it also holds columns that are not asked for."""
    return pa.RecordBatch.from_pylist(rows, make_schema())


@pytest.fixture(scope="module")
def rows(shards):
    return list(shards.annotations())


@pytest.mark.parametrize("kind", ["instances", "objects"])
def test_counts_are_those_of_a_plain_loop(statistics, rows, kind):
    per_panorama = [
        [thing for thing in row["objects"] if kind == "instances" or not thing["is_structure"]]
        for row in rows
    ]
    things = [thing for panorama in per_panorama for thing in panorama]
    found = statistics["total"][kind]
    assert found["count"] == len(things)
    sizes = Counter(thing["size"] for thing in things)
    for size, entry in found["sizes"].items():
        assert entry["count"] == sizes[size]
        assert entry["percent"] == pytest.approx(100 * sizes[size] / len(things), rel=1e-5)
    for flag in ("crosses_seam", "touches_pole"):
        assert found[flag]["count"] == sum(thing[flag] for thing in things)
    numbers = list(map(len, per_panorama))
    assert found["per_panorama"]["mean"] == pytest.approx(mean(numbers), rel=1e-5)
    assert found["per_panorama"]["median"] == median(numbers)
    assert found["per_panorama"]["min"] == min(numbers)
    assert found["per_panorama"]["max"] == max(numbers)
    assert found["per_panorama"]["histogram"] == [list(x) for x in sorted(Counter(numbers).items())]
    edges = solid_angle_edges()
    expected, _ = np.histogram([thing["solid_angle"] for thing in things], edges)
    assert found["solid_angles"]["histogram"] == expected.tolist()


def test_categories_are_those_of_a_plain_loop(statistics, rows):
    instances, panoramas = Counter(), defaultdict(set)
    for row in rows:
        for thing in row["objects"]:
            instances[thing["category"], thing["is_structure"]] += 1
            panoramas[thing["category"], thing["is_structure"]].add(row["image_id"])
    found = statistics["total"]["categories"]
    assert {
        (entry["category"], entry["is_structure"]): (entry["instances"], entry["panoramas"])
        for entry in found
    } == {key: (count, len(panoramas[key])) for key, count in instances.items()}
    assert found == sorted(found, key=lambda entry: (-entry["instances"], entry["category"]))


def test_positions_and_shares_of_the_sphere_are_those_of_a_plain_loop(statistics, rows):
    cells, sphere = np.zeros((18, 36), int), Counter()
    for row in rows:
        for thing in row["objects"]:
            sphere["structure" if thing["is_structure"] else "objects"] += thing["solid_angle"]
            sphere[thing["size"]] += thing["solid_angle"]
            if not thing["is_structure"]:
                lon, lat = thing["bfov"][:2]
                cells[int((90 - lat) // 10), int((lon + 180) // 10)] += 1
    assert statistics["total"]["positions"] == cells.tolist()
    found = statistics["total"]["sphere_percent"]
    for name, solid_angle in sphere.items():
        assert found[name] == pytest.approx(100 * solid_angle / (4 * np.pi * len(rows)), rel=1e-5)
    assert found["objects"] + found["structure"] + found["none"] == pytest.approx(100)


def test_quantiles_of_solid_angles_are_right_to_half_a_bin(statistics, rows):
    exact = [thing["solid_angle"] for row in rows for thing in row["objects"]]
    found = statistics["total"]["instances"]["solid_angles"]["quantiles"]
    for name, percent in QUANTILES.items():
        assert found[name] == pytest.approx(np.percentile(exact, percent), rel=0.06)


def test_a_scene_counts_once_and_each_exposure_of_a_panorama(statistics, rows):
    assert statistics["total"]["scenes"] == len({row["scene_id"] for row in rows}) < len(rows)
    stops = [row["provenance"]["exposure_stops"] for row in rows]
    found = statistics["total"]["exposure_stops"]["median"]
    assert found == pytest.approx(median(stops), rel=1e-5)


def test_known_discs_have_the_flags_that_they_must(tmp_path):
    run = RunFolder(tmp_path / "out")
    finish_scene(run)
    pack(run, SETTINGS, validation_fraction=0)
    total = measure(ShardReader(run.shards))["total"]
    assert (total["panoramas"], total["scenes"]) == (2, 1)
    assert total["objects"]["per_panorama"]["histogram"] == [[len(DISCS) - 1, 2]]  # one too small
    # floor and ceiling reach all around; of the discs one lies on the seam and one on the zenith,
    # around which it meets the seam as well
    assert total["instances"]["crosses_seam"]["count"] == 2 * 4
    assert total["objects"]["crosses_seam"]["count"] == 2 * 2
    assert total["instances"]["touches_pole"]["count"] == 2 * 2  # floor, and the disc
    too_small = 100 * (1 - np.cos(np.radians(DISCS[TINY][2]))) / 2
    assert total["sphere_percent"]["none"] == pytest.approx(too_small, rel=0.1)
    assert total["made_with"]["resolution"] == [{"value": "256 × 128", "panoramas": 2}]
    assert total["made_with"]["samples"] == [{"value": "1", "panoramas": 2}]


def test_splits_and_generators_are_counted_apart_and_together():
    rng = np.random.default_rng(0)
    train, validation = ([row_of(k, rng) for k in numbers] for numbers in (range(4), range(4, 6)))
    train[2]["generator"] = train[3]["generator"] = "rooms"
    found = measure_batches(
        [("train-00000.parquet", batch(train)), ("validation-00000.parquet", batch(validation))]
    )
    assert list(found["splits"]) == ["train", "validation"]
    assert list(found["generators"]) == ["indoors", "rooms"]
    for groups, rows in (
        (found["splits"]["train"], train),
        (found["splits"]["validation"], validation),
        (found["generators"]["rooms"], train[2:]),
        (found["generators"]["indoors"], train[:2] + validation),
        (found["total"], train + validation),
    ):
        assert groups["panoramas"] == len(rows)
        assert groups["scenes"] == len({row["scene_id"] for row in rows})
        assert groups["instances"]["count"] == sum(len(row["objects"]) for row in rows)
        areas = [thing["area"] for row in rows for thing in row["objects"]]
        assert groups["smallest_area"] == min(areas)


def test_order_and_cuts_of_the_batches_do_not_matter(shards, statistics):
    whole = [(name, part) for name, part in shards.batches(COLUMNS)]
    single = [(name, part.slice(k, 1)) for name, part in whole for k in range(part.num_rows)]
    assert measure_batches(reversed(single)) == statistics


def test_panoramas_without_objects_and_unknown_provenance_are_counted():
    rng = np.random.default_rng(0)
    row = row_of(0, rng)
    row["objects"] = []
    row["provenance"] |= {"device": None, "exposure_stops": None}
    found = measure_batches([("train-00000.parquet", batch([row, row_of(1, rng)]))])["total"]
    assert found["panoramas"] == 2
    assert found["instances"]["per_panorama"]["min"] == 0
    assert {"value": "unknown", "panoramas": 1} in found["made_with"]["device"]
    alone = measure_batches([("train-00000.parquet", batch([row]))])["total"]
    assert alone["exposure_stops"] == alone["instances"]["solid_angles"]["quantiles"] == {}
    assert alone["smallest_area"] is None


def test_thresholds_are_the_smallest_areas_of_their_class_at_every_resolution(statistics):
    (entry,) = statistics["size_thresholds"]
    medium, large = (side**2 * 4096 * 2048 / 640 / 480 for side in (32, 96))
    assert entry == {
        "width": 4096,
        "height": 2048,
        "medium_from": math.ceil(medium),  # 27,962.03 pixels: an area of 27,962 is small
        "large_from": math.ceil(large),
    }
    first = [size_of(entry["medium_from"] - more, 4096, 2048) for more in (1, 0)]
    assert first == ["small", "medium"]


# Strangers' shards, and full disks


def damaged(place, value):
    """Three rows of which one was damaged, at a place such as "provenance.device"."""
    rng = np.random.default_rng(0)
    rows = [row_of(k, rng) for k in range(3)]
    *path, last = place.split(".")
    found = rows[1]
    for name in path:
        found = found[name][1] if name == "objects" else found[name]
    found[last] = value
    return batch(rows)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        *((name, None) for name in ("scene_id", "width", "height", "generator")),
        ("width", 0),
        ("objects", None),
        ("objects", [None]),
        ("provenance", None),
        *(("provenance.exposure_stops", value) for value in (math.inf, math.nan, 1e308)),
        *((f"objects.{name}", None) for name in ("category", "is_structure", "area", "size")),
        *((f"objects.{name}", None) for name in ("crosses_seam", "touches_pole", "solid_angle")),
        ("objects.area", 0),
        ("objects.size", "huge"),
        *(("objects.solid_angle", value) for value in (math.nan, math.inf, -1.0, 13.0)),
        ("objects.bfov", None),
        *(("objects.bfov", box) for box in ([], [0.0] * 3, [0.0] * 5, [0.0, 0.0, 1.0, None])),
        *(("objects.bfov", [lon, 0.0, 1.0, 1.0]) for lon in (math.nan, 1e300, -1e3)),
    ],
)
def test_rows_that_cannot_be_counted_are_refused(place, value):
    with warnings.catch_warnings(), pytest.raises(UserError, match="make verify") as caught:
        warnings.simplefilter("error")
        measure_batches([("train-00003.parquet", damaged(place, value))])
    assert str(caught.value).startswith("train-00003.parquet has rows that do not fit the schema")
    # where a whole struct is null, Arrow may as well call its first field so
    assert re.search(rf"\({place}\b|\(objects\.", str(caught.value))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("width", pa.array(["a", "b", "c"])),
        ("objects", pa.array([1, 2, 3])),
        ("objects", pa.array([[1], [2], [3]])),
        ("objects", pa.array([{"list": 1}] * 3)),
        ("provenance", pa.array([{"pipeline": "0"}] * 3)),
        ("generator", pa.array([b"a", b"b", b"c"])),
    ],
)
def test_columns_of_another_type_are_refused(name, column):
    rows = damaged("width", 4096)
    rows = rows.set_column(rows.schema.get_field_index(name), name, column)
    with pytest.raises(UserError, match=f"train-00003.parquet .*{name}.* has another type"):
        measure_batches([("train-00003.parquet", rows)])


def test_a_list_without_a_field_is_refused():
    rows = damaged("width", 4096)
    things = pa.array([[{"category": "chair"}]] * 3)
    rows = rows.set_column(rows.schema.get_field_index("objects"), "objects", things)
    with pytest.raises(UserError, match=r"objects\.is_structure is missing"):
        measure_batches([("train-00003.parquet", rows)])


@pytest.mark.parametrize("name", ["scene_id", "generator"])
def test_words_that_are_no_text_are_refused(name):
    rows = damaged("width", 4096)
    words = pa.array([b"a", b"\xff\xfe", b"c"]).view(pa.string())
    rows = rows.set_column(rows.schema.get_field_index(name), name, words)
    with pytest.raises(
        UserError, match=r"train-00003.parquet has rows .* no text; run make verify"
    ):
        measure_batches([("train-00003.parquet", rows)])


def test_a_full_disk_is_told_in_one_line(shards, tmp_path):
    folder = tmp_path / "small"
    with little_space(folder, 4096):
        with pytest.raises(UserError, match=r"the disk is full: no room for .*\.json") as caught:
            write_statistics(shards, folder / "statistics.json")
        assert list(folder.iterdir()) == []
    assert "\n" not in str(caught.value)


def test_neither_pictures_nor_masks_are_read():
    assert not any(
        column.startswith(("image.", "image_", "ids", "objects.list.element.seg"))
        for column in COLUMNS
    )


def test_the_file_is_the_same_each_time_and_plain_json(shards, statistics, tmp_path):
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    write_statistics(shards, first)
    write_statistics(shards, second)
    assert first.read_bytes() == second.read_bytes()
    assert json.loads(first.read_text()) == statistics
