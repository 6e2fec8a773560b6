"""OUT belongs to one driver and one set of settings."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.farm.run_lock import claim, read_claim
from pipeline.layout import RunFolder, read_json
from tests.farm.conftest import CHECKOUT, SETTINGS, Farm, wait_until

HOLD = """
import sys, time
from pathlib import Path
from pipeline.farm.run_lock import claim
from pipeline.layout import RunFolder
from tests.farm.conftest import SETTINGS
with claim(RunFolder(Path(sys.argv[1])), SETTINGS, 3):
    time.sleep(1000)
"""


def refusal(run: RunFolder, settings=SETTINGS) -> str:
    with pytest.raises(UserError) as caught, claim(run, settings, 1):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


def begin(run: RunFolder) -> None:
    """A run with a scene in it, so that its settings are fixed."""
    with claim(run, SETTINGS, 1):
        run.scene("spheres-0000000000").attempts.mkdir(parents=True)


def test_settings_may_change_until_there_is_a_scene(farm: Farm) -> None:
    """A driver that found no cluster has written them down, and nothing else."""
    for settings in (SETTINGS, replace(SETTINGS, width=128)):
        with claim(farm.run, settings, 1):
            assert read_json(farm.run.settings)["settings"]["width"] == settings.width


def test_second_driver_is_refused_until_the_first_is_killed(farm: Farm) -> None:
    first = subprocess.Popen([sys.executable, "-c", HOLD, str(farm.run.path)], cwd=CHECKOUT)
    wait_until(lambda: (now := read_claim(farm.run)) and now.held)
    assert f"process ({first.pid} on " in refusal(farm.run)
    first.send_signal(signal.SIGKILL)
    first.wait()
    last = read_claim(farm.run)
    assert last is not None
    assert (last.held, last.scenes) == (False, 3)
    with claim(farm.run, SETTINGS, 1):
        pass


def test_foreign_folder(farm: Farm) -> None:
    farm.run.path.mkdir()
    (farm.run.path / "thesis.tex").touch()
    assert "run.json" in refusal(farm.run)
    assert [path.name for path in farm.run.path.iterdir()] == ["thesis.tex"]


def test_file_instead_of_a_folder(farm: Farm) -> None:
    farm.run.path.touch()
    assert "choose a folder" in refusal(farm.run)


@pytest.mark.parametrize("path", ["/proc/out", "/dev/null/out"])
def test_unwritable(path: str) -> None:
    assert path in refusal(RunFolder(Path(path)))


def test_read_only_file_system(small_disk: Path) -> None:
    remount = ["mount", "-o", "remount,ro", str(small_disk)]
    subprocess.run(remount, check=True)
    assert "Read-only" in refusal(RunFolder(small_disk / "out"))
    assert "Read-only" in refusal(RunFolder(small_disk))


def test_other_settings_are_named(farm: Farm) -> None:
    begin(farm.run)
    line = refusal(farm.run, replace(SETTINGS, width=128, panos=5))
    assert "panos 2 → 5" in line
    assert "width 64 → 128" in line
    assert "samples" not in line


def test_other_versions_and_configurations_are_named(farm: Farm) -> None:
    begin(farm.run)
    about = json.loads(farm.run.settings.read_text())
    farm.run.settings.write_text(json.dumps({**about, "settings_hash": "0"}))
    assert "infinigen_configs/" in refusal(farm.run)
    about["versions"]["bpy"] = "3.6"
    farm.run.settings.write_text(json.dumps(about))
    assert "bpy version 3.6 → " in refusal(farm.run)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"settings": 3, "versions": {}}'])
def test_damaged_run_json(text: str, farm: Farm) -> None:
    begin(farm.run)
    farm.run.settings.write_text(text)
    line = refusal(farm.run)
    assert "damaged" in line
    assert str(farm.run.settings) in line


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', '{"unknown": 1}'])
def test_damaged_lock_file_is_nobodys(text: str, farm: Farm) -> None:
    with claim(farm.run, SETTINGS, 1):
        farm.run.driver_lock.write_text(text)
        assert read_claim(farm.run) is None
        assert "another process" in refusal(farm.run)


def test_removed_or_replaced_folder_is_no_longer_held(farm: Farm) -> None:
    with claim(farm.run, SETTINGS, 1) as check:
        check()
        farm.run.path.rename(farm.folder / "elsewhere")
        with pytest.raises(UserError, match="was removed or replaced"):
            check()
        with (
            claim(farm.run, SETTINGS, 1) as check_second,
            pytest.raises(UserError, match="was removed or replaced"),
        ):
            check_second()
            check()


def test_killed_before_run_json_was_written_is_not_foreign(farm: Farm) -> None:
    farm.run.path.mkdir()
    (farm.run.path / "driver.lock").touch()
    (farm.run.path / ".run.json.0a1b.tmp").touch()
    with claim(farm.run, SETTINGS, 1):
        assert farm.run.settings.exists()


def test_a_configuration_changed_during_a_run_is_noticed(run, tmp_path, monkeypatch):
    config = tmp_path / "rooms.toml"
    config.write_text("[scenes]")
    monkeypatch.setattr("pipeline.run_settings.config_of", lambda generator, detail: config)
    monkeypatch.setattr("pipeline.farm.run_lock.SETTINGS_SECONDS", 0.0)
    with claim(run, SETTINGS, 1) as check:
        check()
        config.write_text("[scenes] # changed")
        with pytest.raises(UserError, match="infinigen_configs"):
            check()
