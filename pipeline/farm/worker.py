"""One attempt at one stage of one scene, in the Ray worker that runs it.

The attempt works in a separate folder on its machine:

    SCRATCH/sap-panorama-<scene_id>-<stage>-<number>-<random>/
      .lock                held (flock) by the attempt; a folder without a holder may be removed
      scenes/<scene_id>/   laid out as in OUT; inputs are fetched from OUT, results delivered to OUT

Results go to OUT one by one as they are finished, each with its marker last. Inputs that the stage
found damaged and removed here are removed from OUT as well. The Ray worker never imports bpy:
generate and render each run in a fresh Blender process.
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

from pipeline import storage
from pipeline.farm.attempt import (
    AttemptSpec,
    Result,
    SceneState,
    begin_attempt,
    end_attempt,
    has_ended,
    is_open,
    log_path,
    read_tail,
)
from pipeline.farm.disk_space import which_disk
from pipeline.farm.run_child import run_child
from pipeline.farm.scene import (
    Scene,
    finish,
    missing_marker,
    read_state,
    remove_damaged,
    start_over,
    viewpoint_count,
)
from pipeline.layout import (
    ANNOTATED,
    RENDERED,
    DamagedFileError,
    RunFolder,
    SceneFolder,
    write_json,
)
from pipeline.run_settings import from_json
from pipeline.storage import DISK_FULL

PREFIX = "sap-panorama-"
WORKSPACE = re.compile(re.escape(PREFIX) + r"[a-z]+-\d{10}-[a-z]+-\d+-[0-9a-f]{8}")
"""Name of a folder that an attempt works in; nothing else in SCRATCH is ever touched."""

MARKERS = {"render": RENDERED, "annotate": ANNOTATED}
"""By stage, the marker of a panorama's folder that the stage makes."""

GPU_MEMORY = re.compile(r"(out of|insufficient|not enough)\b.{0,40}\bmemory\b", re.IGNORECASE)
"""How CUDA, OptiX, HIP and Cycles report a lack of GPU memory."""


class AttemptClosedError(Exception):
    """The driver closed this attempt; it may deliver nothing to OUT any more."""


def run_attempt(spec: AttemptSpec) -> Result:
    """Run one attempt, recorded from start to end; success needs the marker in OUT.

    After its last panorama is annotated the scene is finished here as well.
    """
    try:
        out = SceneFolder(storage.open_path(spec.scene_folder))
        run = RunFolder(out.path.parent.parent)
        if has_ended(out, spec.stage, spec.number):  # its node hung for too long
            result = Result("interrupted", "the driver closed it before it began")
            return replace(result, state=read_state(out))
        if not storage.exists(run.settings):  # otherwise OUT would be created again
            return Result("machine", f"OUT={run.path} does not exist on this machine")
    except Exception as error:
        return _failure_around(error, None)
    work: Workspace | None = None
    try:
        begin_attempt(
            out,
            spec.stage,
            spec.number,
            cpus=spec.request.cpus,
            gpus=spec.request.gpus,
            node=spec.node,
            device=spec.device,
            token=spec.token,
        )
        scratch = None if spec.scratch is None else Path(spec.scratch)
        with workspace(out, spec.stage, spec.number, scratch, spec.token) as work:
            result = _run_stage(spec, work)
    except AttemptClosedError as error:
        result = Result("interrupted", str(error))
    except (KeyboardInterrupt, SystemExit):  # cancelled, or Ray ends this worker
        _record_end(spec, out, Result("interrupted", "stopped"), work)
        raise
    except Exception as error:  # of this machine or the store, not of the seed
        result = _failure_around(error, run)
    _record_end(spec, out, result, work)
    try:
        return _finish_if_complete(spec, out, result)
    except Exception as error:
        return result if not result.ok else _failure_around(error, run)


def _finish_if_complete(spec: AttemptSpec, out: SceneFolder, result: Result) -> Result:
    """The result with the scene's state; a scene with nothing left to make is finished first."""
    state = read_state(out)
    complete = state.stage == "annotate" and not state.to_annotate
    if not (result.ok and complete):
        return replace(result, state=state)
    try:
        rejected = finish(Scene(spec.seed, out), spec.generator, keep_work=spec.keep_scenes)
    except DamagedFileError:
        remove_damaged(out)
        return replace(result, state=read_state(out))
    if rejected:
        return replace(result, reason="rejected", detail=rejected, state=state)
    return replace(result, state=SceneState(stage=None))


def _failure_around(error: Exception, run: RunFolder | None) -> Result:
    """The result where something around the stage failed."""
    if isinstance(error, OSError) and error.errno in DISK_FULL and run is not None:
        detail = f"{error.strerror}: {error.filename or run.path}"
        return Result(which_disk(error, run), detail)
    return Result("machine", f"{type(error).__name__}: {error}".splitlines()[0][:300])


def _record_end(
    spec: AttemptSpec, out: SceneFolder, result: Result, work: Workspace | None
) -> None:
    """Record how the attempt ended, unless the driver has, or OUT is gone."""
    with suppress(Exception):  # for example on a full disk; the driver still gets the result
        if is_open(out, spec.stage, spec.number, spec.token):
            delivered = {"bytes": work.bytes, "brought": len(work.delivered)} if work else {}
            end_attempt(out, spec.stage, spec.number, result, **delivered)


def _run_stage(spec: AttemptSpec, work: Workspace) -> Result:
    """Fetch inputs, run the stage, deliver its results."""
    try:
        if spec.stage == "generate":
            start_over(work.out, work.check_open)  # by now another attempt may own the scene
        work.fetch()
    except FileNotFoundError as error:  # removed since the driver looked
        return Result("damaged", f"{error.filename or work.out.path} is gone")
    result = _annotate(spec, work) if spec.stage == "annotate" else _run_blender(spec, work)
    if spec.stage == "generate" and result.ok:
        with suppress(FileNotFoundError):
            work.deliver_scene()
    work.deliver()
    work.remove_damaged_inputs()
    if result.ok and (marker := missing_marker(work.out, spec.stage)):
        detail = f"exited successfully but left no {marker}"
        result = replace(result, reason="crashed", detail=detail)
    return result


def _run_blender(spec: AttemptSpec, work: Workspace) -> Result:
    cpus = spec.request.cpus
    spec_file = work.here.scratch / f"{spec.stage}.json"
    write_json(
        spec_file,
        {
            "stage": spec.stage,
            "scene_folder": str(work.here.path),
            "generator": spec.generator,
            "seed": spec.seed,
            "settings": spec.settings,
            "threads": cpus,
            "device": spec.device,
        },
    )
    try:
        result = run_child(
            [sys.executable, *spec.program.blender, str(spec_file)],
            work.log,
            spec.limits,
            folder=work.here.path,
            env={"OMP_NUM_THREADS": str(cpus)},
            on_poll=work.deliver,
        )
    finally:
        work.deliver_log()
    on_gpu = spec.device.startswith("gpu")
    if on_gpu and result.reason == "crashed" and GPU_MEMORY.search(result.log_tail):
        result = replace(result, reason="gpu-memory", detail="the GPU ran out of memory")
    return result


def _annotate(spec: AttemptSpec, work: Workspace) -> Result:
    work.log.parent.mkdir(parents=True, exist_ok=True)
    work.log.write_text("stage: annotate\n")
    started, cpu_before = time.monotonic(), time.process_time()
    reason, detail = "ok", ""
    try:
        module, _, function = spec.program.annotate.partition(":")
        annotate_scene = getattr(importlib.import_module(module), function)
        annotate_scene(work.here, from_json(spec.settings))
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        reason, detail = "crashed", f"{type(error).__name__}: {error}".splitlines()[0][:300]
        with open(work.log, "a") as file:
            traceback.print_exc(file=file)
    log_tail = read_tail(work.log)
    work.deliver_log()
    return Result(
        reason=reason,
        detail=detail,
        seconds=time.monotonic() - started,
        cpu_seconds=time.process_time() - cpu_before,
        peak_rss=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        log_tail=log_tail,
    )


@dataclass
class Workspace:
    """A scene on this machine and in OUT, for one attempt.

    Attributes:
        out: The scene in OUT; `here`, on this machine.
        stage, number, token: As in `AttemptSpec`.
        present: Panoramas whose result OUT already has, and `fetched`, those that were fetched as
            inputs.
        delivered: Panoramas that this attempt delivered to OUT, and `bytes`, the size of everything
            that it delivered.
    """

    out: SceneFolder
    here: SceneFolder
    stage: str
    number: int
    token: str = ""
    present: set[int] = field(default_factory=set)
    fetched: set[int] = field(default_factory=set)
    delivered: set[int] = field(default_factory=set)
    bytes: int = 0

    @property
    def log(self) -> Path:
        """Where the log is written: in OUT, or here where OUT is a store, which cannot append."""
        remote = storage.is_remote(self.out.path)
        return log_path(self.here if remote else self.out, self.stage, self.number)

    def fetch(self) -> None:
        """Fetch the stage's inputs; panoramas that need no work become empty folders.

        Raises:
            FileNotFoundError: An input is gone from OUT.
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

    def deliver(self) -> None:
        """Move every panorama that is finished here to OUT.

        Raises:
            AttemptClosedError: The driver closed the attempt.
        """
        if self.stage == "generate":
            return
        marker = MARKERS[self.stage]
        for index in range(viewpoint_count(self.here) or 0):
            folder, out = self._results(self.here, index), self._results(self.out, index)
            if index in self.present | self.delivered or not (folder / marker).exists():
                continue
            for path in sorted(folder.iterdir(), key=lambda path: path.name == marker):
                self._put(path, out / path.name)
            self.delivered.add(index)

    def deliver_scene(self) -> None:
        """Move a generated scene to OUT.

        Raises:
            AttemptClosedError: The driver closed the attempt.
            FileNotFoundError: The stage exited successfully and left no scene.
        """
        self._put(self.here.blend, self.out.blend)
        self._put(self.here.generated, self.out.generated)

    def deliver_log(self) -> None:
        """Copy the log to OUT where it was written here."""
        if storage.is_remote(self.out.path) and self.log.exists():
            storage.put(self.log, log_path(self.out, self.stage, self.number))

    def remove_damaged_inputs(self) -> None:
        """Remove from OUT what the stage found damaged and removed here.

        Raises:
            AttemptClosedError: The driver closed the attempt.
        """
        if self.stage == "render" and not self.here.blend.exists():
            self.check_open()
            storage.remove(self.out.generated)  # the marker first
            storage.remove(self.out.blend)
        for index in self.fetched:
            if not self.here.rendered(index).exists() and not self.here.panorama(index).exists():
                self.check_open()
                storage.remove_folder(self.out.rendered(index), RENDERED)

    def check_open(self) -> None:
        """Raise an AttemptClosedError if the driver closed the attempt."""
        if not is_open(self.out, self.stage, self.number, self.token):
            raise AttemptClosedError(f"the driver closed attempt {self.number} of {self.stage}")

    def _results(self, scene: SceneFolder, index: int) -> Path:
        return scene.rendered(index) if self.stage == "render" else scene.panorama(index)

    def _put(self, local: Path, path: Path) -> None:
        self.check_open()  # before each file: the one before may have been retried for minutes
        size = local.stat().st_size
        storage.put(local, path)
        self.bytes += size


@contextmanager
def workspace(
    out: SceneFolder, stage: str, number: int, scratch: Path | None, token: str = ""
) -> Iterator[Workspace]:
    """A folder to work in, removed afterwards.

    Args:
        out: The scene in OUT.
        stage, number, token: As in `AttemptSpec`.
        scratch: Where the folder is created; None takes the folder for temporary files.
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
            new.rename(folder)  # only now can others find it and try its lock
            here = SceneFolder(folder / "scenes" / out.scene_id)
            yield Workspace(out, here, stage, number, token)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(new, ignore_errors=True)


def sweep(root: Path) -> None:
    """Remove the folders of attempts whose process is gone; the kernel has dropped their locks.

    A folder gets its name only after its file is locked. A folder without a lock file is thus the
    rest of a removal that was killed halfway, or that a dying child still wrote to.
    """
    for folder in root.glob(f"{PREFIX}*"):
        if not WORKSPACE.fullmatch(folder.name):
            continue
        try:
            with open(folder / ".lock", "r+") as lock:
                if storage.try_lock(lock):
                    shutil.rmtree(folder, ignore_errors=True)
        except FileNotFoundError:
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # not ours
            continue
