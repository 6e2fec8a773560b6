"""No path of a model mixes devices or waits for one, shown on a pretended GPU (`fake_gpu`)."""

from __future__ import annotations

import json
import subprocess
import sys

from sap_model.model.build import SIZES


def errors(*words: str) -> dict[str, str | None]:
    """PATH:SIZE: what went wrong, by the program's word."""
    command = [sys.executable, "-m", "tests.sap_model.fake_gpu", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return {one["job"]: one["error"] for one in found}


def test_prediction_and_training_of_all_sizes_stay_on_the_gpu():
    jobs = [*(f"predict:{size}" for size in SIZES), "train:nano", "train:large"]
    assert errors(*jobs) == dict.fromkeys(jobs)


def test_a_tensor_that_stays_on_the_cpu_is_found():
    found = errors("--fault", "predict:nano", "train:nano")
    assert len(found) == 2
    for error in found.values():
        assert error is not None
        assert error.startswith("FakeTensorDeviceMismatchError")
