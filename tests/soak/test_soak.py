"""The short form of the soak, and proof that it notices faults."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.farm.attempt import Attempt
from pipeline.farm.records import Done, to_json
from pipeline.farm.worker import PREFIX
from pipeline.layout import RunFolder, write_json
from tests.farm.ray_cluster import CHECKOUT
from tests.soak.__main__ import find_faults, reasons, sweep_scratch, unneeded_files

NAMES = {"spheres-0000000000", "spheres-0000000001"}


def test_short_soak() -> None:
    """Six scenes of real Blender, and four kills or halts meanwhile."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.soak", "--scenes=6", "--seed=5", "--gap=3", "--hits=4"],
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.startswith("seed 5\n")
    assert ran.stdout.splitlines()[-1] == "shards: 2 files, byte-identical"
    hit = re.search(r"^hit: (\{.*\}), (\d+) in all$", ran.stdout, re.MULTILINE)
    assert hit is not None
    assert int(hit[2]) >= 3, ran.stdout  # otherwise it ended too soon


@pytest.fixture
def pair(tmp_path: Path) -> tuple[RunFolder, RunFolder]:
    """Two equal runs of two finished scenes."""
    run = RunFolder(tmp_path / "run")
    for seed, name in enumerate(sorted(NAMES)):
        scene = run.scene(name)
        record = Done(
            scene_id=name,
            seed=seed,
            generator="spheres",
            panoramas=(0,),
            unfit={"1": ["black"]},
            costs={},
            bytes={},
            nodes=(),
            reasons={"ok": 3},
            finished=1.0,
        )
        for index in range(2):
            write_json(scene.panorama(index) / "row.json", {})
        write_json(scene.done, to_json(record))
        attempt = Attempt("render", 1, "here", 1, 1.0, 1.0, ended=2.0, reason="ok")
        write_json(scene.attempts / "render-1.json", vars(attempt))
    (run.shards / "data").mkdir(parents=True)
    (run.shards / "data" / "train-00000.parquet").write_bytes(b"rows")
    like = RunFolder(tmp_path / "like")
    shutil.copytree(run.path, like.path)
    return run, like


def test_equal_runs_have_no_faults(pair: tuple[RunFolder, RunFolder]) -> None:
    run, like = pair
    assert find_faults(run, NAMES, like) == []
    assert unneeded_files(run) == []
    assert dict(reasons(run, NAMES)) == {"ok": 2}


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        ("rm run/done/spheres-0000000001.json", "missing ['spheres-0000000001']"),
        ("mkdir run/failed; touch run/failed/spheres-0000000002.json", "failed: ["),
        ("echo x >> run/shards/data/train-00000.parquet", "the shards differ"),
        ("touch run/shards/data/train-00001.parquet", "the shards differ"),
        ("rm -r run/shards", "there are no shards"),
        ("touch run/shards/data/.train-00000.parquet.0123abcd.tmp", "left over: shards/data/."),
        ("rm -r run/scenes/spheres-0000000000/panoramas/1", "0: the panoramas [0] lie there"),
        (
            "cd run/scenes/spheres-0000000001/panoramas; cp -r 1 2",
            "1: the panoramas [0, 1, 2] lie there",
        ),
    ],
)
def test_every_fault_is_reported(
    pair: tuple[RunFolder, RunFolder], tmp_path: Path, spoil: str, fault: str
) -> None:
    run, like = pair
    subprocess.run(["sh", "-c", spoil], cwd=tmp_path, check=True)
    assert any(fault in line for line in find_faults(run, NAMES, like))


def test_different_panoramas_are_reported(pair: tuple[RunFolder, RunFolder]) -> None:
    run, like = pair
    path = run.scene("spheres-0000000000").done
    write_json(path, json.loads(path.read_text()) | {"panoramas": [0, 1], "unfit": {}})
    assert find_faults(run, NAMES, like) == ["spheres-0000000000: (0, 1), should have (0,)"]


def test_unneeded_files_are_counted(pair: tuple[RunFolder, RunFolder]) -> None:
    run, _ = pair
    scene = run.scene("spheres-0000000000")
    scene.blend.touch()
    write_json(scene.rendered(0) / "render.json", {})
    (run.done_folder / f".{scene.scene_id}.json.0123abcd.tmp").touch()
    assert len(unneeded_files(run)) == 3


def test_scratch_folders_of_killed_attempts_are_swept(tmp_path: Path) -> None:
    killed = tmp_path / f"{PREFIX}spheres-0000000000-render-1-0123abcd"
    killed.mkdir()
    (killed / ".lock").touch()
    (tmp_path / "other").mkdir()
    assert sweep_scratch(tmp_path) == (1, ["other"])
    assert sweep_scratch(tmp_path / "none") == (0, [])
