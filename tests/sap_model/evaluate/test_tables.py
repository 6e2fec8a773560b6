"""Tables and results from small made-up evaluations whose means are known."""

import itertools
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import UserError
from sap_model.evaluate.results import RESULTS, align, check_results, read_results
from sap_model.evaluate.tables import seam_pole_table, size_table

SIZES = ("small", "medium", "large")


def rows(method="sam2", model="tiny", clicks=1, benchmark="PAV-SOD", score=0.5, images=4):
    """Three instances a panorama, one of each size; the large one crosses the seam."""
    return [
        {
            "method": method,
            "model": model,
            "benchmark": benchmark,
            "scene_id": f"scene{image // 2}",
            "image_id": f"scene{image // 2}/{image}",
            "object_id": 1 + SIZES.index(size),
            "area": 100,
            "size": size,
            "crosses_seam": size == "large",
            "touches_pole": size == "large" and image == 0,
            "clicks": clicks,
            "iou": score + 0.1 * SIZES.index(size) + 0.01 * image,
            "spherical_iou": 0.25,
            "boundary_iou": 0.125,
        }
        for image, size in itertools.product(range(images), SIZES)
    ]


def table(*lists):
    return pa.Table.from_pylist(list(itertools.chain(*lists)), schema=RESULTS)


@pytest.fixture
def results():
    scores = {
        ("sam2", 1): 0.3,
        ("scan", 1): 0.4,
        ("sap", 1): 0.5,
        ("sam2", 3): 0.6,
        ("sap", 3): 0.7,
    }
    return table(
        rows("oracle", "", score=0.75),
        *(rows(method, clicks=clicks, score=s) for (method, clicks), s in scores.items()),
        *(rows(method, "large", score=s) for method, s in (("sam2", 0.4), ("sap", 0.45))),
        rows("sam2", benchmark="other", score=0.1),
    )


def test_the_layout_is_the_papers(results):
    text = size_table(results, "PAV-SOD").markdown()
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    assert lines[0] == [
        *("Method", "1-click overall", "small", "medium", "large", "at the paper's mix"),
        *("3-click overall", "small", "medium", "large", "at the paper's mix"),
    ]
    assert [line[0] for line in lines[2:]] == [
        *("SAM2-tiny", "SAM2-tiny+scan", "SAP-tiny", "(SAP-SAM2)"),
        *("SAM2-large", "SAP-large", "(SAP-SAM2)"),
        *("(SAP-SAM2), mean of 2", "oracle (ceiling)", "instances", "scenes"),
    ]
    cells = {line[0]: line[1:] for line in lines[2:]}
    assert cells["SAM2-tiny"][0].startswith("41.5 [")  # 0.3 + 0.1 + 0.015
    assert cells["SAM2-tiny"][5].startswith("71.5 [")
    assert cells["SAM2-tiny+scan"][5:] == ["–"] * 5
    assert cells["(SAP-SAM2), mean of 2"][0] == "+12.5 [+12.5, +12.5]"
    assert cells["(SAP-SAM2), mean of 2"][5] == "–"
    assert cells["oracle (ceiling)"][0] == cells["oracle (ceiling)"][5]
    assert cells["instances"] == ["12", "4", "4", "4", "12"] * 2
    assert cells["scenes"] == ["2"] * 10


def test_overall_is_also_reported_at_the_papers_mix_of_sizes():
    few = [row for row in rows() if row["size"] != "large" or row["image_id"] == "scene0/0"]
    found = size_table(table(few), "PAV-SOD", clicks=(1,)).json()
    overall, small, medium, large, mixed = (cell["mean"] for cell in found["rows"][0]["cells"])
    assert overall == pytest.approx((4 * small + 4 * medium + large) / 9, abs=1e-3)
    expected = 0.3784 * small + 0.2570 * medium + 0.3647 * large
    assert mixed == pytest.approx(expected / 1.0001, abs=1e-3)
    assert mixed > overall + 2
    small_alone = size_table(table(rows()[:1]), "PAV-SOD", clicks=(1,)).json()
    assert small_alone["rows"][0]["cells"][-1] is None, "no large objects, so no such mix"


def test_intervals_are_of_scenes_and_gains_are_paired(results):
    found = size_table(results, "PAV-SOD").json()
    by_label = {row["label"]: row for row in reversed(found["rows"])}
    overall = by_label["SAP-tiny"]["cells"][0]
    assert overall["mean"] == pytest.approx(61.5) and overall["scenes"] == 2
    # scenes' means are 1 point above and below; Student's t of one degree of freedom is 12.7
    half = 12.7062 * 1
    assert [overall["low"], overall["high"]] == pytest.approx([61.5 - half, 61.5 + half], abs=1e-3)
    gain = by_label["(SAP-SAM2)"]["cells"][0]
    assert [gain[key] for key in ("mean", "low", "high")] == pytest.approx([20, 20, 20])
    assert by_label["(SAP-SAM2)"]["minus"] == [{"method": "sam2", "model": "tiny"}]
    assert json.loads(json.dumps(found)) == found


def test_the_seam_and_pole_table_takes_all_benchmarks_or_some():
    both = table(rows(), rows(benchmark="HunyuanWorld-1.0", images=2))
    found = seam_pole_table(both).json()
    assert [column["instances"] for column in found["columns"][:4]] == [6, 6, 2, 12]
    assert found["rows"][0]["cells"][0]["scenes"] == 3  # equal names of two benchmarks
    expected = np.mean([0.7, 0.71, 0.72, 0.73, 0.7, 0.71])
    assert found["rows"][0]["cells"][0]["mean"] == pytest.approx(100 * expected)
    one = seam_pole_table(both, ["HunyuanWorld-1.0"]).json()
    assert one["columns"][0]["instances"] == 2


def test_other_metrics_and_unknown_methods_have_tables_too():
    found = size_table(table(rows("erp"), rows("new", "mine")), "PAV-SOD", metric="boundary_iou")
    assert [row.label for row in found.rows] == ["erp-tiny", "new-mine"]
    assert found.json()["rows"][0]["cells"][0]["mean"] == 12.5


def test_one_scene_has_no_interval():
    found = size_table(table(rows(images=1)), "PAV-SOD", clicks=(1,))
    assert "| SAM2-tiny | 60.0 | 50.0 | 60.0 | 70.0 | 59.9 |" in found.markdown()
    assert "low" not in found.json()["rows"][0]["cells"][0]


def test_methods_on_different_instances_are_not_compared():
    with pytest.raises(UserError, match=r"sam2 tiny .* sap tiny .* same instances \(12 and 9\)"):
        align(table(rows(), rows("sap", images=3)))
    with pytest.raises(UserError, match="no results"):
        size_table(table(rows()), "elsewhere")


def test_results_are_read_from_files_and_folders(tmp_path, results):
    pq.write_table(results.slice(0, 30), tmp_path / "a.parquet")
    pq.write_table(results.slice(30), tmp_path / "b.parquet")
    assert read_results([tmp_path]).equals(results)
    assert read_results([tmp_path / "b.parquet", tmp_path / "a.parquet"]).num_rows == len(results)
    with pytest.raises(UserError, match="more than one result"):
        read_results([tmp_path, tmp_path / "a.parquet"])
    with pytest.raises(UserError, match="no results were named"):
        read_results([])


def test_what_is_no_results_is_refused_in_one_line(tmp_path):
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        read_results([tmp_path / "missing.parquet"])
    (tmp_path / "text.parquet").write_text("no Parquet")
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        read_results([tmp_path])
    bad = rows()
    for change, message in [
        ({"iou": 1.5}, "iou is not within"),
        ({"iou": float("nan")}, "iou is not within"),
        ({"size": "huge"}, "sizes other than"),
    ]:
        with pytest.raises(UserError, match=message):
            check_results(table([{**bad[0], **change}, *bad[1:]]), "here")
    with pytest.raises(UserError, match="columns iou are missing"):
        check_results(table(bad).drop_columns(["iou"]), "here")
    with pytest.raises(UserError, match="with null values"):
        nullable = pa.schema([field.with_nullable(True) for field in RESULTS])
        check_results(pa.Table.from_pylist([{**bad[0], "model": None}], schema=nullable), "here")
