"""Renders of the analytic scenes, each made once per test session in a Blender process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Rendered:
    """One analytic panorama: ids (H, W) uint16, depth (H, W) metres, normal (H, W, 3)."""

    ids: np.ndarray
    depth: np.ndarray
    normal: np.ndarray
    image: np.ndarray
    instances: list[dict[str, Any]]
    unknown: dict[str, int]

    def id_of(self, name: str) -> int:
        return next(entry["id"] for entry in self.instances if entry["name"] == name)


@pytest.fixture(scope="session")
def analytic(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Rendered]:
    """Function from the name of an analytic scene to its render."""
    made: dict[str, Rendered] = {}

    def get(name: str) -> Rendered:
        if name not in made:
            made[name] = _read(make(name, tmp_path_factory.mktemp(name)))
        return made[name]

    return get


@pytest.fixture
def viewpoints(tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    """Function from the name of an analytic scene to the viewpoints chosen in it."""
    return lambda name: json.loads((make(name, tmp_path) / "viewpoints.json").read_text())


def make(name: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "tests.blender.analytic", name, str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return folder


def _read(folder: Path) -> Rendered:
    os.environ["OPENCV_IO_ENABLE_OPENEXR"] = "1"
    about = json.loads((folder / "scene.json").read_text())
    return Rendered(
        ids=cv2.imread(str(folder / "ids.png"), cv2.IMREAD_UNCHANGED),
        depth=cv2.imread(str(folder / "depth.exr"), cv2.IMREAD_UNCHANGED),
        normal=cv2.imread(str(folder / "normal.exr"), cv2.IMREAD_UNCHANGED)[..., ::-1],
        image=cv2.imread(str(folder / "image.png")),
        **about,
    )
