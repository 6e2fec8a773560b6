"""Statistics against plain loops over the rows, and against scenes with a known answer."""

import json
import math
import warnings
from collections import Counter, defaultdict
from statistics import mean, median

import numpy as np
import pyarrow as pa
import pytest

from pipeline.annotations.sizes import size_of
from pipeline.layout import RunFolder
from pipeline.shards.reader import ShardReader
from pipeline.shards.schema import make_schema
from pipeline.shards.writer import pack
from pipeline.statistics.counts import COLUMNS, solid_angle_edges
from pipeline.statistics.measure import measure, measure_batches, write_statistics
from pipeline.taxonomy import class_of
from tests.benchmarks.statistics import row_of
from tests.disks import little_space
from tests.errors import raises_user_error
from tests.synthetic import DISCS, SETTINGS, TINY, finish_scene

QUANTILES = {"p5": 5, "p25": 25, "median": 50, "p75": 75, "p95": 95}


def batch(rows):
    """Rows as a batch, including columns that the statistics do not need."""
    return pa.RecordBatch.from_pylist(rows, make_schema())


@pytest.fixture(scope="module")
def rows(shards):
    return list(shards.annotations())


@pytest.mark.parametrize("kind", ["instances", "objects"])
def test_counts_match_a_plain_loop(statistics, rows, kind):
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


def test_readings_of_the_thresholds_match_a_plain_loop(statistics, rows):
    found = statistics["total"]["instances"]["size_readings"]
    expected = {"coco": Counter(), "pixels": Counter(), "side": Counter()}
    for row in rows:
        factors = {"coco": 1, "pixels": row["width"] * row["height"] / 640 / 480}
        factors["side"] = (row["width"] / 640) ** 2
        for thing in row["objects"]:
            for reading, factor in factors.items():
                scaled = thing["area"] / factor
                size = "small" if scaled < 1024 else "medium" if scaled < 9216 else "large"
                expected[reading][size] += 1
    for reading, counts in expected.items():
        assert {size: part["count"] for size, part in found[reading].items() if part["count"]} == (
            dict(counts)
        )
    assert found["pixels"] == statistics["total"]["instances"]["sizes"]
    assert found["coco"] != found["pixels"]


def test_taxonomies_match_a_plain_loop(statistics, rows):
    for taxonomy, found in statistics["total"]["taxonomies"].items():
        things = [class_of(thing["category"], taxonomy) for row in rows for thing in row["objects"]]
        mapped = [each for each in things if each]
        assert (found["count"], found["classes"]) == (len(mapped), len(set(mapped)))
        assert found["percent"] == pytest.approx(100 * len(mapped) / len(things), rel=1e-5)


def test_categories_match_a_plain_loop(statistics, rows):
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


def test_positions_and_sphere_shares_match_a_plain_loop(statistics, rows):
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


def test_solid_angle_quantiles_are_accurate_to_half_a_bin(statistics, rows):
    exact = [thing["solid_angle"] for row in rows for thing in row["objects"]]
    found = statistics["total"]["instances"]["solid_angles"]["quantiles"]
    for name, percent in QUANTILES.items():
        assert found[name] == pytest.approx(np.percentile(exact, percent), rel=0.06)


def test_scenes_count_once_and_exposures_per_panorama(statistics, rows):
    assert statistics["total"]["scenes"] == len({row["scene_id"] for row in rows}) < len(rows)
    stops = [row["provenance"]["exposure_stops"] for row in rows]
    found = statistics["total"]["exposure_stops"]["median"]
    assert found == pytest.approx(median(stops), rel=1e-5)


def test_known_discs_have_their_flags(tmp_path):
    run = RunFolder(tmp_path / "out")
    finish_scene(run)
    pack(run, SETTINGS, validation_fraction=0)
    total = measure(ShardReader(run.shards))["total"]
    assert (total["panoramas"], total["scenes"]) == (2, 1)
    assert total["objects"]["per_panorama"]["histogram"] == [[len(DISCS) - 1, 2]]  # one too small
    # floor and ceiling cross the seam; of the discs, one lies on the seam, and one on the zenith
    # crosses it there
    assert total["instances"]["crosses_seam"]["count"] == 2 * 4
    assert total["objects"]["crosses_seam"]["count"] == 2 * 2
    assert total["instances"]["touches_pole"]["count"] == 2 * 2  # floor, and the disc
    too_small = 100 * (1 - np.cos(np.radians(DISCS[TINY][2]))) / 2
    assert total["sphere_percent"]["none"] == pytest.approx(too_small, rel=0.1)
    assert total["made_with"]["resolution"] == [{"value": "256 × 128", "panoramas": 2}]
    assert total["made_with"]["samples"] == [{"value": "1", "panoramas": 2}]


def test_groups_of_splits_and_generators():
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


def test_batches_may_come_in_any_order_and_size(shards, statistics):
    batches = list(shards.batches(COLUMNS))
    single = [(name, part.slice(k, 1)) for name, part in batches for k in range(part.num_rows)]
    assert measure_batches(reversed(single)) == statistics


def test_empty_panoramas_and_unknown_provenance_are_counted():
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


def test_thresholds_are_the_smallest_areas_of_their_class(statistics):
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


def damaged(place, value):
    """Three rows, one of them damaged at a path such as "provenance.device"."""
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
def test_invalid_value_is_rejected(place, value):
    named = "objects." if place == "objects" else place  # a null struct: its first field is named
    with warnings.catch_warnings(), raises_user_error("train-00003.parquet", named):
        warnings.simplefilter("error")
        measure_batches([("train-00003.parquet", damaged(place, value))])


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
def test_column_of_another_type_is_rejected(name, column):
    rows = damaged("width", 4096)
    rows = rows.set_column(rows.schema.get_field_index(name), name, column)
    with raises_user_error("train-00003.parquet", name, "type"):
        measure_batches([("train-00003.parquet", rows)])


def test_missing_field_is_rejected():
    rows = damaged("width", 4096)
    things = pa.array([[{"category": "chair"}]] * 3)
    rows = rows.set_column(rows.schema.get_field_index("objects"), "objects", things)
    with raises_user_error("train-00003.parquet", "objects.is_structure"):
        measure_batches([("train-00003.parquet", rows)])


@pytest.mark.parametrize("name", ["scene_id", "generator"])
def test_name_that_is_not_utf8_is_rejected(name):
    rows = damaged("width", 4096)
    words = pa.array([b"a", b"\xff\xfe", b"c"]).view(pa.string())
    rows = rows.set_column(rows.schema.get_field_index(name), name, words)
    with raises_user_error("train-00003.parquet", "UTF-8"):
        measure_batches([("train-00003.parquet", rows)])


def test_full_disk_is_a_user_error(shards, tmp_path):
    folder = tmp_path / "small"
    with little_space(folder, 4096):
        with raises_user_error(folder / "statistics.json"):
            write_statistics(shards, folder / "statistics.json")
        assert list(folder.iterdir()) == []


def test_images_and_masks_are_not_read():
    assert not any(
        column.startswith(("image.", "image_", "ids", "objects.list.element.seg"))
        for column in COLUMNS
    )


def test_file_is_reproducible_json(shards, statistics, tmp_path):
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    write_statistics(shards, first)
    write_statistics(shards, second)
    assert first.read_bytes() == second.read_bytes()
    assert json.loads(first.read_text()) == statistics
