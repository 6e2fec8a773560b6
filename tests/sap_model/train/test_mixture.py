"""The order of clips depends on numbers alone; sources are drawn by weight; faults are one line."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.shards.reader import ShardReader
from pipeline.shards.schema import make_schema
from sap_model.train import mixture as mixture_module
from sap_model.train.clip import Clip, ClipBatch, NoObjectError
from sap_model.train.crops import CropClips
from sap_model.train.mixture import (
    AHEAD,
    TRIES,
    Mixture,
    check_data,
    check_shared_memory,
    load,
    make,
    rows_of,
)
from sap_model.train.scan_clips import ScanClips
from sap_model.train.settings import TrainSettings


@dataclass
class FakeRows:
    """A source whose clips say which row they are of, and draw one number."""

    count: int
    first: int = 0
    empty: frozenset[int] = frozenset()
    broken: int | None = None
    asked: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return self.count

    def clip(self, index: int, rng: np.random.Generator) -> Clip:
        self.asked.append(index)
        if index == self.broken:
            raise UserError(f"row {index} is damaged; pack again")
        if index in self.empty:
            raise NoObjectError(str(index))
        image = np.full((1, 2, 2, 3), self.first + index, np.uint8)
        image[0, 0, 0, 1:] = rng.integers(256), cv2.getNumThreads()
        frames = 1 + index % 2  # two shapes
        return Clip(image, np.ones((1, 2, 2), np.uint8), np.zeros((frames, 1), np.int64))


def rows_in(part: list[ClipBatch]) -> list[int]:
    return [int(image[0, 1, 1]) for batch in part for image in batch.images]


def same(one: list[ClipBatch], other: list[ClipBatch]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a.views, b.views) and torch.equal(a.images[:, :2], b.images[:, :2])
        for a, b in zip(one, other, strict=True)
    )


@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 4), st.integers(0, 3))
@settings(deadline=None, max_examples=50)
def test_every_row_comes_once_in_a_round(count, together, seed, turn):
    mixture = Mixture([(FakeRows(count), 1.0)], together, seed)
    clips = range(turn * count * together, (turn + 1) * count * together)
    parts = [mixture[number] for number in range(clips.start // together, clips.stop // together)]
    seen = Counter(row for part in parts for row in rows_in(part))
    assert seen == dict.fromkeys(range(count), together)


def test_rounds_and_seeds_have_orders_of_their_own():
    def order(seed: int, turn: int) -> tuple[int, ...]:
        mixture = Mixture([(FakeRows(30), 1.0)], 1, seed)
        return tuple(rows_in(mixture[30 * turn + k])[0] for k in range(30))

    orders = [order(seed, turn) for seed in (0, 1) for turn in (0, 1)]
    assert len(set(orders)) == 4
    assert orders[0] != tuple(range(30))


@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.integers(0, 2**31 - 1))
@settings(deadline=None, max_examples=30)
def test_a_part_is_the_same_whoever_asked_for_what_before(numbers, seed):
    def new() -> Mixture:
        return Mixture([(FakeRows(9), 0.5), (FakeRows(5, 100, frozenset({1, 3})), 0.5)], 2, seed)

    one = new()
    for number in numbers:
        assert same(one[number], new()[number])


def test_clips_of_a_part_that_differ_in_shape_are_batches_of_their_own():
    mixture = Mixture([(FakeRows(20), 1.0)], 8)
    sizes = Counter(len(mixture[number]) for number in range(5))
    assert sizes[2] >= 4, "odd rows have two frames"
    for number in range(5):
        assert len(rows_in(mixture[number])) == 8
        for batch in mixture[number]:
            assert len({int(image[0, 1, 1]) % 2 for image in batch.images}) == 1


@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.75, 0.25), (0.9, 0.06, 0.04)])
def test_all_parts_of_a_step_have_one_source_drawn_by_weight(weights):
    sources = [(FakeRows(7, 50 * k), weight) for k, weight in enumerate(weights)]
    mixture = Mixture(sources, 2, parts=3)
    drawn = Counter()
    for step in range(1500):
        parts = [mixture[3 * step + k] for k in range(3)]
        kinds = {row // 50 for part in parts for row in rows_in(part)}
        assert len(kinds) == 1, "a picture beside a panorama would weigh 1/24 of it"
        drawn[kinds.pop()] += 1
    for k, weight in enumerate(weights):
        deviation = np.sqrt(1500 * weight * (1 - weight))
        assert abs(drawn[k] - 1500 * weight) < 4 * deviation


def test_rows_without_an_object_are_passed_over():
    source = FakeRows(10, empty=frozenset(range(9)))
    mixture = Mixture([(source, 1.0)])
    assert [rows_in(mixture[number]) for number in range(12)] == [[9]] * 12


def test_a_source_with_nothing_to_train_on_is_given_up_with_one_line():
    source = FakeRows(3, empty=frozenset(range(3)))
    with pytest.raises(UserError, match=r"Rows: no object .* in 100 rows .* of 3") as error:
        Mixture([(source, 1.0)])[5]
    assert "\n" not in str(error.value)
    assert len(source.asked) == TRIES == 100
    assert set(source.asked) == {0, 1, 2}


def test_the_order_of_many_rows_is_drawn_once(monkeypatch):
    drawn = []
    real = np.random.default_rng

    class Watched:
        def __init__(self, seed):
            self.real = real(seed)

        def permutation(self, count):
            drawn.append(count)
            return self.real.permutation(count)

        def __getattr__(self, name):
            return getattr(self.real, name)

    mixture = Mixture([(FakeRows(211), 1.0)], 2, seed=77)
    monkeypatch.setattr(np.random, "default_rng", Watched)
    for number in range(20):
        mixture[number]
    assert drawn == [211], "SA-1B has 11 million"


# ---- loader processes


def test_other_processes_make_the_same_parts_and_their_faults_are_one_line():
    broken = int(np.random.default_rng([0, 1]).permutation(8)[5])  # comes as number 13
    whole, faulty = (Mixture([(FakeRows(8, broken=bad), 1.0)]) for bad in (None, broken))
    here = [whole[number] for number in range(20)]
    for number in range(14, 20):
        faulty[number]
    for numbers, workers in ((range(0, 20, 3), 0), (range(14, 20), 2)):
        due = [here[number] for number in numbers]
        found = list(load(whole, numbers, workers, pin=False))
        assert all(same(a, b) for a, b in zip(due, found, strict=True))
    assert {int(image[2, 0, 0]) for part in found for b in part for image in b.images} == {1}, (
        "a loader process has one thread, as torch has it"
    )
    parts = load(faulty, range(10, 20), 1, pin=False)
    early = [next(parts) for number in range(3)] if broken not in _rows(here[10:13]) else []
    with pytest.raises(UserError) as error:
        list(parts)
    assert str(error.value) == f"row {broken} is damaged; pack again"
    assert all(same(a, b) for a, b in zip(early, here[10:13], strict=False))


def _rows(parts: list[list[ClipBatch]]) -> list[int]:
    return [row for part in parts for row in rows_in(part)]


def test_a_run_that_was_stopped_goes_on_with_the_same_parts():
    mixture = Mixture([(FakeRows(6), 0.7), (FakeRows(4, 100), 0.3)], 2, 3)
    through = list(load(mixture, range(12), 0, pin=False))
    for stops in ([5], [1, 2, 11]):
        pieces: list[list[ClipBatch]] = []
        for start, end in zip([0, *stops], [*stops, 12], strict=True):
            pieces += load(pickle.loads(pickle.dumps(mixture)), range(start, end), 0, pin=False)  # noqa: S301
        assert all(same(a, b) for a, b in zip(through, pieces, strict=True))
    # two processes, every other part each
    shared = [list(load(mixture, range(rank, 12, 2), 0, pin=False)) for rank in (0, 1)]
    assert all(same(through[i], shared[i % 2][i // 2]) for i in range(12))


# ---- over shards


def small(*data: object, **more) -> TrainSettings:
    return TrainSettings(
        data=tuple(map(str, data)), size="nano", image_size=64, clip_objects=2, clip_frames=4,
        batch_size=4, min_pixels=8, **more,
    )  # fmt: skip


def test_settings_name_the_sources_and_their_shares(shards):
    mixture = make(
        small(shards, mix=(("panoramas", 3.0), ("crops", 1.0)), crop_frames=2, method="erp")
    )
    (scans, three), (crops, one) = mixture.sources
    assert isinstance(scans, ScanClips)
    assert isinstance(crops, CropClips)
    assert (three, one) == (0.75, 0.25)
    assert len(scans) == len(crops) == 4
    assert type(scans.views(256)).__name__ == "ErpWindowViews"
    shapes = {len(batch.views) for number in range(12) for batch in mixture[number]}
    assert shapes == {4, 2}
    for batch in mixture[0]:
        assert batch.images.shape[1:] == (3, 64, 64)
        assert batch.masks[0].flatten(1).sum(1).min() >= 8


def test_small_panoramas_are_decoded_once(shards, monkeypatch):
    rows = rows_of(small(shards), "train")
    assert rows is not None
    assert rows[0] is rows[0]
    monkeypatch.setattr("sap_model.train.mixture.KEPT_BYTES", 100)
    rows = rows_of(small(shards), "train")
    assert rows is not None
    assert rows[0] is not rows[0]


def test_processes_of_a_machine_share_what_may_be_kept(shards, monkeypatch):
    bytes_ = 4 * 256 * 128 * 5  # image and ids of four rows
    monkeypatch.setattr("sap_model.train.mixture.KEPT_BYTES", 2 * bytes_)
    for count, kept in ((1, True), (2, True), (3, False)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(count))
        rows = rows_of(small(shards), "train")
        assert rows is not None
        assert (rows[0] is rows[0]) == kept


def test_shards_that_are_only_watched_need_no_train_split(packed, tmp_path):
    (tmp_path / "sa_1.jpg").touch()
    (tmp_path / "sa_1.json").touch()
    watched = small(packed(1), mix=(("sa1b", 1.0),), sa1b=str(tmp_path))
    assert [type(source).__name__ for source, _ in make(watched).sources] == ["Sa1b"]
    check_data(watched)


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_a_source_gives_its_share_of_its_rows_in_a_round_and_none_twice(share):
    mixture = Mixture([(FakeRows(50), share), (FakeRows(1, 100), 1 - share)])
    counts = []
    for turn in range(20):
        seen = [rows_in(mixture[50 * turn + k])[0] for k in range(50)]
        drawn = [row for row in seen if row < 50]
        assert len(set(drawn)) == len(drawn)
        counts.append(len(drawn))
    deviation = np.sqrt(1000 * share * (1 - share))
    assert abs(sum(counts) - 1000 * share) < 4 * deviation


def test_a_bad_row_is_refused_before_the_first_step(shards, tmp_path):
    row = ShardReader(shards, "train").row(0)
    row["objects"][0]["segmentation"]["size"] = [64, 128]
    table = pa.Table.from_pylist([row], schema=make_schema())
    pq.write_table(table, tmp_path / "train-00000.parquet")
    with pytest.raises(UserError, match=r"train-00000\.parquet: .* has size \[64, 128\], its"):
        check_data(small(shards, tmp_path))


def test_a_scene_that_is_trained_on_and_watched_is_refused(shards, packed):
    check_data(small(shards))
    check_data(small(shards, shards))
    # the same scenes, split in another way
    with pytest.raises(UserError, match="1 scenes are in the train and in the valid") as error:
        check_data(small(shards, packed(0.25)))
    assert "\n" not in str(error.value)
    assert "such as spheres-000000000" in str(error.value)
    with pytest.raises(UserError, match="2 scenes are in the train"):
        check_data(small(packed(0), shards))
    check_data(small(packed(0)))  # nothing is watched


def test_shards_without_an_object_that_is_large_enough_are_one_line(shards):
    mixture = make(small(shards).__class__(**{**vars(small(shards)), "min_pixels": 64 * 64 + 1}))
    with pytest.raises(UserError, match=r"ScanClips: no object .* of 4: .*MIN_PIXELS=") as error:
        mixture[0]
    assert "\n" not in str(error.value)


# ---- shared memory


def test_too_little_shared_memory_is_found_before_the_first_step(monkeypatch):
    part = Mixture([(FakeRows(4), 1.0)])[0]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    size = part[0].images.nbytes + part[0].truth.nbytes
    needed = 2 * (3 * AHEAD + 1) * size
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=needed - 1))
    with pytest.raises(UserError, match=r"/dev/shm .* 6 loader processes .* WORKERS=0"):
        check_shared_memory(part, 3)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=needed))
    check_shared_memory(part, 3)
    monkeypatch.setattr(mixture_module, "SHARED_MEMORY", Path("/no/such/folder"))
    with pytest.raises(UserError, match=r"0\.0 MiB free"):
        check_shared_memory(part, 1)


@dataclass
class Hanging(FakeRows):
    """A source whose loader process never answers, or dies."""

    dies: bool = False

    def clip(self, index: int, rng: np.random.Generator) -> Clip:
        if self.dies:
            os.kill(os.getpid(), signal.SIGBUS)  # as the kernel does where shared memory is full
        time.sleep(600)
        raise AssertionError


@pytest.mark.parametrize("dies", [False, True])
def test_a_loader_process_that_hangs_or_dies_is_one_line(monkeypatch, dies):
    monkeypatch.setattr(mixture_module, "LOADER_TIMEOUT", 20)
    with pytest.raises(UserError, match="shared memory") as error:
        list(load(Mixture([(Hanging(4, dies=dies), 1.0)]), range(4), 1, pin=False))
    assert "\n" not in str(error.value)
