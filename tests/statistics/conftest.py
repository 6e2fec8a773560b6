"""Shards with random annotations and without images, and their statistics."""

import pytest

from pipeline.shards.reader import ShardReader
from pipeline.statistics.measure import measure
from tests.benchmarks.statistics import write_shards

PANORAMAS = 90  # two shards


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("statistics")
    write_shards(folder, PANORAMAS)
    return ShardReader(folder)


@pytest.fixture(scope="session")
def statistics(shards):
    return measure(shards)
