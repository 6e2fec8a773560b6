"""Where every file of a run lies, and what its presence means.

Files are the truth: a stage is done exactly when its marker exists. A marker is written last,
completely or not at all, and removed first. Nothing else, neither a database nor the memory of a
process, decides what is left to do.

    OUT/                              a folder, or a URL of a store that fsspec reaches
      run.json                        the run's settings; written before the first scene
      driver.lock                     held by the driver that works here; says its host, process and
                                      number of scenes; in a store, driver.lock.<n>
      done/<scene_id>.json            marker: every panorama of the scene is annotated
      failed/<scene_id>.json          marker: quarantined, with the reason and the log's tail
      scenes/<scene_id>/
        scene.blend                   between generate and render; removed when all is done
        scene.json                    marker: generated (instances, viewpoints, costs)
        rendered/<k>/                 image.png, ids.png, *.exr; marker: render.json, panorama k is
                                      rendered
        panoramas/<k>/                image.webp, ids.png, …; marker: row.json, panorama k is
                                      annotated
        attempts/<stage>-<n>.{json,log}   every attempt: when, where, how it ended, what it cost
      scratch/                        unfinished work of a run on this machine
      shards/data/<split>-NNNNN.parquet
      shards/manifest.json            what each shard was made from
      shards/.lock                    held by the process that packs; in a store, .lock.<n>
      preview/index.html
      verified/<shard>.json           what `verify` found in a shard, so as to read it once
      card/                           README.md, LICENSE, statistics.json, figures/
      coco/                           the COCO export
      export/<format>/                other exports
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import storage
from pipeline.errors import UserError
from pipeline.storage import write_atomic

STAGES = ("generate", "render", "annotate")

RENDERED, ANNOTATED = "render.json", "row.json"
"""Markers in rendered/<k>/ and panoramas/<k>/."""

LEFTOVER = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.tmp", re.DOTALL)
"""Names of what a process leaves beside the file `name` if it is killed while it writes it."""


class DamagedFileError(UserError, ValueError):
    """A file of OUT is truncated or was changed.

    Also a ValueError, for the callers who can do without the file.
    """


@dataclass(frozen=True)
class SceneFolder:
    """Paths of one scene."""

    path: Path

    @property
    def scene_id(self) -> str:
        return self.path.name

    @property
    def blend(self) -> Path:
        return self.path / "scene.blend"

    @property
    def generated(self) -> Path:
        return self.path / "scene.json"

    @property
    def done(self) -> Path:
        return self.path.parent.parent / "done" / f"{self.scene_id}.json"

    @property
    def failed(self) -> Path:
        return self.path.parent.parent / "failed" / f"{self.scene_id}.json"

    @property
    def attempts(self) -> Path:
        return self.path / "attempts"

    @property
    def scratch(self) -> Path:
        """Unfinished files, in a scene folder that an attempt works in."""
        return self.path / "scratch"

    def rendered(self, index: int) -> Path:
        return self.path / "rendered" / str(index)

    def panorama(self, index: int) -> Path:
        return self.path / "panoramas" / str(index)

    def is_rendered(self, index: int) -> bool:
        return storage.exists(self.rendered(index) / RENDERED)

    def is_annotated(self, index: int) -> bool:
        return storage.exists(self.panorama(index) / ANNOTATED)


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run."""

    path: Path

    @property
    def settings(self) -> Path:
        return self.path / "run.json"

    @property
    def driver_lock(self) -> Path:
        return self.path / "driver.lock"

    @property
    def scenes(self) -> Path:
        return self.path / "scenes"

    @property
    def done_folder(self) -> Path:
        return self.path / "done"

    @property
    def failed_folder(self) -> Path:
        return self.path / "failed"

    @property
    def scratch(self) -> Path:
        return self.path / "scratch"

    @property
    def shards(self) -> Path:
        return self.path / "shards"

    @property
    def shards_lock(self) -> Path:
        return self.shards / ".lock"

    @property
    def preview(self) -> Path:
        return self.path / "preview"

    @property
    def verified(self) -> Path:
        return self.path / "verified"

    @property
    def card(self) -> Path:
        return self.path / "card"

    @property
    def coco(self) -> Path:
        return self.path / "coco"

    def scene(self, scene_id: str) -> SceneFolder:
        return SceneFolder(self.scenes / scene_id)


def write_json(path: Path, data: Any) -> None:
    """Write JSON atomically; keys are sorted, so equal data gives equal bytes."""
    write_atomic(path, (json.dumps(data, indent=1, sort_keys=True) + "\n").encode())


def read_json(path: Path, remedy: str | None = None) -> dict[str, Any]:
    """Read one of our JSON files, all of which hold an object.

    Args:
        path: The file.
        remedy: What the user can do about a damaged file; by default, delete it.

    Raises:
        DamagedFileError: The file is truncated or holds no JSON object.
        FileNotFoundError: The file is missing.
    """
    remedy = remedy or f"restore it from a copy, or delete {path} and run the same command again"
    try:
        data = json.loads(storage.read_bytes(path))
    except ValueError:  # also raised by bytes that are not UTF-8
        raise DamagedFileError(f"{path} is damaged (truncated, or no JSON); {remedy}") from None
    if not isinstance(data, dict):
        raise DamagedFileError(f"{path} is damaged (no JSON object); {remedy}")
    return data
