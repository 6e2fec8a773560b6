"""The driver's display and the text of `make status`."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.farm import progress
from pipeline.farm.attempt import begin_attempt
from pipeline.farm.progress import Progress
from pipeline.farm.report import status_text
from pipeline.farm.run_lock import claim
from pipeline.farm.status import read_status
from pipeline.layout import RunFolder, write_json
from tests.farm.conftest import SETTINGS, Farm
from tests.farm.example_records import name, random_runs, write_record


@pytest.fixture
def working(farm: Farm) -> Iterator[None]:
    """A driver that was asked for 10 scenes is at work."""
    with claim(farm.run, SETTINGS, 10):
        yield


@pytest.mark.usefixtures("working")
def test_plain_lines(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr("pipeline.farm.progress.time.monotonic", lambda: clock[0])
    stream = io.StringIO()
    display = Progress(farm.run, stream)
    for second in range(100):
        clock[0] += 1
        if second == 50:
            write_record(farm.run, 0, "done", [])
        display.update()
    lines = stream.getvalue().splitlines()
    assert "scenes: 0 of 10 done" in lines[0]
    assert "scenes: 1 of 10 done" in lines[-1]
    assert len(lines) == 4  # at once, after 31 s, at the change, after 31 s
    assert not any("\x1b" in line for line in lines)


@pytest.mark.usefixtures("working")
def test_live_display_in_a_terminal(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    begin_attempt(farm.run.scene(name(0)), "generate", 2)
    stream = io.StringIO()
    with Progress(farm.run, stream) as display:
        display.note("a line that stays [not markup]")
    assert "a line that stays [not markup]" in stream.getvalue()
    assert name(0) in stream.getvalue()
    assert "attempt 2" in stream.getvalue()


@pytest.mark.usefixtures("working")
def test_display_takes_two_percent_of_the_time_at_most(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long a look takes; the first one reads all records and delays no other."""
    clock, looks = [1000.0], list[float]()

    def slow(*given: object) -> object:
        looks.append(clock[0])
        clock[0] += 20.0 if len(looks) == 1 else 0.5
        return read_status(farm.run)

    monkeypatch.setattr("pipeline.farm.progress.time.monotonic", lambda: clock[0])
    monkeypatch.setattr(progress, "read_status", slow)
    display = Progress(farm.run, io.StringIO())
    for _ in range(2000):
        clock[0] += 0.1
        display.update()
    assert looks[1] - looks[0] < 22
    assert looks[2] - looks[1] == pytest.approx(25, abs=0.2)
    assert 0.5 * len(looks[1:]) < 0.03 * (clock[0] - looks[1])
    before = len(looks)
    display.update(last=True)
    assert len(looks) == before + 1


def test_text_fits_on_a_screen_and_is_complete(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with claim(run, SETTINGS, 300):
        for seed, (kind, tried) in enumerate(random_runs(200)):
            write_record(run, seed, kind, tried)
        for seed in range(200, 230):
            begin_attempt(run.scene(name(seed)), "generate", 1)
        lines = status_text(run).splitlines()
    assert 20 <= len(lines) <= 45
    assert max(len(line) for line in lines if str(run.path) not in line) <= 130
    labels = [line[:14].strip() for line in lines if line[:14].strip()]
    assert labels[1:] == [
        *("scenes", "panoramas", "generate", "render", "annotate", "total"),
        *("per panorama", "written", "attempts", "failed seeds", "nodes", "slowest", "running"),
    ]
    assert lines[-1].strip() == "and 20 more"


def test_text_of_an_empty_run(farm: Farm) -> None:
    write_json(farm.run.settings, {})
    assert len(status_text(farm.run).splitlines()) == 3
