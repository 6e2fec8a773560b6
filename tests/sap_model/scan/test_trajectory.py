"""The scan's grid and order against the paper's table 8 and its definition."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import UserError
from sap_model.scan.trajectory import Scan

TABLE_8 = [
    # step, rows, columns, views, overlap
    (90, 2, 4, 8, 0.0),
    (45, 3, 8, 24, 0.5),
    (30, 4, 12, 48, 2 / 3),
    (22.5, 5, 16, 80, 0.75),
    (18, 6, 20, 120, 0.8),
]
SCANS = [Scan(90, row[4]) for row in TABLE_8] + [Scan(60, 0.5), Scan(108, 1 / 3)]


def changes(scan: Scan) -> list[tuple[float, float]]:
    """Change of yaw, the short way round, and of pitch from each view to the next, cyclically."""
    ahead = [*scan.views[1:], scan.views[0]]
    return [
        ((b.yaw - a.yaw + 180) % 360 - 180, b.pitch - a.pitch)
        for a, b in zip(scan.views, ahead, strict=True)
    ]


@pytest.mark.parametrize(("step", "rows", "columns", "count", "overlap"), TABLE_8)
def test_the_papers_table_8(step, rows, columns, count, overlap):
    scan = Scan(90, overlap)
    assert (scan.rows, scan.columns, len(scan)) == (rows, columns, count)
    assert len(scan.views) == len(set(scan.views)) == count
    assert scan.step == step


def test_the_default_scan_is_the_papers():
    scan = Scan()
    assert {view.pitch for view in scan.views} == {-45, 0, 45}
    assert {view.yaw for view in scan.views} == {0, 45, 90, 135, 180, 225, 270, 315}
    assert [view.pitch for view in scan.views[:6]] == [-45, 0, 45, 45, 0, -45]


@pytest.mark.parametrize("scan", SCANS, ids=str)
def test_pitch_goes_from_the_lowest_to_the_highest_row_evenly(scan):
    pitches = sorted({view.pitch for view in scan.views})
    assert pitches[0] == pytest.approx(-(90 - scan.fov / 2))
    assert pitches[-1] == pytest.approx(90 - scan.fov / 2)
    gaps = [b - a for a, b in pairwise(pitches)]
    assert gaps == pytest.approx([scan.step] * (scan.rows - 1))


@pytest.mark.parametrize("scan", SCANS, ids=str)
def test_one_angle_changes_per_step(scan):
    for yaw, pitch in changes(scan)[:-1]:
        assert sorted([abs(yaw), abs(pitch)]) == pytest.approx([0, scan.step])


@pytest.mark.parametrize("scan", SCANS, ids=str)
def test_column_first_closes_with_an_even_number_of_columns(scan):
    assert scan.closes == (scan.columns % 2 == 0)
    back_at_pitch = scan.views[-1].pitch == scan.views[0].pitch
    assert back_at_pitch == scan.closes
    assert changes(scan)[-1][0] == pytest.approx(scan.step)


def test_row_first_moves_one_step_at_a_time_but_does_not_close():
    scan = Scan(order="row")
    assert not scan.closes
    assert set(scan.views) == set(Scan().views)
    for yaw, pitch in changes(scan)[:-1]:
        assert sorted([abs(yaw), abs(pitch)]) == [0, 45]
    assert [view.pitch for view in scan.views] == [-45] * 8 + [0] * 8 + [45] * 8
    assert changes(scan)[-1] == (45, -90)  # from the top right to the bottom left


@given(st.sampled_from(SCANS), st.integers(0, 500), st.integers(1, 3))
@settings(deadline=None)
def test_cyclic_visits_every_view_as_often_as_there_are_cycles(scan, start, cycles):
    indices = scan.cyclic(start, cycles)
    assert Counter(indices) == dict.fromkeys(range(len(scan)), cycles)
    assert indices[0] == start % len(scan)
    assert all((a + 1) % len(scan) == b for a, b in pairwise(indices))


@given(st.sampled_from(SCANS), st.integers(0, 500), st.integers(0, 300))
@settings(deadline=None)
def test_a_window_is_a_stretch_of_the_endless_scan(scan, start, length):
    endless = list(range(len(scan))) * (3 + (start % len(scan) + length) // len(scan))
    first = start % len(scan)
    assert list(scan.window(start, length)) == endless[first : first + length]
    assert set(scan.window(start)) == set(range(len(scan)))


def test_two_cycles_are_the_default():
    assert Scan().cyclic() == tuple(range(24)) * 2


@pytest.mark.parametrize(
    "chosen",
    [
        {"overlap": 0.4},  # 360 / 54 is not whole
        {"fov": 72.0, "overlap": 0.0},  # columns are, rows are not
        {"fov": 180.0},
        {"fov": 0.0},
        {"overlap": 1.0},
        {"overlap": -0.5},
        {"overlap": float("nan")},
        {"order": "spiral"},
    ],
)
def test_what_would_leave_holes_or_means_nothing_is_refused(chosen):
    with pytest.raises(UserError, match="choose") as error:
        Scan(**chosen)
    assert "\n" not in str(error.value)
