"""The Makefile's own decisions, without installing anything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import cli
from pipeline.install.check import problems
from pipeline.setting import options_of

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()


SHOW = """#!/bin/sh
[ "$2" = pipeline ] || exit 0
shift 2
printf '%s\\n' "$@" >> words
env >> environment
"""
"""Stands in for Python: notes what the program is given."""


def make(*arguments: str, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "-f", str(ROOT / "Makefile"), *arguments],
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A folder in which everything is installed, with a Python that only notes its words."""
    for file in ("pyproject.toml", "pipeline/install/constraints.txt", "pipeline/install/sam2.txt"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
        os.utime(tmp_path / file, (0, 0))
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "stamps").mkdir()
    for stamp in ("predict", "render", "hub", "train", "test"):
        (tmp_path / ".venv" / "stamps" / stamp).touch()
    python = tmp_path / ".venv" / "bin" / "python"
    python.write_text(SHOW)
    python.chmod(0o755)
    return tmp_path


def words(checkout: Path, *arguments: str, **env: str) -> list[str]:
    """The words that make gives the program."""
    done = make(*arguments, cwd=checkout, **env)
    assert done.returncode == 0, done.stderr
    return (checkout / "words").read_text().splitlines()


ODD = [
    *("my data", "it's", '"quoted"', "[1]", "$HOME", "$$", "$(HOME)", "${HOME}", "-x", "--help"),
    *("ü/日本", "a,b", "a#b", "back\\slash", "`id`", "a;b|c&d", "*", "%", "a=b", "trailing\\"),
    *("$(shell touch evil)", "$(error evil)", '["my data", "it\'s"]'),
]


@pytest.mark.parametrize("value", ODD)
def test_values_arrive_unchanged(checkout, value):
    assert words(checkout, "render", f"OUT={value}", "SEED=3") == unordered(
        "render", f"OUT={value}", "SEED=3"
    )
    assert not (checkout / "evil").exists()


class unordered(list):  # noqa: N801 - reads as a word
    """The first word, and the others in any order."""

    def __init__(self, *words: str) -> None:
        super().__init__(words)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, list) and other[0] == self[0] and sorted(other) == sorted(self)


def test_an_empty_value_arrives_too(checkout):
    """The program refuses it by name."""
    assert words(checkout, "verify", "OUT=") == ["verify", "OUT="]


@pytest.mark.parametrize("command", [name for name in cli.COMMANDS if f"\n{name}: " in MAKEFILE])
def test_each_command_gets_its_settings(checkout, command):
    assert words(checkout, command, "ANY=1") == [command, "ANY=1"]


def test_make_knows_no_setting():
    """EXTRAS is make's own."""
    names = {name for each in cli.COMMANDS.values() for name in options_of(each.load_settings())}
    rules = re.sub(r"(?m)##? .*$|^\t@echo .*$", "", MAKEFILE)
    assert not (names - {"SHELL"}) & set(re.findall(r"\b[A-Z][A-Z0-9_]+\b", rules))


def test_nothing_is_taken_from_the_environment(checkout):
    assert words(checkout, "render", WIDTH="512", OUT="elsewhere") == ["render"]
    assert "RAY_ADDRESS=head:6379" not in (checkout / "environment").read_text()
    words(checkout, "render", RAY_ADDRESS="head:6379")  # which Ray itself reads
    assert "RAY_ADDRESS=head:6379" in (checkout / "environment").read_text()


@pytest.mark.parametrize("goal", ["quick", "check", "setup", "help", ""])
def test_targets_without_settings_refuse_them(checkout, goal):
    refused = make(*filter(None, [goal]), "SCENES=3", cwd=checkout)
    assert refused.returncode == 2
    assert "takes no settings (given: SCENES)" in refused.stderr and refused.stderr.count("\n") == 1


def test_a_setting_of_another_command_is_refused():
    """Make hands it on, and the program refuses it."""
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "verify", "SCENES=3"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: verify has no setting SCENES (render, plan have it);")


def test_help_lists_every_target():
    shown = make().stdout
    for target in re.findall(r"(?m)^([a-z]+):.* ## ", MAKEFILE):
        assert f"  make {target} " in shown


def test_a_mistyped_extra_is_one_line_that_names_the_extras():
    refused = make("setup", "EXTRAS=render typo")
    assert refused.returncode == 2
    extras = "render predict hub train demo test"
    assert f"EXTRAS=typo is unknown; choose from {extras}" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert problems("typo") == [f"there is no extra typo; choose {extras.replace(' ', ', ')}"]


def test_a_half_made_environment_is_removed(tmp_path):
    """Debian's python3.11 without python3.11-venv leaves a .venv that has no pip."""
    python = tmp_path / "bin" / "python3.11"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\nmkdir -p .venv/bin; touch .venv/bin/python; exit 1\n")
    python.chmod(0o755)
    path = f"{python.parent}:{os.environ['PATH']}"
    failed = make(".venv/bin/python", cwd=tmp_path, PATH=path)
    assert failed.returncode == 2
    assert "apt-get install python3.11-venv" in failed.stdout
    assert not (tmp_path / ".venv").exists()
