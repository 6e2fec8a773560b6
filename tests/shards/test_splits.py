"""Splits and shards: a dataset grows at its end only."""

import dataclasses
from itertools import count, takewhile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.layout import write_json
from pipeline.run_settings import scene_id
from pipeline.shards.splits import draw_splits
from pipeline.shards.writer import VALIDATION_FRACTION, VALIDATION_PANORAMAS, pack
from tests.shards.packing import SMALL, image_ids, shards
from tests.synthetic import SETTINGS


def test_a_scene_is_in_one_split_by_its_name(packable):
    pack(packable, SETTINGS, validation_fraction=0.5)
    scenes = {
        split: {image_id.split("/")[0] for image_id in image_ids(packable, split)}
        for split in ("train", "validation")
    }
    assert len(scenes["train"]) == len(scenes["validation"]) == 2
    assert not scenes["train"] & scenes["validation"]


def test_validation_ends_with_enough_panoramas(packable):
    summary = pack(packable, SETTINGS, validation_fraction=1, validation_panoramas=3)
    assert (summary["validation"], summary["train"]) == (4, 4)  # whole scenes of two
    assert image_ids(packable, "validation")[0] == f"{scene_id(SETTINGS, 0)}/0"


@dataclasses.dataclass
class Row:
    """What drawing looks at."""

    seed: int


@pytest.mark.parametrize("first", [0, 7, 5000])
def test_one_scene_of_ten_is_drawn_until_there_are_200_panoramas(first):
    settings = dataclasses.replace(SETTINGS, seed=first)
    rows = [Row(first + i // 2) for i in range(2 * 3000)]  # two panoramas a scene
    splits = draw_splits(rows, settings, VALIDATION_FRACTION, VALIDATION_PANORAMAS)
    seeds = sorted({row.seed - first for row in splits["validation"]})
    assert [seed // 10 for seed in seeds] == list(range(100))
    assert len(splits["validation"]) == 200 and len(splits["train"]) == 5800
    # the hash decides: no place within the ten is preferred
    counts = np.bincount([seed % 10 for seed in seeds], minlength=10)
    assert counts.min() >= 2 and counts.max() <= 22


FATES = st.lists(st.sampled_from(["done", "failed"]), min_size=1, max_size=30)


@given(fates=FATES, order=st.randoms(use_true_random=False), panos=st.integers(1, 3))
def test_packed_rows_keep_their_split_and_place(fates, order, panos):
    """Scenes end in any order, some fail, and the run is packed after each of them."""
    ended: dict[int, str] = {}
    before: dict[str, list[Row]] = {"train": [], "validation": []}
    seeds = list(range(len(fates)))
    order.shuffle(seeds)
    for seed in seeds:
        ended[seed] = fates[seed]
        decided = takewhile(ended.__contains__, count(SETTINGS.seed))
        rows = [Row(s) for s in decided if ended[s] == "done" for _ in range(panos)]
        after = draw_splits(rows, SETTINGS, fraction=0.2, enough=5)
        for split, old in before.items():
            assert after[split][: len(old)] == old
        before = after


def test_a_late_scene_holds_later_seeds_back(packable):
    late = packable.scene(scene_id(SETTINGS, 1))
    late.done.unlink()
    summary = pack(packable, SETTINGS, shard_bytes=SMALL, validation_fraction=0)
    assert (summary["train"], summary["waiting"]) == (2, 2)
    before = shards(packable)
    write_json(late.done, {})
    summary = pack(packable, SETTINGS, shard_bytes=SMALL, validation_fraction=0)
    assert (summary["train"], summary["waiting"]) == (8, 0)
    assert before.items() <= shards(packable).items()


def test_a_quarantined_seed_holds_nothing_back(packable):
    failed = packable.scene(scene_id(SETTINGS, 1))
    failed.done.unlink()
    write_json(failed.failed, {})
    summary = pack(packable, SETTINGS, validation_fraction=0)
    assert (summary["train"], summary["waiting"]) == (6, 0)


def test_waiting_scenes_alone_are_not_packed(packable):
    packable.scene(scene_id(SETTINGS, 0)).done.unlink()
    with pytest.raises(UserError, match=r"to pack yet \(3 wait for an earlier seed\)"):
        pack(packable, SETTINGS)
