"""What a run leaves behind, so that it can go on, and what it gives away.

    RUN/
      settings.json         what the run is; other settings and other data are refused
      state/<step>.pt       everything to go on from: the last few
      best.pt               weights with the best validation score so far
      weights.pt            the result, as official SAM2 checkpoints are laid out
      tensorboard/          curves
      pictures/<step>.jpg   predictions on fixed objects
      log.jsonl             a line for every step and every validation

Files appear whole or not at all. A state needs no random state: clips, prompts and dropout of a
step follow from its number.
"""

from __future__ import annotations

import json
import pickle
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from pipeline.errors import UserError
from pipeline.layout import read_json, write_json
from pipeline.storage import disk_full_as_user_error, open_atomic, write_atomic
from sap_model.train.settings import TrainSettings, settings_hash, to_json
from sap_model.train.validation import ValidationScore

KEPT = 2
"""States that are kept: the last one, and one before it in case that is damaged."""

DAMAGED = (pickle.UnpicklingError, RuntimeError, EOFError, OSError, KeyError)
"""What `torch.load` raises for a file that is cut off, or not there."""


def open_run(folder: Path, settings: TrainSettings, data: Mapping[str, Any] | None = None) -> None:
    """Note in a run's folder what the run is, or see that it is this one.

    Args:
        data: What tells its data from other data. A run draws its clips by their numbers, so that
            with other data it would not go on where it stopped.

    Raises:
        UserError: Another run lives there, or this one with other data.
    """
    about, record = _about(settings) | {"data": data}, folder / "settings.json"
    known = read_json(record).get("data") if holds(folder, settings) else None
    if known is None:
        write_json(record, about)
    elif known != data:
        raise UserError(
            f"the data has changed since the run in {folder} began, and clips would come in "
            "another order: give it the data of that time, or choose another RUN"
        )


def holds(folder: Path, settings: TrainSettings) -> bool:
    """Whether a folder holds this run; False if it holds none.

    Raises:
        UserError: Another run lives there.
    """
    record = folder / "settings.json"
    if not record.is_file():
        return False
    about, before = _about(settings), read_json(record)
    differing = [
        name
        for name, value in about["settings"].items()
        if before.get("settings", {}).get(name) != value
    ]
    if differing or before.get("hash") != about["hash"]:
        names = ", ".join(name.upper() for name in differing) or "our version"
        raise UserError(
            f"{folder} holds a run with other settings ({names}): choose another RUN, or remove it"
        )
    return True


def _about(settings: TrainSettings) -> dict[str, Any]:
    return {"settings": to_json(settings), "hash": settings_hash(settings)}


def save_state(folder: Path, step: int, parts: Mapping[str, Any]) -> None:
    """Keep everything that a run goes on from after `step` steps; drop old states."""
    with disk_full_as_user_error(f"no room for {folder}/state; free some and run it again"):
        save(folder / "state" / f"{step:08d}.pt", {"step": step, **parts})
    for old in states(folder)[:-KEPT]:
        old.unlink(missing_ok=True)


def states(folder: Path) -> list[Path]:
    """Kept states, oldest first."""
    return sorted((folder / "state").glob("[0-9]*.pt"))


def lower_lr(folder: Path) -> str:
    """What to do about a loss that went wrong: the best weights so far, or the last, are named."""
    best = folder / "best.pt"
    files = [best] if best.is_file() else states(folder)[-1:]
    return "start another RUN with a lower LR" + "".join(
        f" and CHECKPOINT={path}" for path in files
    )


def last_state(folder: Path) -> dict[str, Any] | None:
    """The newest state that can be read; None if the run has none.

    Raises:
        UserError: There are states, and none of them can be read.
    """
    found = states(folder)
    for path in reversed(found):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except DAMAGED:
            print(f"{path} is damaged; going on from the one before it", flush=True)
    if found:
        raise UserError(f"no state in {folder / 'state'} can be read: remove it to start again")
    return None


def state_of(folder: Path, step: int) -> dict[str, Any]:
    """The state after `step` steps, which another process could read.

    Raises:
        UserError: This one cannot.
    """
    path = folder / "state" / f"{step:08d}.pt"
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except DAMAGED as error:
        raise UserError(
            f"{path}, which the first process goes on from, cannot be read by all: RUN must be on "
            "storage that all machines share"
        ) from error


def export(network: nn.Module, path: Path, precision: torch.dtype = torch.float32) -> None:
    """Write weights as SAM2 publishes its own: {"model": state dict}.

    Args:
        network: A SAM2Train or below.
        path: The file.
        precision: Of the stored weights; float16 halves the file, and SAM2 loads it all the same.
    """
    weights: dict[str, Tensor] = {
        name: part.detach().cpu().to(precision) if part.is_floating_point() else part.cpu()
        for name, part in network.state_dict().items()
    }
    with disk_full_as_user_error(f"no room for {path}; free some and run it again"):
        save(path, {"model": weights})


def save(path: Path, content: Any) -> None:
    """`torch.save`, atomically."""
    with open_atomic(path) as file:
        torch.save(content, file)


# ---- what a run reports while it trains

RECENT = 50
"""Steps behind the rate that is shown."""


class RunLog:
    """The log of one run.

    Args:
        folder: The run's.
        steps: Of the whole run.
        done: Steps that are behind it already; what an interrupted run logged later is dropped.
    """

    def __init__(self, folder: Path, steps: int, done: int) -> None:
        self.steps, self.done = steps, done
        self.path = folder / "log.jsonl"
        kept = [line for line in _lines(self.path) if line["step"] <= done]
        write_atomic(self.path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=done + 1)
        self.recent: deque[dict[str, float]] = deque(maxlen=RECENT)
        self.score: ValidationScore | None = None
        self.began, self.first = time.monotonic(), done

    def step(
        self,
        step: int,
        losses: dict[str, float],
        lr: float,
        norm: float,
        took: float,
        waited: float,
    ) -> None:
        """Note one step.

        Args:
            step: Its number, from 1.
            losses: Means over the batch.
            lr: Learning rate.
            norm: Of the gradient, before it was clipped.
            took, waited: Seconds, and how many of them went by waiting for clips.
        """
        self.done = step
        self.recent.append({"took": took, "waited": waited, "loss": losses["core_loss"]})
        self._write(step, {"lr": lr, "norm": norm, "took": took, "waited": waited, **losses})

    def validated(self, step: int, score: ValidationScore) -> None:
        """Note a validation."""
        self.score = score
        values = {"clicked": score.clicked, "memory": score.memory, "presence": score.presence}
        whole = ""
        if score.panorama is not None:
            values["panorama"] = score.panorama
            whole = f", {score.panorama:.3f} on panoramas"
        self._write(step, {f"validation/{name}": value for name, value in values.items()})
        print(
            f"step {step}: IoU {score.clicked:.3f} in clicked views, {score.memory:.3f} in views "
            f"from memory{whole}; presence right in {score.presence:.1%}",
            flush=True,
        )

    def show(self) -> None:
        """Print where the run stands, with the IoU of the last validation since it began."""
        count = len(self.recent)
        took = sum(line["took"] for line in self.recent) / count
        waited = sum(line["waited"] for line in self.recent) / count
        loss = sum(line["loss"] for line in self.recent) / count
        iou = ""
        if self.score is not None:
            iou = f"IoU {self.score.clicked:.3f} clicked, {self.score.memory:.3f} from memory, "
        # by the clock since this call began, which counts validations too
        rate = (time.monotonic() - self.began) / (self.done - self.first)
        left = rate * (self.steps - self.done) / 60
        print(
            f"step {self.done} of {self.steps}: loss {loss:.4f}, {iou}{took:.2f} s a step "
            f"({waited / took:.0%} waiting for data), {left:.0f} min left",
            flush=True,
        )

    def close(self) -> None:
        self.board.close()

    def _write(self, step: int, values: dict[str, float]) -> None:
        with open(self.path, "a") as file:
            file.write(json.dumps({"step": step, "time": round(time.time(), 3), **values}) + "\n")
        for name, value in values.items():
            self.board.add_scalar(name, value, step)


def _lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a log, whose last one may be cut off by a kill."""
    lines = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines
