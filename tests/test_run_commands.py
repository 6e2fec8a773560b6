"""The commands as a user types them, on the small Blender scene, through a real Ray."""

from __future__ import annotations

import ast
import json
import resource
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest

from pipeline import cli
from pipeline.commands import run as run_commands
from pipeline.layout import RunFolder, write_json
from pipeline.run_settings import settings_hash, to_json, versions
from tests.synthetic import SETTINGS, finish_scene

ROOT = Path(__file__).parents[1]


def pipeline(*arguments: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (result.returncode == 0) == ok, result.stdout + result.stderr
    return result


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two spheres scenes with depth and normals."""
    folder = tmp_path_factory.mktemp("cli") / "out"
    pipeline("render", *arguments(folder))
    return folder


def arguments(folder: Path, **changes: str) -> list[str]:
    given = {
        "out": str(folder),
        "scenes": "2",
        "generator": "spheres",
        "profile": "draft",
        "width": "256",
        "panos": "2",
        "passes": "depth,normal",
    } | changes
    return [part for name, value in given.items() for part in (f"--{name}", value)]


def test_the_shard_opens_in_datasets(out):
    rows = datasets.load_dataset("parquet", data_dir=str(out / "shards" / "data"))
    rows = datasets.concatenate_datasets(list(rows.values()))
    assert len(rows) == 4
    for row in rows:
        assert row["image"].size == row["ids"].size == (256, 128)
        ids = np.array(row["ids"])
        assert {thing["id"] for thing in row["objects"]} <= set(np.unique(ids).tolist())
        assert {"wall", "floor", "ceiling", "sphere"} <= {t["category"] for t in row["objects"]}
        # The camera keeps 0.35 m from everything, in every direction: read from the render.
        depth = np.array(row["depth"]) / 1000
        assert depth.min() >= 0.35


def cpu_seconds() -> float:
    """Of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_finished_work_does_nothing(out):
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    start = cpu_seconds()
    result = pipeline("render", *arguments(out))
    assert cpu_seconds() - start < 5, "Ray or Blender was started"
    assert "(0 now" in result.stdout
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}


def test_the_work_files_are_gone(out):
    assert not list(out.rglob("*.blend"))
    assert not list(out.glob("scenes/*/rendered"))
    assert not list(out.glob("scratch/*"))


def test_the_same_seed_gives_the_same_scene(out, tmp_path):
    pipeline("render", *arguments(tmp_path / "again", scenes="1"))
    first, again = (
        root / "scenes" / "spheres-0000000000" / "panoramas" / "0"
        for root in (out, tmp_path / "again")
    )

    files = sorted(path.name for path in first.iterdir())
    assert files == ["depth.png", "ids.png", "image.webp", "normal.png", "row.json"]
    for file in files:
        assert (first / file).read_bytes() == (again / file).read_bytes(), file


def test_status_preview_and_shards(out):
    assert "2 of 2 done" in pipeline("status", "--out", str(out)).stdout
    assert json.loads(pipeline("status", "--json", "--out", str(out)).stdout)["done"] == 2
    assert "4 panoramas" in pipeline("shards", "--out", str(out)).stdout
    page = Path(pipeline("preview", "--out", str(out)).stdout.strip())
    assert "spheres-0000000001/1" in page.read_text()


def test_other_settings_than_those_of_the_run_are_refused(out):
    result = pipeline("render", *arguments(out, panos="3"), ok=False)
    assert result.returncode == 2
    assert "panos 2 → 3" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["status", "shards", "preview"])
def test_commands_refuse_a_folder_that_is_no_run(command, tmp_path):
    result = pipeline(command, "--out", str(tmp_path), ok=False)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line with which a command refuses, in this process."""
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    assert ended.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ") and line.count("\n") == 1
    return line


@pytest.fixture
def no_blender(monkeypatch):
    def started(*_, **__):
        raise AssertionError("Blender is started")

    monkeypatch.setattr(run_commands.subprocess, "run", started)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    run_commands._gpus.cache_clear()


@pytest.mark.parametrize(
    "argument", ["--generator=nature", "--width=1001", "--workers=0", "--passes=alpha"]
)
def test_settings_are_checked_before_blender_looks_for_gpus(capsys, no_blender, argument, run):
    refusal(capsys, "render", "--out", str(run.path), argument)


@pytest.mark.parametrize("by_variable", [False, True])
def test_a_cluster_needs_a_profile(capsys, no_blender, monkeypatch, run, by_variable):
    arguments = ["render", "--out", str(run.path)]
    if by_variable:
        monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    else:
        arguments.append("--ray-address=head:6379")
    assert "give PROFILE=farm" in refusal(capsys, *arguments)
    begin(run)
    assert run_commands._automatic_profile(run, cluster=True) == "draft"


@pytest.mark.parametrize(
    ("printed", "profile", "gpus"),
    [("\n", "cpu", None), ("noise\nNVIDIA A, NVIDIA A\n", "farm", 2)],
)
def test_ray_gets_the_gpus_that_cycles_finds(monkeypatch, run, printed, profile, gpus):
    class ReachedError(Exception):
        pass

    def render_run(run, settings, scenes, farm):
        raise ReachedError(settings.profile, farm.gpus)

    found = subprocess.CompletedProcess([], 0, stdout=printed, stderr="")
    monkeypatch.setattr(run_commands.subprocess, "run", lambda *_, **__: found)
    monkeypatch.setattr("pipeline.farm.driver.render_run", render_run)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    run_commands._gpus.cache_clear()
    with pytest.raises(ReachedError) as reached:
        cli.main(["render", "--out", str(run.path)])
    run_commands._gpus.cache_clear()
    assert reached.value.args == (profile, gpus)


def begin(run: RunFolder) -> None:
    """Write run.json as the driver does."""
    about = {"versions": versions(), "settings_hash": settings_hash(SETTINGS)}
    write_json(run.settings, {"settings": to_json(SETTINGS), **about})


@pytest.mark.parametrize("data", ["", "{", "{}", "[1]", '{"settings": {}}', '{"settings": 3}'])
@pytest.mark.parametrize("command", ["status", "shards", "render"])
def test_a_damaged_run_json_is_named(capsys, no_blender, run, command, data):
    begin(run)
    run.settings.write_text(data)
    assert f"{run.settings} is damaged" in refusal(capsys, command, "--out", str(run.path))


def test_finished_rows_are_packed_again_after_a_configuration_changed(capsys, monkeypatch, run):
    finish_scene(run)
    begin(run)
    (run.scenes / "notes.txt").touch()
    monkeypatch.setattr("pipeline.run_settings.versions", lambda: {"pipeline": "later"})
    assert settings_hash(SETTINGS) not in run.settings.read_text()
    with pytest.raises(SystemExit) as ended:
        cli.main(["shards", "--out", str(run.path)])
    assert ended.value.code == 0
    assert "2 panoramas for training" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name", ["my data", "it's", '"quoted"', "both'\"", "[a]", "室内", "-x", "a\\b", "{x}", "a\nb"]
)
def test_the_line_that_loads_shards_is_python_for_every_folder(name):
    call = ast.parse(run_commands.loading(Path(name) / "data"), mode="eval").body
    assert isinstance(call, ast.Call)
    (folder,) = (ast.literal_eval(word.value) for word in call.keywords)
    assert folder == f"{name}/data"
