"""One attempt at one stage of one scene, in the Ray worker that carries it out.

The Ray worker never imports bpy: generate and render are a fresh Blender process each.
"""

from __future__ import annotations

import importlib
import re
import resource
import shutil
import sys
import tempfile
import time
import traceback
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline import storage
from pipeline.farm.attempt import (
    Result,
    begin_attempt,
    end_attempt,
    has_ended,
    is_open,
    log_path,
    read_tail,
)
from pipeline.farm.child import Limits
from pipeline.farm.options import Program
from pipeline.farm.scene import (
    FINISH,
    Scene,
    SceneState,
    finish,
    missing,
    read_state,
    start_over,
    viewpoint_count,
)
from pipeline.farm.supervisor import FULL_BYTES, run_child
from pipeline.layout import ANNOTATED, RENDERED, SceneFolder, write_json
from pipeline.settings import from_json
from pipeline.storage import DISK_FULL

GPU_MEMORY = re.compile(r"(out of|insufficient|not enough)\b.{0,40}\bmemory\b", re.IGNORECASE)
"""What CUDA, OptiX, HIP and Cycles say of a GPU without memory."""


@dataclass(frozen=True)
class Job:
    """What an attempt needs to know, as plain data.

    Attributes:
        scene_folder: In OUT: a path that every node has, or a URL.
        stage: generate, render or annotate.
        number: Number of the attempt at this stage, from 1.
        settings: `settings.to_json`.
        cpus: CPUs that the stage may keep busy; `gpus`, what it holds.
        node: Ray's id of the node that it is sent to.
        device: For a render on a GPU, one of `needs.DEVICES`; else "".
        scratch: Where it works on its machine; None takes the folder for temporary files.
        keep_scenes: Keep scene.blend of a finished scene.
        token: Tells this attempt from another one with the same number.
    """

    scene_folder: str
    stage: str
    number: int
    generator: str
    seed: int
    settings: dict[str, Any]
    cpus: int
    gpus: int
    node: str
    device: str
    scratch: str | None
    keep_scenes: bool
    token: str
    limits: Limits
    program: Program


@dataclass(frozen=True)
class Report:
    """How an attempt ended, and what its scene needs now; None if this machine cannot tell."""

    outcome: Result
    state: SceneState | None


def attempt(job: Job) -> Report:
    """Make one attempt, in the ledger from start to end; success needs the marker in OUT.

    After the last panorama is annotated the scene is finished here as well.
    """
    try:
        out = SceneFolder(storage.open_path(job.scene_folder))
        if has_ended(out, job.stage, job.number):  # its node hung for too long
            return _report(job, out, Result("interrupted", "taken for lost before it began"))
        if not storage.exists(out.path.parent.parent / "run.json"):  # else it would be made anew
            return Report(Result("machine", f"OUT={out.path.parent.parent} is not here"), None)
    except Exception as error:
        return Report(_failed_around(error, job.scene_folder), None)
    work: Workspace | None = None
    try:
        begin_attempt(
            out,
            job.stage,
            job.number,
            cpus=job.cpus,
            gpus=job.gpus,
            node=job.node,
            device=job.device,
            token=job.token,
        )
        scratch = None if job.scratch is None else Path(job.scratch)
        with workspace(out, job.stage, job.number, scratch, job.token) as work:
            outcome = _work(job, work)
    except LostError as error:
        outcome = Result("interrupted", str(error))
    except (KeyboardInterrupt, SystemExit):  # cancelled, or Ray ends this worker
        _end(job, out, Result("interrupted", "stopped"), work)
        raise
    except Exception as error:  # of this machine or of the store, not of the seed
        outcome = _failed_around(error, out)
    _end(job, out, outcome, work)
    try:
        return _report(job, out, outcome)
    except Exception as error:
        return Report(outcome if not outcome.ok else _failed_around(error, out), None)


def _failed_around(error: Exception, out: SceneFolder | str) -> Result:
    """The outcome where something failed around the stage."""
    if isinstance(error, OSError) and error.errno in DISK_FULL and isinstance(out, SceneFolder):
        detail = f"{error.strerror}: {error.filename or out.path}"
        return Result(_which_disk(error, out), detail)
    return Result("machine", f"{type(error).__name__}: {error}".splitlines()[0][:300])


def _end(job: Job, out: SceneFolder, outcome: Result, work: Workspace | None) -> None:
    """Write down how the attempt ended, unless somebody else has, or OUT is gone."""
    with suppress(Exception):  # on a full disk, say; the driver still learns the outcome
        if is_open(out, job.stage, job.number, job.token):
            brought = {"bytes": work.bytes, "brought": len(work.brought)} if work else {}
            end_attempt(out, job.stage, job.number, outcome, **brought)


def _work(job: Job, work: Workspace) -> Result:
    """Fetch, run the stage, bring its results."""
    try:
        if job.stage == "generate":
            start_over(work.out, work.check_open)  # by now it may be another attempt's work
        work.fetch()
    except FileNotFoundError as error:  # removed since the driver looked: look again
        return Result("damaged", f"{error.filename or work.out.path} is gone")
    outcome = _annotate(job, work) if job.stage == "annotate" else _blender(job, work)
    if job.stage == "generate" and outcome.ok:
        with suppress(FileNotFoundError):
            work.bring_scene()
    work.bring()
    work.withdraw()
    if outcome.ok and (marker := missing(work.out, job.stage)):
        outcome = replace(outcome, reason="crashed", detail=f"ended well but left no {marker}")
    return outcome


def _blender(job: Job, work: Workspace) -> Result:
    spec = work.here.scratch / f"{job.stage}.json"
    write_json(
        spec,
        {
            "stage": job.stage,
            "scene_folder": str(work.here.path),
            "generator": job.generator,
            "seed": job.seed,
            "settings": job.settings,
            "threads": job.cpus,
            "device": job.device,
        },
    )
    log, sent = _log_path(job, work)
    try:
        outcome = run_child(
            [sys.executable, *job.program.blender, str(spec)],
            log,
            job.limits,
            folder=work.here.path,
            env={"OMP_NUM_THREADS": str(job.cpus)},
            on_poll=work.bring,
        )
    finally:
        _send(log, sent)
    on_gpu = job.device.startswith("gpu")
    if on_gpu and outcome.reason == "crashed" and GPU_MEMORY.search(outcome.log_tail):
        outcome = replace(outcome, reason="gpu-memory", detail="the GPU ran out of memory")
    return outcome


def _annotate(job: Job, work: Workspace) -> Result:
    log, sent = _log_path(job, work)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("stage: annotate\n")
    started, cpu_before = time.monotonic(), time.process_time()
    reason = detail = ""
    try:
        module, _, function = job.program.annotate.partition(":")
        stage = getattr(importlib.import_module(module), function)
        stage(work.here, from_json(job.settings))
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        reason, detail = "crashed", f"{type(error).__name__}: {error}".splitlines()[0][:300]
        with open(log, "a") as file:
            traceback.print_exc(file=file)
    log_tail = read_tail(log)
    _send(log, sent)
    return Result(
        reason=reason or "ok",
        detail=detail,
        seconds=time.monotonic() - started,
        cpu_seconds=time.process_time() - cpu_before,
        peak_rss=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        log_tail=log_tail,
    )


def _log_path(job: Job, work: Workspace) -> tuple[Path, Path | None]:
    """Where the log is written, and where it goes afterwards: a store cannot be appended to."""
    log = log_path(work.out, job.stage, job.number)
    if not storage.is_remote(log):
        return log, None
    return log_path(work.here, job.stage, job.number), log


def _send(log: Path, sent: Path | None) -> None:
    if sent is not None and log.exists():
        storage.put(log, sent)


def _which_disk(error: OSError, out: SceneFolder) -> str:
    """`disk` where OUT has no room, `scratch` where the folder that was worked in has none."""
    run = out.path.parent.parent
    if storage.is_remote(run):
        return "scratch"
    named = str(error.filename or "").startswith(str(run / "scenes"))
    full = shutil.disk_usage(run).free < FULL_BYTES
    return "disk" if named or full else "scratch"


def _report(job: Job, out: SceneFolder, outcome: Result) -> Report:
    """The outcome and the scene's state; a scene with nothing left to make is finished first."""
    state = read_state(out)
    if outcome.ok and state.stage == FINISH:
        scene = Scene(job.seed, out)
        if unfit := finish(scene, job.generator, keep_work=job.keep_scenes):
            return Report(replace(outcome, reason="rejected", detail=unfit), state)
        state = SceneState(stage=None)
    return Report(outcome, state)


PREFIX = "sap-panorama-"
NAME = re.compile(re.escape(PREFIX) + r"[a-z]+-\d{10}-[a-z]+-\d+-[0-9a-f]{8}")
"""Of a folder that an attempt works in; nothing else in SCRATCH is ever touched."""

MARKERS = {"render": RENDERED, "annotate": ANNOTATED}
"""By stage, the marker of a panorama's folder that it makes."""


class LostError(Exception):
    """Somebody took this attempt for lost and closed it; nothing of it may go to OUT any more."""


@dataclass
class Workspace:
    """A scene here and in OUT, for one attempt.

    Attributes:
        out: The scene in OUT; `here`, on this machine.
        stage, number, token: The attempt's.
        present: Panoramas whose result OUT has already, and `fetched`, those that were fetched for
            the stage to read.
        brought: Panoramas that this attempt brought to OUT, and `bytes`, what all of it takes.
    """

    out: SceneFolder
    here: SceneFolder
    stage: str
    number: int
    token: str = ""
    present: set[int] = field(default_factory=set)
    fetched: set[int] = field(default_factory=set)
    brought: set[int] = field(default_factory=set)
    bytes: int = 0

    def fetch(self) -> None:
        """Have here what the stage reads; panoramas that need no work are empty folders.

        Raises:
            FileNotFoundError: It is gone from OUT.
        """
        self.here.scratch.mkdir(parents=True, exist_ok=True)
        if self.stage == "generate":
            return
        storage.get(self.out.generated, self.here.generated)
        if self.stage == "render":
            storage.get(self.out.blend, self.here.blend)
        for index in range(viewpoint_count(self.out) or 0):
            if self.out.is_annotated(index):
                self.here.panorama(index).mkdir(parents=True)
                self.present.add(index)
            elif self.stage == "render":
                if self.out.is_rendered(index):
                    self.here.rendered(index).mkdir(parents=True)
                    self.present.add(index)
            elif self.out.is_rendered(index):
                folder = self.out.rendered(index)
                for name in storage.names(folder):
                    storage.get(folder / name, self.here.rendered(index) / name)
                self.fetched.add(index)

    def bring(self) -> None:
        """Move every panorama that is finished here to OUT.

        Raises:
            LostError: The attempt was closed by somebody else.
        """
        if self.stage == "generate":
            return
        marker = MARKERS[self.stage]
        for index in range(viewpoint_count(self.here) or 0):
            folder, out = self._results(self.here, index), self._results(self.out, index)
            if index in self.present | self.brought or not (folder / marker).exists():
                continue
            for path in sorted(folder.iterdir(), key=lambda path: path.name == marker):
                self._put(path, out / path.name)
            self.brought.add(index)

    def bring_scene(self) -> None:
        """Move a generated scene to OUT.

        Raises:
            LostError: The attempt was closed by somebody else.
            FileNotFoundError: The stage ended well and left no scene.
        """
        self._put(self.here.blend, self.out.blend)
        self._put(self.here.generated, self.out.generated)

    def withdraw(self) -> None:
        """Remove from OUT what the stage found damaged, and removed here.

        Raises:
            LostError: The attempt was closed by somebody else.
        """
        if self.stage == "render" and not self.here.blend.exists():
            self.check_open()
            storage.remove(self.out.generated)  # the marker first
            storage.remove(self.out.blend)
        for index in self.fetched:
            if not self.here.rendered(index).exists() and not self.here.panorama(index).exists():
                self.check_open()
                storage.remove_folder(self.out.rendered(index), RENDERED)

    def _results(self, scene: SceneFolder, index: int) -> Path:
        return scene.rendered(index) if self.stage == "render" else scene.panorama(index)

    def _put(self, local: Path, path: Path) -> None:
        self.check_open()  # each time: the one before may have taken minutes of patience
        size = local.stat().st_size
        storage.put(local, path)
        self.bytes += size

    def check_open(self) -> None:
        """Raise a LostError if the attempt was closed by somebody else."""
        if not is_open(self.out, self.stage, self.number, self.token):
            raise LostError(f"attempt {self.number} of {self.stage} was taken for lost")


@contextmanager
def workspace(
    out: SceneFolder, stage: str, number: int, scratch: Path | None, token: str = ""
) -> Iterator[Workspace]:
    """A folder to work in, gone afterwards.

    Args:
        out: The scene in OUT.
        stage, number, token: The attempt's.
        scratch: Where the folder is made; None takes the machine's folder for temporary files.
    """
    root = scratch or Path(tempfile.gettempdir())
    root.mkdir(parents=True, exist_ok=True)
    sweep(root)
    name = f"{out.scene_id}-{stage}-{number}-{uuid.uuid4().hex[:8]}"
    new, folder = root / f".{name}", root / f"{PREFIX}{name}"
    new.mkdir()
    try:
        with open(new / ".lock", "w") as lock:
            storage.try_lock(lock)
            new.rename(folder)  # now others may look at its lock
            here = SceneFolder(folder / "scenes" / out.scene_id)
            yield Workspace(out, here, stage, number, token)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(new, ignore_errors=True)


def sweep(root: Path) -> None:
    """Remove the folders of attempts whose process is gone, and the kernel has dropped its lock.

    A folder of ours without a lock file is what a removal left that was killed half-way, or that
    a dying child still wrote to: it has its name only since the file was locked.
    """
    for folder in root.glob(f"{PREFIX}*"):
        if not NAME.fullmatch(folder.name):
            continue
        try:
            with open(folder / ".lock", "r+") as lock:
                if storage.try_lock(lock):
                    shutil.rmtree(folder, ignore_errors=True)
        except FileNotFoundError:
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # not ours
            continue
