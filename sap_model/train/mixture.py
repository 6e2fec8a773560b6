"""Which clip comes when: sources mixed by weight, in an order that depends on numbers alone.

Part number i of a run is the same in every process: its random numbers come from (seed, i). So a
run that was stopped resumes by counting on, and processes share a step by sharing its numbers.

All parts of a step come from one source, as in SAM2's training. The loss is a sum over frames: in a
step of both, one picture of SA-1B would weigh 1/24 of a panorama.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from pipeline.errors import UserError
from sap_model.predict.methods import METHODS, scan_of
from sap_model.train.clip import Clip, ClipBatch, NoObjectError, collate
from sap_model.train.crops import CropClips
from sap_model.train.sa1b import Sa1b
from sap_model.train.sav import Sav
from sap_model.train.scan_clips import ScanClips
from sap_model.train.settings import TrainSettings
from sap_model.train.shard_rows import Checked, NoSplitError, ShardRows

TRIES = 100
"""Consecutive rows without anything to train on after which the run stops."""

KEPT_BYTES = 2 * 2**30
"""Decoded panoramas that are kept, if all of them fit: at nano scale they do. Divided among the
training processes of a machine; each of the loader processes of one keeps all of its share."""

AHEAD = 2
"""Parts that a loader process makes ahead. One at 1024 pixels is about 100 MB of shared memory."""


SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - torch decides
"""Where torch's loader processes put parts; a container has 64 MB of it unless it asks for more."""

LOADER_TIMEOUT = 1800
"""Seconds after which a loader that gives no part is taken for hung: a clip takes seconds, and a
store that is away for some minutes is waited for."""


class Source(Protocol):
    """Rows, images or videos that clips can be made of."""

    def __len__(self) -> int: ...

    def clip(self, index: int, rng: np.random.Generator) -> Clip:
        """Raises NoObjectError where there is nothing to train on."""


class Mixture(Dataset):
    """Parts of steps by number; all parts of a step are drawn from one source.

    Args:
        sources: What is mixed, with shares of 1: of the steps.
        clips: Clips of a part.
        seed: Of everything drawn.
        parts: Parts of a step, of all processes.
    """

    def __init__(
        self,
        sources: Sequence[tuple[Source, float]],
        clips: int = 1,
        seed: int = 0,
        parts: int = 1,
    ) -> None:
        self.sources, self.clips, self.seed, self.parts = list(sources), clips, seed, parts
        self.ends = np.cumsum([share for _, share in sources])

    def __getitem__(self, number: int) -> list[ClipBatch]:
        """Part `number`: its clips, those of equal shape as one batch."""
        source, rng = self._source(number // self.parts), np.random.default_rng([self.seed, number])
        by_shape: dict[tuple, list[Clip]] = {}
        for k in range(self.clips):
            clip = self._clip(source, number * self.clips + k, rng)
            by_shape.setdefault(clip.shape, []).append(clip)
        return [collate(clips) for clips in by_shape.values()]

    def _source(self, step: int) -> Source:
        draw = np.random.default_rng(
            [self.seed, step, 1]
        ).random()  # a stream apart from the clips'
        place = int(np.searchsorted(self.ends, draw * self.ends[-1], side="right"))
        return self.sources[min(place, len(self.sources) - 1)][0]

    def _clip(self, source: Source, count: int, rng: np.random.Generator) -> Clip:
        """The clip of place `count`, which counts the clips of all sources together.

        A round is as many places as the source has rows, in an order that is new in every round. A
        source with a share w is asked at about w of them, and so gives about w of its rows in a
        round, each at most once (but for rows that stand in for those without an object). Which
        ones is new in every round too. What comes thus depends on `count` alone.
        """
        for again in range(TRIES):
            turn, place = divmod(count + again, len(source))
            row = _order(self.seed, turn, len(source))[place]
            try:
                return source.clip(int(row), rng)
            except NoObjectError:
                continue
        raise UserError(
            f"{type(source).__name__}: no object to train on in {TRIES} rows one after another, of "
            f"{len(source)}: take other data, or ask for fewer pixels (MIN_PIXELS=)"
        )


@lru_cache(maxsize=8)
def _order(seed: int, turn: int, rows: int) -> NDArray[np.int64]:
    """Kept, for that of the 11 million pictures of SA-1B takes half a second to draw."""
    return np.random.default_rng([seed, turn]).permutation(rows)


def make(settings: TrainSettings, sa1b_index: Path | None = None) -> Mixture:
    """The sources that settings name, over the train split of the shards.

    Args:
        settings: Of the run.
        sa1b_index: The list of SA-1B's pictures, see `Sa1b`.
    """
    rows = rows_of(settings, "train") if _on_shards(settings) else None
    spec = METHODS[settings.method]
    size, objects, augment = settings.image_size, settings.clip_objects, settings.augment
    frames = settings.clip_frames
    sources: list[tuple[Source, float]] = []
    for name, share in settings.mix:
        source: Source
        if name == "panoramas" and rows:
            source = ScanClips(
                rows, size, objects, frames, settings.inference_prompt_fraction,
                settings.min_pixels, scan_of(settings.method), spec.views, settings.prompted,
                augment,
            )  # fmt: skip
        elif name == "crops" and rows:
            source = CropClips(
                rows, size, objects, settings.crop_frames, settings.crop_step, settings.crop_fov,
                settings.min_pixels,
            )  # fmt: skip
        elif name == "sa1b":
            source = Sa1b(settings.sa1b or "", size, objects, sa1b_index, augment)
        else:
            source = Sav(settings.sav or "", size, objects, min(frames, 8), augment=augment)
        sources.append((source, share))
    return Mixture(sources, settings.micro_batch_size, settings.seed, settings.chunks(1))


def rows_of(settings: TrainSettings, split: str) -> ShardRows | None:
    """The rows of a split, kept in memory once decoded if they are small enough.

    Returns:
        None without shards, or for a validation split that a small dataset does not have.

    Raises:
        UserError: There is no such split.
    """
    rows = _open(settings, split)
    if rows is None:
        return None
    first, share = rows[0], KEPT_BYTES // int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # torchrun's
    if (first.image.nbytes + first.ids.nbytes) * len(rows) <= share:
        rows = ShardRows(settings.data, split, kept=len(rows))
    return rows


def check_data(settings: TrainSettings) -> str:
    """Look at the annotations of all rows once, before hours are spent on them.

    Returns:
        What tells the panoramas that are trained on, and their order, from others.

    Raises:
        UserError: A row is refused by `ShardRows.check`, or a scene is in both splits, such
            as when folders were mixed up.
    """
    train = _open(settings, "train") if _on_shards(settings) else None
    watched = _open(settings, "validation")
    trained_on = train.check() if train else Checked(set(), "")
    common = sorted(trained_on.scenes & watched.check().scenes) if watched else []
    if common:
        raise UserError(
            f"{len(common)} scenes are in the train and in the validation split of DATA, such "
            f"as {common[0]}: leave out the folder that holds them the second time"
        )
    return trained_on.digest


def _on_shards(settings: TrainSettings) -> bool:
    """Whether shards are trained on, and not only watched."""
    return any(name in ("panoramas", "crops") for name, _ in settings.mix)


def _open(settings: TrainSettings, split: str) -> ShardRows | None:
    """See `rows_of`; nothing is decoded."""
    if not settings.data:
        return None
    try:
        return ShardRows(settings.data, split)
    except NoSplitError:
        if split == "validation":
            return None
        raise


def load(
    mixture: Mixture, numbers: Sequence[int], workers: int, pin: bool
) -> Iterator[list[ClipBatch]]:
    """Parts in the order of their numbers, made ahead by other processes.

    Raises:
        UserError: As it was raised in the other process.
    """
    loader = DataLoader(
        _ErrorsAsItems(mixture),
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        collate_fn=_unchanged,
        multiprocessing_context="spawn" if workers else None,
        prefetch_factor=AHEAD if workers else None,
        pin_memory=pin,
        worker_init_fn=_single_thread,
        timeout=LOADER_TIMEOUT if workers else 0,
    )
    try:
        for part in loader:
            if isinstance(part, UserError):
                raise part
            yield part
    except RuntimeError as error:
        if not str(error).startswith(("DataLoader timed out", "DataLoader worker (pid")):
            raise  # a fault of ours
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(
            f"a process that makes clips ended or hung ({reason}); {_REMEDY}, or look whether "
            "memory ran out"
        ) from None


_REMEDY = "give the machine more shared memory (docker run --shm-size=8g) or train with WORKERS=0"


def check_shared_memory(part: Sequence[ClipBatch], workers: int) -> None:
    """Look whether the parts that loader processes make ahead fit into shared memory.

    Where they do not, a loader process fails to hand over a part and the training waits for it.

    Args:
        part: Any one.
        workers: Loader processes of each training process of this machine.

    Raises:
        UserError: They do not fit.
    """
    if sys.platform != "linux":
        return
    size = sum(tensor.nbytes for batch in part for tensor in (batch.images, batch.truth))
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # torchrun's
    needed = processes * (workers * AHEAD + 1) * size
    usable = os.access(SHARED_MEMORY, os.W_OK | os.X_OK)
    free = shutil.disk_usage(SHARED_MEMORY).free if usable else 0
    if needed > free:
        raise UserError(
            f"{SHARED_MEMORY} has {free / 2**20:.1f} MiB free, and {processes * workers} loader "
            f"processes need {needed / 2**20:.1f} MiB of shared memory; {_REMEDY}"
        )


class _ErrorsAsItems(Dataset):
    """A mixture that gives its UserErrors as parts: torch would wrap a traceback round them."""

    def __init__(self, mixture: Mixture) -> None:
        self.mixture = mixture

    def __getitem__(self, number: int) -> list[ClipBatch] | UserError:
        try:
            return self.mixture[number]
        except UserError as error:
            return error


def _unchanged(part: list[ClipBatch] | UserError) -> list[ClipBatch] | UserError:
    return part


def _single_thread(worker: int) -> None:
    """One thread for OpenCV too: torch gives each of its loader processes one."""
    cv2.setNumThreads(1)
