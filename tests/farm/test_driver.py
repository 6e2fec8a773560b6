"""The whole farm on a real Ray, with a fake Blender that really crashes, hangs and fills."""

from __future__ import annotations

import http.server
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from pipeline.errors import UserError
from pipeline.farm.attempt import Result, read_attempts
from pipeline.farm.child import Limits
from pipeline.farm.driver import render_run
from pipeline.farm.executor import RayExecutor
from pipeline.farm.run_lock import read_claim
from pipeline.farm.status import read_status
from pipeline.layout import RunFolder, read_json
from tests.farm.conftest import CHECKOUT, FAKE, QUICK, SETTINGS, Farm, wait_until

pytestmark = pytest.mark.usefixtures("ray_address")


def name(seed: int) -> str:
    return f"spheres-{seed:010d}"


def names(*seeds: int) -> tuple[str, ...]:
    return tuple(name(seed) for seed in seeds)


def ends(farm: Farm, seed: int, stage: str) -> list[str | None]:
    """How each attempt at a stage ended."""
    scene = farm.run.scene(name(seed))
    return [one.reason for one in read_attempts(scene) if one.stage == stage]


def test_scenes_are_made_and_cleaned_up(farm: Farm) -> None:
    farm.plan({"defects": {"1:0": ["black"]}})
    summary = farm.render(3)
    assert summary.scenes == names(0, 1, 2)
    assert (summary.made, summary.panoramas, summary.unfit, summary.failed) == (3, 5, 1, ())
    scene = farm.run.scene(name(1))
    assert {path.name for path in scene.path.iterdir()} == {
        "scene.json",
        "panoramas",
        "attempts",
    }
    assert not list(farm.run.scratch.iterdir())
    done = read_json(scene.done)
    assert (done["panoramas"], done["unfit"]) == ([1], {"0": ["black"]})
    assert done["costs"]["generate"]["cpu_seconds"] > 0
    assert [ends(farm, 1, stage) for stage in ("generate", "render", "annotate")] == [["ok"]] * 3


def test_run_grows_and_keeps_finished_scenes(farm: Farm) -> None:
    farm.render(1)
    before = farm.run.scene(name(0)).done.stat().st_mtime_ns
    farm.plan({"generate:1": "reject"})
    keep = replace(QUICK, keep_scenes=True)
    summary = farm.render(2, keep)
    assert (summary.scenes, summary.made, summary.failed) == (names(0, 2), 1, names(1))
    assert farm.run.scene(name(0)).done.stat().st_mtime_ns == before
    assert farm.run.scene(name(2)).blend.exists()
    assert read_json(farm.run.scene(name(1)).failed)["detail"] == "no free viewpoint"
    assert ends(farm, 1, "generate") == ["rejected"]  # and not tried again
    assert farm.render(1).scenes == names(0)


def test_every_fault_is_retried_or_quarantined(farm: Farm) -> None:
    """Seven seeds with a fault each; n good scenes all the same."""
    farm.plan(
        {
            "generate:0": "crash 2",
            "render1:0": "segfault 1",
            "generate:1": "nothing 1",
            "generate:2": "crash",
            "render0:3": "hang 1",
            "annotate:4": "damage 1",
            "annotate:5": "crash",
            "render:6": "grandchild 1",
            "render:8": "damaged 1",
            "defects": {"7:0": ["black"], "7:1": ["black", "blown out"]},
        }
    )
    summary = farm.render(6)
    assert summary.scenes == names(0, 1, 3, 4, 6, 8)
    assert summary.failed == names(2, 5, 7)
    assert ends(farm, 0, "generate") == ["crashed", "crashed", "ok"]
    assert ends(farm, 0, "render") == ["crashed", "ok"]
    assert ends(farm, 1, "generate") == ["crashed", "ok"]
    assert ends(farm, 2, "generate") == ["crashed"] * 3
    assert ends(farm, 3, "render") == ["silent", "ok"]
    assert ends(farm, 4, "annotate") == ["crashed", "ok"]  # damaged, and rendered again
    assert ends(farm, 4, "render") == ["ok", "ok"]
    assert ends(farm, 5, "annotate") == ["crashed"] * 3
    assert ends(farm, 6, "render") == ["silent", "ok"]
    assert ends(farm, 8, "render") == ["damaged", "ok"]
    assert ends(farm, 8, "generate") == ["ok", "ok"]  # the scene file was damaged, and made again
    no_good = read_json(farm.run.scene(name(7)).failed)
    assert no_good["detail"] == "no good panorama: black; blown out"
    crashed = read_json(farm.run.scene(name(2)).failed)
    assert crashed["reason"] == "crashed"
    assert "seed 2 always crashes" in crashed["log_tail"]
    assert crashed["reasons"] == {"crashed": 3}
    assert not farm.children()


def test_render_that_delivered_a_panorama_does_not_count(farm: Farm) -> None:
    farm.plan({"render1:0": "crash 3"})
    assert farm.render(1).scenes == names(0)
    assert ends(farm, 0, "render") == ["crashed"] * 3 + ["ok"]


def test_scene_file_that_is_always_damaged_is_quarantined(farm: Farm) -> None:
    farm.plan({"render:0": "damaged"})
    assert farm.render(1).failed == names(0)
    assert ends(farm, 0, "render") == ["damaged"] * 3


def test_hanging_annotation_is_killed(farm: Farm) -> None:
    farm.plan({"annotate:0": "hang 1"})
    assert farm.render(1, replace(QUICK, annotate_limits=Limits(wall=1))).scenes == names(0)
    assert ends(farm, 0, "annotate") == ["timeout", "ok"]


def test_damaged_files_are_named_or_made_again(farm: Farm) -> None:
    farm.render(1, replace(QUICK, keep_scenes=True))
    scene = farm.run.scene(name(0))
    (farm.run.scenes / ".DS_Store").touch()
    for text in ("{", "[]", "{}"):
        scene.done.write_text(text)
        with pytest.raises(UserError, match=r"done/.*\.json is damaged.*delete it and run"):
            farm.render(1)
    scene.done.unlink()
    shutil.rmtree(scene.rendered(1).parent)
    (scene.panorama(1) / "row.json").write_text('{"summ')
    assert farm.render(1).panoramas == 2
    assert ends(farm, 0, "render") == ["ok", "ok"]  # of panorama 1
    assert ends(farm, 0, "generate") == ["ok"]


def test_scene_that_lacks_only_its_record_is_finished(farm: Farm) -> None:
    """Its driver and its worker were killed between the last panorama and the record."""
    farm.render(1)
    farm.run.scene(name(0)).done.unlink()
    assert farm.render(1).scenes == names(0)
    assert [ends(farm, 0, stage) for stage in ("render", "annotate")] == [["ok"], ["ok", "ok"]]


@pytest.mark.parametrize("stage", ["generate", "annotate"])
def test_killed_ray_worker_counts_as_an_attempt(
    farm: Farm, stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    farm.plan({f"{stage}:0": "kill-worker 1"})
    assert farm.render(1).scenes == names(0)
    assert ends(farm, 0, stage) == ["crashed", "ok"]
    (first, _) = (one for one in read_attempts(farm.run.scene(name(0))) if one.stage == stage)
    assert "WorkerCrashed" in first.detail
    assert "raylet" not in capsys.readouterr().out  # Ray's own words about it
    assert first.counted
    assert not farm.children()


def test_killed_driver_leaves_nothing_running_and_the_next_resumes(
    farm: Farm, ray_address: str
) -> None:
    farm.plan({"render1:0": "hang"})
    driver = farm.driver(1, ray_address)
    wait_until(lambda: farm.run.scene(name(0)).rendered(0).exists() and farm.children())
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    farm.plan({})
    blend = farm.run.scene(name(0)).blend.stat().st_mtime_ns
    assert farm.render(1, replace(QUICK, keep_scenes=True)).scenes == names(0)
    assert not farm.children()
    assert ends(farm, 0, "generate") == ["ok"]
    assert ends(farm, 0, "render") == ["interrupted", "ok"]
    assert farm.run.scene(name(0)).blend.stat().st_mtime_ns == blend


def test_children_die_with_a_killed_driver_and_its_ray(farm: Farm) -> None:
    """Nobody calls again: the children must go by themselves."""
    farm.plan({"*": "hang"})
    driver = farm.driver(2)
    wait_until(lambda: len(farm.children()) == 2, seconds=120)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    wait_until(lambda: not farm.children(), seconds=10)


def test_ctrl_c(farm: Farm, ray_address: str) -> None:
    farm.plan({"*": "hang"})
    driver = farm.driver(2, ray_address)
    wait_until(lambda: len(farm.children()) == 2)
    assert "2 running" in wait_until(lambda: running_line(farm.run))
    second = farm.driver(2, ray_address)
    said = second.communicate(timeout=60)[0]
    assert said.strip().splitlines()[-1].startswith(f"another process ({driver.pid} on ")
    assert second.returncode == 1
    pressed = time.monotonic()
    driver.send_signal(signal.SIGINT)
    said = driver.communicate(timeout=60)[0]
    assert time.monotonic() - pressed < 8
    assert "stopping" in said
    assert not farm.children()
    assert ends(farm, 0, "generate") == ["interrupted"]
    last = read_claim(farm.run)
    assert last is not None
    assert not last.held


def test_removed_folder_stops_the_driver(farm: Farm, ray_address: str) -> None:
    farm.plan({"*": "hang"})
    driver = farm.driver(2, ray_address)
    wait_until(lambda: len(farm.children()) == 2)
    shutil.rmtree(farm.run.path)
    said = driver.communicate(timeout=60)[0]
    assert f"{farm.run.path} was removed or replaced" in said.splitlines()[-1]
    assert not farm.children()
    assert not farm.run.path.exists()


def test_local_ray_is_closed_to_others_and_ends_on_sigterm(farm: Farm) -> None:
    """Nothing of it can be reached from outside, it has the GPUs it is given, SIGTERM ends it."""
    farm.plan({"render1:0": "hang"})
    driver = farm.driver(1, gpus=1)
    wait_until(lambda: farm.run.scene(name(0)).rendered(0).exists(), seconds=120)
    ports = []
    for process in [one := psutil.Process(driver.pid), *one.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            connections = process.net_connections("inet")
            listening = [port for port in connections if port.status == psutil.CONN_LISTEN]
            ports += [(process.name(), port.laddr.ip, port.laddr.port) for port in listening]
    assert {"gcs_server", "raylet"} <= {name for name, _, _ in ports}
    assert {ip.removeprefix("::ffff:") for _, ip, _ in ports} == {"127.0.0.1"}, ports
    driver.terminate()
    said = driver.communicate(timeout=60)[0]
    assert "stopping" in said
    assert "KeyboardInterrupt" in said.splitlines()[-1]
    assert "SIGTERM" not in said  # of Ray's C++
    assert driver.returncode == -signal.SIGINT
    assert not farm.children()
    assert ends(farm, 0, "render") == ["interrupted"]


def running_line(run: RunFolder) -> str:
    from pipeline.farm.progress import summary

    status = read_status(run)
    return summary(status) if len(status.running) == 2 else ""


def test_finished_run_needs_no_ray(farm: Farm) -> None:
    farm.render(2)
    started = time.monotonic()
    driver = farm.driver(2, "no-ray-is-needed:1")
    said = driver.communicate(timeout=60)[0]
    assert driver.returncode == 0, said
    assert "made=0" in said
    assert time.monotonic() - started < 5
    code = (
        "import sys, pipeline.farm.driver; sys.exit('ray' in sys.modules or 'bpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT).returncode == 0


def test_no_cluster_at_the_address(farm: Farm) -> None:
    said = farm.driver(1, "127.0.0.1:1").communicate(timeout=60)[0]
    assert said.splitlines()[-1].startswith("cannot reach the Ray cluster at 127.0.0.1:1")


def test_something_else_at_the_address(farm: Farm) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        said = farm.driver(1, f"127.0.0.1:{server.server_port}").communicate(timeout=60)[0]
        server.shutdown()
    assert "no Ray" in said.splitlines()[-1]


def test_full_disk_stops_the_run_and_costs_no_seed(farm: Farm, small_disk: Path) -> None:
    farm = Farm(small_disk)
    farm.plan({"generate:1": "fill"})
    with pytest.raises(UserError, match="disk is full") as caught:
        farm.render(2)
    assert str(small_disk) in str(caught.value)
    assert not farm.run.failed_folder.exists()
    farm.plan({})
    assert farm.render(2).scenes == names(0, 1)
    assert set(ends(farm, 1, "generate")) <= {"scratch", "disk", "interrupted", "ok"}


def test_no_new_scene_on_a_nearly_full_disk(farm: Farm, small_disk: Path) -> None:
    farm = Farm(small_disk)
    with pytest.raises(UserError, match=r"disk is full.* a new scene needs 1\.0 GiB"):
        farm.render(2, replace(QUICK, min_free_gib=1))


def test_systemic_fault_stops_the_run_and_costs_no_seed(farm: Farm) -> None:
    farm.plan({"*": "crash"})
    with pytest.raises(UserError, match="first 3 seeds all failed in generate") as caught:
        farm.render(4, replace(QUICK, attempts=1))
    log = str(caught.value).partition("; see ")[2].partition(",")[0]
    assert "always crashes" in Path(log).read_text()
    farm.plan({})
    summary = farm.render(3, replace(QUICK, attempts=1))
    assert (summary.scenes, summary.failed) == (names(0, 1, 2), ())


def test_systemic_fault_costs_no_seed_that_fails_while_the_driver_stops(farm: Farm) -> None:
    class SlowToStop(RayExecutor):
        def __exit__(self, *error: object) -> None:
            late.extend(result for _, result in self.wait(20))
            super().__exit__(*error)

    late: list[Result] = []
    farm.plan({"*": "crash"})
    with pytest.raises(UserError, match="first 3 seeds all failed in generate"):
        settings = replace(QUICK, attempts=1)
        render_run(farm.run, SETTINGS, 4, settings, FAKE, SlowToStop(settings))
    assert all(result.reason == "crashed" and result.state for result in late)
    farm.plan({})
    summary = farm.render(4, replace(QUICK, attempts=1))
    assert (summary.scenes, summary.failed) == (names(0, 1, 2, 3), ())


def test_too_many_failed_seeds_stop_the_run(farm: Farm) -> None:
    farm.plan({"*": "reject"})
    with pytest.raises(UserError, match="4 seeds failed, the last one in generate"):
        farm.render(1, replace(QUICK, max_failed=3))


def test_impossible_settings_are_refused(farm: Farm) -> None:
    for scenes in (0, -1):
        with pytest.raises(UserError, match="SCENES must be at least 1"):
            farm.render(scenes)
    with pytest.raises(UserError, match="RENDER_CPUS"):
        farm.render(1, replace(QUICK, render_cpus=99))
    with pytest.raises(UserError, match="WORKERS=0 is out of range"):
        replace(QUICK, workers=0)


def test_gpu_profile_without_a_gpu(farm: Farm) -> None:
    with pytest.raises(UserError, match="Ray sees none"):
        farm.render(1, settings=replace(SETTINGS, profile="farm"))


def test_seeds_run_out(farm: Farm) -> None:
    with pytest.raises(UserError, match="no seeds above"):
        farm.render(3, settings=replace(SETTINGS, seed=2**31 - 2))


def test_memory_limit_of_a_stage(farm: Farm) -> None:
    tight = replace(QUICK, attempts=1, max_failed=0, render_limits=Limits(wall=20, memory=2**20))
    farm.plan({"seconds": 1.5})
    with pytest.raises(UserError, match=r"in render \(memory: "):
        farm.render(1, tight)
