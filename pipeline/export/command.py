"""The formats of `sap-panorama export`, and the settings that each of them has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipeline.config import Export
from pipeline.errors import UserError
from pipeline.export.fiftyone import FiftyOneExport
from pipeline.export.perspective import PerspectiveExport
from pipeline.export.reconstruction import ColmapExport, NerfstudioExport
from pipeline.export.resumable import Exporter, export_rows
from pipeline.export.webdataset import export_webdataset
from pipeline.export.yolo import YoloExport
from pipeline.shards.reader import ShardReader

DEFAULT_SIZE = 1024
DEFAULT_FOV = 90.0

TAKES: dict[str, tuple[str, ...]] = {
    "perspective": ("size", "fov", "categories"),
    "cubemap": ("size", "categories"),
    "yolo-seg": ("categories",),
    "webdataset": (),
    "nerfstudio": ("size",),
    "colmap": ("size",),
    "fiftyone": ("categories",),
}
"""Settings that a format has, beside those of all."""


def export_dataset(
    options: Export,
    shards: Path | str,
    folder: Path,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> int:
    """Export shards into a folder; returns the number of panoramas that were written now.

    Raises:
        UserError: A setting is given that the format does not have; otherwise as `export_rows`.
    """
    for name in ("size", "fov", "categories"):
        if getattr(options, name) is not None and name not in TAKES[options.format]:
            raise UserError(
                f"{name.upper()}={getattr(options, name)} is given, and FORMAT={options.format} "
                "does not use it; leave it out"
            )
    if options.format == "webdataset":
        return export_webdataset(shards, folder, progress=progress)
    return export_rows(shards, folder, _exporter(options, shards), progress)


def _exporter(options: Export, shards: Path | str) -> Exporter:
    size, categories = options.size or DEFAULT_SIZE, options.categories or "own"
    if options.format in ("perspective", "cubemap"):
        fov = options.fov or DEFAULT_FOV
        return PerspectiveExport(size, fov, categories, cube=options.format == "cubemap")
    if options.format == "yolo-seg":
        return YoloExport(categories)
    if options.format == "fiftyone":
        return FiftyOneExport(categories)
    depth = "depth" in ShardReader(shards).row(0)
    if options.format == "nerfstudio":
        return NerfstudioExport(size, depth)
    return ColmapExport(size, depth)
