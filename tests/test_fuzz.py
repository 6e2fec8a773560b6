"""A short run of the fuzzer; `python -m tests.fuzz` runs thousands of cases."""

from __future__ import annotations

import os

from tests.fuzz import fuzz

SEED = int(os.environ.get("FUZZ_SEED", "1"))


def test_mutated_files_are_taken_or_refused():
    outcomes = fuzz(SEED, count=90, seconds=120)
    wrong = [outcome for outcome in outcomes if outcome.text not in ("taken", "refused")]
    assert wrong == [], f"seed {SEED}; python -m tests.fuzz --seed {SEED} --only NUMBER"
    assert {outcome.kind for outcome in outcomes} == {"coco", "picture", "shard"}
    assert {outcome.text for outcome in outcomes} == {"taken", "refused"}
