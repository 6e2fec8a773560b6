"""Where the model's commands read and write unless they are given folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.cli import COMMANDS, main, read_settings
from sap_model import commands
from sap_model.train.settings import Scored


class CalledError(Exception):
    """What a command would do."""


def called(monkeypatch, name: str, *words: str) -> tuple:
    """The arguments with which a command calls the function `name`."""

    def note(*arguments, **_):
        raise CalledError(*arguments)

    monkeypatch.setattr(name, note)
    command, *rest = words
    options = read_settings(command, COMMANDS[command].load_settings(), rest)
    with pytest.raises(CalledError) as error:
        getattr(commands, COMMANDS[command].function.partition(":")[2])(options)
    return error.value.args


@pytest.mark.parametrize("out", ["out", "my run"])
def test_folders_of_out_are_the_defaults(monkeypatch, out):
    words = f"OUT={out}", "SIZE=nano"
    evaluate = "sap_model.evaluate.run.evaluate"
    settings, folder = called(monkeypatch, evaluate, "eval", "METHODS=oracle", *words)
    assert (settings.data, folder) == (f"{out}/shards", Path(out, "eval"))
    make = called(monkeypatch, "sap_model.train.nano.make", "nano", words[0])
    assert make == ((f"{out}/shards",), Path(out, "nano"), Path(out, "nano"))


def test_given_folders_are_taken(monkeypatch):
    evaluate = "sap_model.evaluate.run.evaluate"
    words = "DATA=my shards", "EVAL=my results", "METHODS=oracle", "SPLIT=all"
    settings, folder = called(monkeypatch, evaluate, "eval", *words)
    assert (settings.data, settings.split, folder) == ("my shards", None, Path("my results"))
    several = 'DATA=["my shards", "a, b"]'
    make = called(monkeypatch, "sap_model.train.nano.make", "nano", several, "RUN=r", "WEIGHTS=w")
    assert make == (("my shards", "a, b"), Path("r"), Path("w"))


def test_ablations_score_what_is_given(monkeypatch):
    words = "DATA=my shards", "RUN=r", "OBJECTS=3", "STEPS=5", "CHECKPOINT=sam2-nano"
    ablate = called(monkeypatch, "sap_model.train.ablations.ablate", "ablations", *words)
    settings, run, scored = ablate
    assert (settings.data, settings.steps, run) == (("my shards",), 5, Path("r"))
    assert scored == Scored(objects=3)


def test_results_of_a_run_in_a_store_need_a_folder(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["nano", "OUT=memory://run"])
    assert ended.value.code == 2
    assert "OUT=memory://run is not a folder on this machine; give RUN" in capsys.readouterr().err
