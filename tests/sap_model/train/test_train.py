"""The training loop on small panoramas of discs: it learns, and goes on exactly."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest
import torch
from torch.distributed.run import parse_args

from pipeline.layout import RunFolder
from pipeline.shards.writer import pack
from sap_model import commands
from sap_model.model.checkpoints import load
from sap_model.train import run_folder, train, validation
from sap_model.train.run_folder import RunLog
from sap_model.train.scan_clips import ScanClips, ShardRows
from sap_model.train.settings import TrainSettings, Watch
from tests import synthetic
from tests.sap_model.train.runs import QUIET, ROOT, command, environment, losses, weights


@pytest.fixture(scope="module")
def reference(settings, tmp_path_factory) -> Path:
    """The folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("reference")
    train.train(settings, folder, QUIET)
    return folder


def assert_same(folder: Path, reference: Path) -> None:
    """To the last bit."""
    assert losses(folder) == losses(reference)
    expected = weights(reference)
    assert all(torch.equal(weight, expected[name]) for name, weight in weights(folder).items())


def test_a_run_that_is_stopped_goes_on_to_the_same_bits(settings, reference, tmp_path, monkeypatch):
    noted = RunLog.step

    def stopped(self, step, *about):
        noted(self, step, *about)
        if step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RunLog, "step", stopped)
        train.train(settings, tmp_path, QUIET)
    assert [path.stem for path in run_folder.states(tmp_path)] == ["00000001", "00000002"]
    assert not (tmp_path / "weights.pt").exists() and len(losses(tmp_path)) == 3
    # the last state is damaged too, so that it resumes from the one before
    last = run_folder.states(tmp_path)[-1]
    last.write_bytes(last.read_bytes()[: 2**16])
    train.train(settings, tmp_path, QUIET)
    assert_same(tmp_path, reference)


def test_a_finished_run_is_done_without_building_anything(settings, reference, monkeypatch, capsys):
    for name in ("make", "new_network"):
        monkeypatch.setattr(train, name, None)
    before = (reference / "log.jsonl").read_bytes()
    assert train.train(settings, reference, QUIET) == reference / "weights.pt"
    assert "done already" in capsys.readouterr().out
    assert (reference / "log.jsonl").read_bytes() == before


def test_a_run_that_is_killed_goes_on_to_the_same_bits(settings, reference, tmp_path):
    child = subprocess.Popen(command(settings, tmp_path), env=environment(), cwd=ROOT)
    while len(run_folder.states(tmp_path)) < 2 and child.poll() is None:
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


def test_torchrun_gets_the_whole_command_line(monkeypatch):
    """The dashes end torchrun's own options, of which --run could be one."""
    ours = ["train", "GPUS=2", "--data", "my data", "--run", "r"]
    called = []
    monkeypatch.setattr("sys.argv", ["sap-panorama", *ours])
    monkeypatch.setattr("os.execv", lambda *call: called.append(call))
    commands.restart_for_each_gpu(2)
    ((program, words),) = called
    assert program == words[0] == sys.executable
    started = parse_args(words[3:])
    assert words[1:3] == ["-m", "torch.distributed.run"]
    assert started.module and started.nproc_per_node == "2"
    assert started.training_script == "sap_model"
    assert started.training_script_args == ours


def test_twenty_steps_lower_the_loss_and_leave_what_they_should(shards, tmp_path, capsys):
    settings = TrainSettings(
        data=(str(shards),),
        size="nano",
        image_size=64,
        checkpoint=None,
        clip_objects=4,
        clip_frames=2,
        batch_size=4,
        micro_batch_size=4,
        steps=20,
        lr=2e-3,
        optimizer="muon",
        pixel_grouping_loss=True,
        loss="from-scratch",
        freeze_encoder=False,
        teacher_forced_presence=True,
        correction_clicks=0,
        inference_prompt_fraction=1.0,
    )
    watch = Watch(
        clips=3, frames=3, panoramas=1, panorama_objects=2, validate_every=20, log_every=5,
        workers=0,
    )  # fmt: skip
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
    assert 0 <= last["validation/panorama"] <= 1
    assert "no validation split" not in capsys.readouterr().out


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
    rows = ShardRows(settings.data, "train")
    source = ScanClips(rows, 64, 5, settings.clip_frames, 1.0, random_clicks=0.0)
    score, _ = validation.score(network, validation.fixed_clips(source, 6), settings.min_pixels)
    assert score.clicked > 0.9 and score.views[0] > 20


LEARNT = {
    "size": "nano",
    "image_size": 64,
    "checkpoint": None,
    "clip_objects": 5,
    "clip_frames": 2,
    "batch_size": 1,
    "steps": 140,
    "warmup_steps": 5,
    "lr": 2e-3,
    "min_pixels": 100,
    "checkpointing": False,
    "augment": False,
    "freeze_encoder": False,
    "loss": "from-scratch",
    "teacher_forced_presence": True,
    "pixel_grouping_loss": True,
    "optimizer": "muon",
    "correction_clicks": 0,
    "inference_prompt_fraction": 1.0,
}
"""Settings under which that takes half a minute."""
