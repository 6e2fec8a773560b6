"""Training stops with one line: before the first step, or at a loss that went wrong."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from pipeline.errors import UserError
from pipeline.storage import exclusive_lock
from sap_model.model.weights_file import read_weights
from sap_model.train import run_folder, train
from sap_model.train.processes import World
from tests.sap_model.train.runs import QUIET, ROOT, command, environment, rendezvous


def test_a_loss_that_is_no_number_stops_before_it_reaches_the_weights(settings, tmp_path):
    wild = dataclasses.replace(settings, lr=1e30)
    with pytest.raises(
        UserError, match=r"step 2: the loss is .*lower LR and CHECKPOINT="
    ) as stopped:
        train.train(wild, tmp_path / "run", QUIET)
    assert "\n" not in str(stopped.value)
    path = Path(str(stopped.value).partition("CHECKPOINT=")[2])
    assert run_folder.states(tmp_path / "run") == [path] and path.stem == "00000001"
    assert all(weight.isfinite().all() for weight in read_weights(path).values())
    # and without a state none is named
    with pytest.raises(UserError, match=r"lower LR$"):
        train.train(wild, tmp_path / "other", dataclasses.replace(QUIET, save_every=9))


def test_a_loss_that_does_not_come_back_stops_the_run(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "PATIENCE", 2)
    monkeypatch.setattr(train, "DIVERGED", 0.0)  # so that every loss counts as far too high
    with pytest.raises(UserError, match="step 4: for 2 steps the loss was over") as stopped:
        train.train(dataclasses.replace(settings, steps=9), tmp_path, QUIET)
    # no state of step 3, which was the first too high, has pushed out a good one
    assert [path.stem for path in run_folder.states(tmp_path)] == ["00000001", "00000002"]
    assert str(stopped.value).endswith(f"CHECKPOINT={tmp_path / 'state' / '00000002.pt'}")


def test_what_cannot_be_trained_is_refused_before_the_first_step(settings, tmp_path, monkeypatch):
    def refused(folder: Path, **other) -> str:
        with pytest.raises(UserError) as error:
            train.train(dataclasses.replace(settings, **other), folder, QUIET)
        assert "\n" not in str(error.value)
        return str(error.value)

    run_folder.open_run(tmp_path / "other", settings)
    assert "other settings (LR)" in refused(tmp_path / "other", lr=2e-3)
    run_folder.open_run(tmp_path / "grown", settings, {"names": "others", "rows": [3]})
    assert "the data has changed since" in refused(tmp_path / "grown")
    (tmp_path / "file").write_text("")
    assert "cannot write" in refused(tmp_path / "file")
    with exclusive_lock(tmp_path / "busy" / ".lock", "training"):
        assert "is training" in refused(tmp_path / "busy")
    assert "size nano" in refused(tmp_path / "run", size="tiny")
    assert not (tmp_path / "run" / "settings.json").exists(), "the folder may be used for another"
    several = World(0, 3, torch.device("cpu"))
    monkeypatch.setattr(train, "processes", lambda: nullcontext(several))
    monkeypatch.setattr(World, "gather", lambda self, value: [value] * self.size)
    assert "multiple of 3" in refused(tmp_path / "run")
    assert not run_folder.states(tmp_path / "run")


def test_without_a_validation_split_one_line_says_so(settings, capsys):
    assert train.validation_clips(settings, QUIET, None) == []
    assert capsys.readouterr().out == ""
    assert train.validation_clips(settings, dataclasses.replace(QUIET, clips=2), None) == []
    said = capsys.readouterr().out
    assert said.startswith("no validation split") and said.count("\n") == 1


def test_settings_that_will_not_do_are_told_once():
    """torchrun starts the command for each GPU."""
    said = [
        subprocess.run(
            [sys.executable, "-m", "sap_model", "train", "--data", "none", "--lr", "-1"],
            env=environment() | {"RANK": rank, "TORCHELASTIC_RUN_ID": "none"},
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        for rank in "01"
    ]
    assert [one.returncode for one in said] == [2, 2]
    assert (
        said[0].stderr == "error: LR=-1 is out of range; choose more than 0\n"
        and said[1].stderr == ""
    )


def test_two_processes_refuse_with_one_line(settings, tmp_path):
    def refused(*folders: Path, **other) -> str:
        asked = dataclasses.replace(settings, **other)
        started = [
            subprocess.Popen(
                command(asked, folder),
                env=environment() | about,
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for folder, about in zip(folders, rendezvous(2), strict=True)
        ]
        said = [child.communicate(timeout=300) for child in started]
        assert [child.returncode for child in started] == [2, 2], said
        assert said[1] == ("", "") and "step" not in said[0][0]
        assert said[0][1].count("\n") == 1 and said[0][1].startswith("error: ")
        return said[0][1]

    run = tmp_path / "run"
    run_folder.open_run(run, settings)
    assert "other settings (LR)" in refused(run, run, lr=2e-3)
    # the first has a state, and the other has not: as if each machine had its own folder
    run_folder.save_state(run, 1, {"model": {}})
    assert "storage that all machines share" in refused(run, tmp_path / "elsewhere")
