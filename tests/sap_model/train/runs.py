"""Small runs of training: how they are called, and what they leave."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

import torch

from sap_model.train.settings import TrainSettings, Watch

ROOT = Path(__file__).parents[3]
QUIET = Watch(clips=0, save_every=1, workers=0)


def command(settings: TrainSettings, folder: Path, processes: int = 1) -> list[str]:
    """What make calls."""
    words = [sys.executable, "-m", "sap_model", "train", "--gpus", str(processes)]
    words += [word for data in settings.data for word in ("--data", data)]
    words += ["--run", str(folder), "--workers", "0", "--save-every", "1"]
    options = {
        "size": "--size",
        "image_size": "--image-size",
        "checkpoint": "--checkpoint",
        "clip_objects": "--objects",
        "clip_frames": "--frames",
        "batch_size": "--batch",
        "steps": "--steps",
        "lr": "--lr",
        "min_pixels": "--min-pixels",
    }
    for field, option in options.items():
        words += [option, str(getattr(settings, field))]
    return words


def rendezvous(processes: int) -> list[dict[str, str]]:
    """What torchrun would say to each of several processes of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    about = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [about | {"RANK": str(k), "LOCAL_RANK": str(k)} for k in range(processes)]


def environment() -> dict[str, str]:
    """Of a real process, on the CPU."""
    return os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def losses(folder: Path) -> list[dict[str, float]]:
    """What the log says of each step, but for times."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in line.items() if name not in ("time", "took", "waited")}
        for line in lines
        if "core_loss" in line
    ]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "weights.pt")["model"]
