"""The quarantined seeds, as `make failures` shows them."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.farm.attempt import Result, begin_attempt, end_attempt, log_path, read_attempts
from pipeline.farm.quarantine import write_failed
from pipeline.farm.records import read_failed, to_json
from pipeline.farm.report import failures_json, failures_text, read_failures
from pipeline.farm.scene import Scene
from pipeline.layout import RunFolder, write_json
from pipeline.run_settings import make_settings

SETTINGS = make_settings(generator="spheres", profile="draft", width=64)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path)
    write_json(run.settings, {})
    return run


def name(seed: int) -> str:
    return f"spheres-{seed:010d}"


def fail(run: RunFolder, seed: int, outcome: Result, stage: str = "render", tries: int = 1) -> None:
    """Quarantine a seed as the farm does; the larger the seed, the later."""
    scene = run.scene(name(seed))
    for number in range(1, tries + 1):
        begin_attempt(scene, stage, number, node=f"node-{number}")
        log_path(scene, stage, number).write_text(outcome.log_tail)
        end_attempt(scene, stage, number, outcome)
    write_failed(Scene(seed, scene), SETTINGS, stage, outcome)
    write_json(scene.failed, to_json(replace(read_failed(run, name(seed)), when=1000.0 + seed)))


CRASH = Result(
    "crashed",
    "killed by SIGSEGV",
    seconds=90.0,
    log_tail="\n".join(f"line {number}" for number in range(30)),
)
MEMORY = Result("memory", "8.0 GiB and 4 allowed", seconds=3.0, log_tail="a\x1b[31mb\rc")


def test_no_failures_are_one_line(run: RunFolder) -> None:
    assert failures_text(run, 3) == f"no seed has failed in {run.path}"
    assert json.loads(failures_json(run)) == {
        **{"failed": 0, "kinds": [], "seeds": [], "damaged": []}
    }


def test_no_run(tmp_path: Path) -> None:
    for told in (partial(failures_text, limit=3), failures_json):
        with pytest.raises(UserError, match="holds no run"):
            told(RunFolder(tmp_path / "none"))


def test_one_failure_is_complete(run: RunFolder) -> None:
    fail(run, 7, CRASH, tries=3)
    text = failures_text(run, 3)
    host = read_attempts(run.scene(name(7)))[0].host
    for part in (
        f"{run.path}: 1 seed failed: 1 render crashed",
        f"{name(7)}  render crashed, 1970-01-01",
        "killed by SIGSEGV",
        f"render 1: crashed after 1 min 30 s on {host}",
        f"render 3: crashed after 1 min 30 s on {host}",
        str(run.scene(name(7)).attempts / "render-3.log"),
        "    | line 20\n",
        "    | line 29\n",
        "make render SCENES=1 GENERATOR=spheres SEED=7",
    ):
        assert part in text
    assert "line 19" not in text
    assert "==" not in text


def test_failures_are_grouped_and_the_newest_come_first(run: RunFolder) -> None:
    for seed in range(6):
        fail(run, seed, CRASH)
    for seed in (6, 7):
        fail(run, seed, MEMORY)
    fail(run, 8, replace(CRASH, reason="timeout"), stage="generate")
    lines = failures_text(run, limit=2).splitlines()
    assert lines[0].endswith(
        "9 seeds failed: 6 render crashed, 2 render memory, 1 generate timeout"
    )
    heads = [line for line in lines if line.startswith("==")]
    assert heads == [
        *("== render crashed: 6 seeds", "== render memory: 2 seeds", "== generate timeout: 1 seed"),
    ]
    shown = [line.split()[0] for line in lines if line.startswith("spheres-")]
    assert shown == [name(seed) for seed in (5, 4, 7, 6, 8)]
    assert "and 4 older; LIMIT=6 shows all" in lines
    every = failures_text(run, limit=10**6)
    assert all(name(seed) in every for seed in range(9))
    assert "older" not in every


def test_log_cannot_control_the_terminal(run: RunFolder) -> None:
    fail(run, 0, MEMORY)
    text = failures_text(run, 3)
    assert "\x1b" not in text
    assert "\r" not in text


def test_damaged_records_do_not_hide_the_others(run: RunFolder) -> None:
    fail(run, 0, CRASH)
    good = json.loads(run.scene(name(0)).failed.read_text())
    odd = [b"", b"\xff", b"[]", b"{}"]
    odd += [
        json.dumps({**good, **wrong}).encode()
        for wrong in ({}, {"when": 1e300}, {"when": "now"}, {"costs": 1}, {"log_tail": None})
    ]
    odd[5:] = [
        data.replace(name(0).encode(), name(6 + k).encode()) for k, data in enumerate(odd[5:])
    ]
    for seed, data in enumerate(odd, start=1):
        (run.failed_folder / f"{name(seed)}.json").write_bytes(data)
    (run.failed_folder / f".{name(99)}.json.0123abcd.tmp").write_bytes(b"{")
    failures = read_failures(run)
    assert [record.scene_id for record in failures.records] == [name(0)]
    assert failures.damaged == tuple(f"failed/{name(k)}.json" for k in range(1, len(odd) + 1))
    text = failures_text(run, 3)
    assert f"{run.failed_folder / name(3)}.json is damaged; delete it" in text
    assert "1 seed failed" in text
    (run.failed_folder / f"{name(0)}.json").unlink()
    assert "is damaged" in failures_text(run, 3)


def test_attempts_may_be_gone(run: RunFolder) -> None:
    fail(run, 0, CRASH)
    for path in run.scene(name(0)).attempts.iterdir():
        path.unlink()
    assert "make again" in failures_text(run, 3)
    assert "attempts  " not in failures_text(run, 3)


def test_json_is_complete(run: RunFolder) -> None:
    for seed in range(5):
        fail(run, seed, CRASH, tries=2)
    data = json.loads(failures_json(run))
    assert data["failed"] == 5
    assert data["kinds"] == [{"stage": "render", "reason": "crashed", "seeds": 5}]
    assert [seed["seed"] for seed in data["seeds"]] == [4, 3, 2, 1, 0]
    seed = data["seeds"][0]
    assert seed.keys() == {
        *("scene_id", "seed", "generator", "stage", "reason", "detail", "when", "log", "log_tail"),
        *("run_again", "nodes", "reasons", "attempts"),
    }
    assert Path(seed["log"]).read_text() == CRASH.log_tail
    assert seed["nodes"] == [socket.gethostname()]
    assert [attempt["node"] for attempt in seed["attempts"]] == ["node-1", "node-2"]
