"""The folder on its own machine in which an attempt works, and how things get there and back.

    SCRATCH/sap-panorama-<scene_id>-<stage>-<number>-<random>/
      .lock                held (flock) by the attempt; without a holder the folder may go
      scenes/<scene_id>/   laid out as in OUT; what the stage reads is fetched, what it makes is
                           brought

Results go to OUT one by one as they are finished, each with its marker last. What the stage found
damaged and removed here is removed there as well.
"""

from __future__ import annotations

import fcntl
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pipeline import storage
from pipeline.layout import ANNOTATED, RENDERED, SceneFolder
from pipeline.ledger.attempts import is_open
from pipeline.ledger.state import viewpoint_count

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
            fcntl.flock(lock.fileno(), fcntl.LOCK_EX)
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
                fcntl.flock(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except FileNotFoundError:
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # at work, or not ours
            continue
