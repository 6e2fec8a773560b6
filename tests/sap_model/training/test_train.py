"""The training loop on small panoramas of discs: it learns, goes on exactly, and refuses."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import cv2
import pytest
import torch
from torch.distributed.run import parse_args

from pipeline.errors import UserError
from pipeline.outputs import RunFolder
from pipeline.shards.writer import pack
from sap_model.model.build import build
from sap_model.model.checkpoints import load
from sap_model.training import checkpoints, train, validation
from sap_model.training.panoramas import Rows, Scans
from sap_model.training.processes import World
from sap_model.training.records import Records
from sap_model.training.settings import TrainSettings
from sap_model.training.train import Watch
from tests import synthetic

ROOT = Path(__file__).parents[3]
QUIET = Watch(clips=0, save_every=1, workers=0)


@pytest.fixture(scope="module")
def settings(packed, tmp_path_factory) -> TrainSettings:
    """Two clips a step, from weights in a file, all of which the command line can say too."""
    weights = tmp_path_factory.mktemp("fresh") / "nano.pt"
    torch.save({"model": build("nano", 64, seed=1).state_dict()}, weights)
    return TrainSettings(
        data=(str(packed(0.0)),),
        size="nano",
        image_size=64,
        checkpoint=str(weights),
        objects=2,
        frames=3,
        batch=2,
        steps=4,
        lr=1e-3,
        min_pixels=16,
    )


@pytest.fixture(scope="module")
def reference(settings, tmp_path_factory) -> Path:
    """The folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("reference")
    train.train(settings, folder, QUIET)
    return folder


def command(settings: TrainSettings, folder: Path, processes: int = 1) -> list[str]:
    """What make calls."""
    how = ["-m"]
    if processes > 1:  # the dashes end torchrun's own options, of which --run could be one
        how = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        how += ["-m", "--"]
    words = [sys.executable, *how, "sap_model", "train"]
    words += ["--run", str(folder), "--data", *settings.data, "--workers", "0", "--save-every", "1"]
    names = ("size", "image_size", "checkpoint", "objects", "frames", "batch", "steps", "lr")
    for name in (*names, "min_pixels"):
        words += [f"--{name.replace('_', '-')}", str(getattr(settings, name))]
    return words


def environment() -> dict[str, str]:
    """Of a real process, on the CPU."""
    return os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def losses(folder: Path) -> list[dict[str, float]]:
    """What the log says of each step, but for times."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in line.items() if name not in ("time", "took", "waited")}
        for line in lines
        if "core_loss" in line
    ]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "weights.pt")["model"]


def assert_same(folder: Path, reference: Path) -> None:
    """To the last bit."""
    assert losses(folder) == losses(reference)
    expected = weights(reference)
    assert all(torch.equal(weight, expected[name]) for name, weight in weights(folder).items())


def test_a_run_that_is_stopped_goes_on_to_the_same_bits(settings, reference, tmp_path, monkeypatch):
    noted = Records.step

    def stopped(self, step, *about):
        noted(self, step, *about)
        if step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Records, "step", stopped)
        train.train(settings, tmp_path, QUIET)
    assert [path.stem for path in checkpoints.states(tmp_path)] == ["00000001", "00000002"]
    assert not (tmp_path / "weights.pt").exists() and len(losses(tmp_path)) == 3
    # the last state is damaged too, so that it goes on from the one before
    last = checkpoints.states(tmp_path)[-1]
    last.write_bytes(last.read_bytes()[: 2**16])
    train.train(settings, tmp_path, QUIET)
    assert_same(tmp_path, reference)
    # a finished run has nothing to do
    before = (tmp_path / "log.jsonl").read_bytes()
    train.train(settings, tmp_path, QUIET)
    assert (tmp_path / "log.jsonl").read_bytes() == before


def test_a_run_that_is_killed_goes_on_to_the_same_bits(settings, reference, tmp_path):
    child = subprocess.Popen(command(settings, tmp_path), env=environment(), cwd=ROOT)
    while len(checkpoints.states(tmp_path)) < 2 and child.poll() is None:
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not (tmp_path / "weights.pt").exists()
    train.train(settings, tmp_path, QUIET)
    assert_same(tmp_path, reference)


def test_two_processes_do_what_one_does(settings, reference, tmp_path):
    done = subprocess.run(
        command(settings, tmp_path, processes=2),
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("step 4 of 4") == 1, "only one process speaks"
    for ours, expected in zip(losses(tmp_path), losses(reference), strict=True):
        assert ours == pytest.approx(expected, rel=1e-4)
    expected = weights(reference)
    for name, weight in weights(tmp_path).items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-6, atol=1e-5, msg=name)


def test_make_keeps_torchruns_options_from_ours():
    said = subprocess.run(
        ["make", "--dry-run", "train", "GPUS=2", "DATA=d", "RUN=r"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stdout
    words = shlex.split(said.split("torch.distributed.run")[1].replace("\\\n", " "))
    started = parse_args(words)
    assert started.module and started.nproc_per_node == "2"
    assert started.training_script == "sap_model"
    assert started.training_script_args == ["train", "--data", "d", "--run", "r"]


def test_twenty_steps_lower_the_loss_and_leave_what_they_should(shards, tmp_path):
    settings = TrainSettings(
        data=(str(shards),),
        size="nano",
        image_size=64,
        checkpoint=None,
        objects=2,
        frames=2,
        batch=2,
        together=2,
        steps=20,
        lr=1e-3,
        loss="from-nothing",
        frozen=False,
        true_presence=True,
        corrections=0,
        sap=1.0,
    )
    watch = Watch(clips=3, frames=3, validate_every=20, log_every=5, workers=0)
    path = train.train(settings, tmp_path, watch)
    values = [line["core_loss"] for line in losses(tmp_path)]
    assert len(values) == 20 and sum(values[-5:]) < 0.95 * sum(values[:5])
    assert path == tmp_path / "weights.pt"
    for name in ("weights.pt", "best.pt"):
        load(None, tmp_path / name, 64, "cpu")
    assert cv2.imread(str(tmp_path / "pictures" / "00000020.jpg")).std() > 10
    assert list((tmp_path / "tensorboard").glob("events*"))
    last = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 20 and 0 <= last["validation/clicked"] <= 1


def test_a_small_panorama_is_learnt_by_heart(tmp_path, monkeypatch):
    big = {3: (40.0, -20.0, 30.0), 4: (180.0, 10.0, 35.0), 5: (-70.0, 20.0, 30.0)}
    monkeypatch.setattr(synthetic, "DISCS", big)
    made = dataclasses.replace(synthetic.SETTINGS, panos=1)
    run = RunFolder(tmp_path / "out")
    synthetic.finish_scene(run, made)
    pack(run, made, validation_fraction=0)
    settings = TrainSettings(**LEARNT, data=(str(run.shards),))
    path = train.train(settings, tmp_path / "run", dataclasses.replace(QUIET, save_every=1000))
    network = train.new_network(dataclasses.replace(settings, checkpoint=str(path)))
    source = Scans(Rows(settings.data, "train"), 64, settings.objects, settings.frames, sap=1.0)
    score, _ = validation.score(network, validation.fixed_clips(source, 6), settings.min_pixels)
    assert score.clicked > 0.9 and score.views[0] > 20


def test_a_loss_that_is_no_number_stops_before_it_reaches_the_weights(settings, tmp_path):
    wild = dataclasses.replace(settings, lr=1e30)
    with pytest.raises(UserError, match=r"step 2: the loss is .*lower LR") as stopped:
        train.train(wild, tmp_path, QUIET)
    assert "\n" not in str(stopped.value)
    state = checkpoints.last_state(tmp_path)
    assert state is not None and state["step"] == 1
    assert all(weight.isfinite().all() for weight in state["model"].values())


def test_a_loss_that_does_not_come_back_stops_the_run(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "PATIENCE", 2)
    monkeypatch.setattr(train, "DIVERGED", 0.0)  # so that every loss counts as far too high
    with pytest.raises(UserError, match="step 4: for 2 steps the loss was over"):
        train.train(dataclasses.replace(settings, steps=9), tmp_path, QUIET)


def test_what_cannot_be_trained_is_refused_before_the_first_step(
    settings, reference, tmp_path, monkeypatch
):
    def refused(folder: Path, **other) -> str:
        with pytest.raises(UserError) as error:
            train.train(dataclasses.replace(settings, **other), folder, QUIET)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "other settings (LR)" in refused(reference, lr=2e-3)
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refused(tmp_path / "file")
    with checkpoints.only_run(tmp_path / "busy"):
        assert "another process is training" in refused(tmp_path / "busy")
    assert "does not fit size tiny; it is for size nano" in refused(tmp_path / "run", size="tiny")
    several = World(0, 3, torch.device("cpu"))
    monkeypatch.setattr(train, "processes", lambda: nullcontext(several))
    assert "BATCH 2 in parts of 1 cannot be divided among 3" in refused(tmp_path / "run")
    assert not checkpoints.states(tmp_path / "run")


LEARNT = {
    "size": "nano",
    "image_size": 64,
    "checkpoint": None,
    "objects": 6,
    "frames": 2,
    "batch": 1,
    "steps": 140,
    "warmup": 5,
    "lr": 2e-3,
    "min_pixels": 100,
    "checkpointing": False,
    "frozen": False,
    "loss": "from-nothing",
    "true_presence": True,
    "grouping": True,
    "optimizer": "muon",
    "corrections": 0,
    "sap": 1.0,
}
"""Settings under which that takes half a minute."""
