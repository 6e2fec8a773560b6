"""Figures: reproducible files, and a density map that counts every object."""

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from pipeline.statistics.figures import draw_figures, position_density
from pipeline.statistics.measure import measure_batches
from tests.benchmarks.statistics import row_of
from tests.disks import little_space
from tests.errors import raises_user_error
from tests.statistics.test_measure import batch

NAMES = ["sizes", "instances", "categories", "solid_angles", "positions"]


def test_figures_are_reproducible_pictures(statistics, tmp_path):
    before = dict(mpl.rcParams)
    paths = draw_figures(statistics, tmp_path / "first")
    again = draw_figures(statistics, tmp_path / "second")
    assert [path.name for path in paths] == [f"{name}.png" for name in NAMES]
    for path, other in zip(paths, again, strict=True):
        assert path.read_bytes() == other.read_bytes()
        with Image.open(path) as picture:
            assert picture.width == 1600
            assert not picture.info.keys() & {"Software", "Creation Time", "date"}
            grey = np.asarray(picture.convert("L"))
        assert np.count_nonzero(grey < 250) > 0.01 * grey.size
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("objects", [0, 1])
def test_nearly_empty_dataset_can_be_drawn(objects, tmp_path):
    row = row_of(0, np.random.default_rng(0))
    row["objects"] = row["objects"][:objects]
    found = measure_batches([("train-00000.parquet", batch([row]))])
    assert all(path.is_file() for path in draw_figures(found, tmp_path))


def test_density_integrates_to_the_number_of_objects():
    counts = np.random.default_rng(0).integers(0, 9, (18, 36))
    latitude = np.radians(np.linspace(90, -90, 19))
    solid_angles = (np.sin(latitude[:-1]) - np.sin(latitude[1:])) * 2 * np.pi / 36
    density = position_density(counts, panoramas=5)
    assert (density * solid_angles[:, None]).sum() == pytest.approx(counts.sum() / 5)


def test_full_disk_is_a_user_error(statistics, tmp_path):
    folder = tmp_path / "small"
    with little_space(folder, 8192):
        with raises_user_error(folder):
            draw_figures(statistics, folder)
        assert list(folder.iterdir()) == []
