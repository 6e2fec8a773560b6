"""Size thresholds at the documented resolutions."""

import pytest

from pipeline.annotations.sizes import (
    PAPER_MIX_PERCENT,
    SIZES,
    size_of,
    size_thresholds,
)


def test_thresholds_of_a_coco_image_are_cocos():
    assert size_thresholds(640, 480) == (32**2, 96**2)


def test_thresholds_at_4k():
    assert [round(area) for area in size_thresholds(4096, 2048)] == [27_962, 251_658]


@pytest.mark.parametrize(
    ("area", "size"),
    [(1, "small"), (27_962, "small"), (27_963, "medium"), (251_658, "medium"), (251_659, "large")],
)
def test_classes_at_4k(area, size):
    assert size_of(area, 4096, 2048) == size


def test_paper_shares_cover_all_sizes():
    assert tuple(PAPER_MIX_PERCENT) == SIZES
    assert sum(PAPER_MIX_PERCENT.values()) == pytest.approx(100, abs=0.02)
