"""What a run says while it goes on: a line now and then, a line of JSON per step, TensorBoard."""

from __future__ import annotations

import json
import time
from collections import deque
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from pipeline.storage import write_atomic
from sap_model.train.validation import Score

RECENT = 50
"""Steps behind the rate that is shown."""


class Records:
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
        self.score: Score | None = None
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

    def validated(self, step: int, score: Score) -> None:
        """Note a validation."""
        self.score = score
        values = {"clicked": score.clicked, "memory": score.memory, "presence": score.presence}
        self._write(step, {f"validation/{name}": value for name, value in values.items()})
        print(
            f"step {step}: IoU {score.clicked:.3f} in clicked views, {score.memory:.3f} in views "
            f"from memory; presence right in {score.presence:.1%}",
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
