"""A wheel, installed elsewhere, works in an empty folder: it holds all that the program reads."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.run_settings import RunSettings, settings_hash
from pipeline.settings_reference import reference

ROOT = Path(__file__).parents[2]
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder into which the wheel of this checkout is installed, and nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    for name in filter(None, os.fsdecode(listed).split("\0")):
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            target = folder / "checkout" / name  # setuptools writes into the folder that it builds
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target)
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder]
    subprocess.run([*PIP, *build, folder / "checkout"], check=True)
    shutil.rmtree(folder / "checkout")
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*PIP, "install", "--no-deps", "--target", folder / "site", wheel], check=True)
    return folder / "site"


def program(site: Path, folder: Path, *words: str) -> str:
    """What the installed program prints in an empty folder."""
    done = subprocess.run(
        [sys.executable, site / "bin" / "sap-panorama", *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def python(site: Path, folder: Path, code: str) -> str:
    """What code prints that imports the installed packages."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_the_program_is_the_installed_one(site, tmp_path):
    assert program(site, tmp_path, "settings-reference") == reference()
    where = python(site, tmp_path, "import pipeline; print(pipeline.__file__)")
    assert where.strip() == str(site / "pipeline" / "__init__.py")


def test_runs_of_a_wheel_and_of_a_checkout_have_one_hash(site, tmp_path):
    """It covers the generators' files, which lie outside of the package `pipeline`."""
    code = "from pipeline.run_settings import *; print(settings_hash(RunSettings()))"
    assert python(site, tmp_path, code).strip() == settings_hash(RunSettings())


def test_every_file_that_the_program_reads_is_in_the_wheel(site):
    read = subprocess.run(
        ["git", "ls-files", "infinigen_configs", "dataset_card", "pipeline", "sap_model"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    kinds = (".gin", ".toml", ".jinja", ".txt", ".json", ".html", ".css", ".js", ".yaml", ".pt")
    clusters = "pipeline/clusters/"  # for a checkout: Docker, Kubernetes, Slurm
    expected = {name for name in read if name.endswith(kinds) and not name.startswith(clusters)}
    assert len(expected) > 15
    assert not {name for name in expected if not (site / name).is_file()}


def test_it_renders_and_verifies_in_an_empty_folder(site, tmp_path):
    words = ["--generator", "spheres", "--profile", "draft", "--scenes", "1"]
    small = ["--width", "128", "--panos", "1"]
    said = program(site, tmp_path, "render", *words, *small)
    assert "1 scenes done (1 now" in said
    assert "1 panoramas in 1 shards: no findings" in program(site, tmp_path, "verify")
    assert (tmp_path / "out" / "preview" / "index.html").is_file()
