"""Export shards as a COCO dataset: folders of images, and a JSON per split for COCO's tools.

    folder/
      annotations/instances_<split>.json   for each split that has shards
      <split>/<scene_id>-<k>.<format>      its images; `file_name` is relative to this folder
      .lock                                held (flock) while a process exports here

The JSON has COCO's fields as COCO defines them. Masks are its compressed run-length encoding,
whatever `iscrowd` says: polygons have no holes and would not be exact. pycocotools and supervision
read it. Beside them stand fields of ours, named and meant as in `pipeline.shards.schema`:

| of | our fields |
|---|---|
| info | `source`: the dataset's first scene and its settings hash, which stay as it grows |
| image | `panorama` (the row's `image_id`), `scene_id`, `generator`, `seed`, `camera` |
| annotation | `instance_id` (the value in `ids`), and those of `instances.OBJECT_FIELDS` |
| category | `is_structure`; `supercategory` says the same: "structure" or "object" |

Left out: `date_captured`, `info.year` and `info.date_created`, because nothing was photographed
and equal shards give equal bytes; depth and normals, for which COCO has no place.

Ids count from 1, because COCO's evaluation takes 0 for "none". No id changes when the dataset
grows, which it does at its end only:

- Images and annotations are numbered within their split, in the order of the shards. `panorama`
  also tells an image from those of the other split.
- Categories are the same in all files, used or not: those of `pipeline.categories` in its
  order, then names that are not in it, in the order in which they first appear. For that the
  splits are read side by side, by seed: a scene that is added to one of them comes after all that
  both had before. Export them together.

A row of each split is in memory at a time. An image or JSON is there whole or not at all, and the
JSONs come last. Running the export again writes only the images that are missing or differ; a
folder whose JSONs are of another `source` is refused. Images that the dataset no longer has are
named (`CocoSummary.unlisted`) and stay.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.export.coco_objects import (
    Categories,
    InstancesFile,
    Licence,
    describe,
    refuse_foreign,
)
from pipeline.export.export_rows import IMAGE_NAME, side_by_side, source_of
from pipeline.export.images import FORMATS, ImageFormat, write_image
from pipeline.layout import LEFTOVER, disk_full_as_user_error, only_process
from pipeline.shards.reader import ShardReader
from pipeline.shards.schema import SPLITS
from pipeline.storage import open_atomic


@dataclass(frozen=True)
class CocoSummary:
    """What an export made.

    Attributes:
        images: Images by split; a split without shards is not there.
        annotations: Their annotations, in all.
        categories: Categories in each JSON, used or not.
        written: Images that were written.
        unchanged: Images that were there already.
        unlisted: Images in the folders, named like ours, that are not part of the dataset (any
            more), or are in another format; as <split>/<file>. They may be deleted.
    """

    images: dict[str, int]
    annotations: int
    categories: int
    written: int
    unchanged: int
    unlisted: tuple[str, ...]


def export_coco(
    shards: Path | str,
    folder: Path,
    image_format: ImageFormat = "webp",
    licence: Licence | None = None,
    progress: Callable[[int, int], None] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> CocoSummary:
    """Write a COCO dataset of all splits; running it again goes on, or updates what is there.

    Args:
        shards: What `ShardReader` takes: a folder of shards, or a URL of one.
        folder: Where to; images and JSONs of an earlier export may be there, others stay.
        image_format: "webp" copies the stored bytes; "png" (without loss) and "jpg" (quality 95)
            are for tools that do not read WebP.
        licence: Named in the JSON and for every image; by default no licence is named.
        progress: Called after each image with how many are done, and of how many.
        storage_options: As `ShardReader` takes them.

    Raises:
        UserError: There are no shards, one is damaged, a row is none of ours or its name is not
            safe as a file name, the folder holds another dataset or cannot be written, another
            process exports into it, or the disk is full. The JSONs are then what they were
            before; images that were written stay.
    """
    if image_format not in FORMATS:
        raise UserError(f"image format {image_format!r} is not one of {', '.join(FORMATS)}")
    reader = ShardReader(shards, storage_options=storage_options)
    full = f"no room for the export in {folder}; free some space and run the same command again"
    try:
        with disk_full_as_user_error(full), only_process(folder, "exporting into"):
            return _export(reader, folder, image_format, licence, progress)
    except (FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        raise UserError(
            f"cannot write {error.filename} ({error.strerror}); choose another folder to export to"
        ) from error


def _json_paths(folder: Path) -> dict[str, Path]:
    return {split: folder / "annotations" / f"instances_{split}.json" for split in SPLITS}


def _export(
    reader: ShardReader,
    folder: Path,
    image_format: ImageFormat,
    licence: Licence | None,
    progress: Callable[[int, int], None] | None,
) -> CocoSummary:
    paths, source = _json_paths(folder), source_of(reader)
    for path in paths.values():
        refuse_foreign(path, source)
    _remove_leftovers(folder)
    categories = Categories()
    files: dict[str, set[str]] = {split: set() for split in SPLITS}
    written = done = 0
    with ExitStack() as stack:
        growing = {}
        for split in reader.splits:
            (folder / split).mkdir(exist_ok=True)
            file = stack.enter_context(open_atomic(paths[split]))
            beside = stack.enter_context(tempfile.TemporaryFile(dir=paths[split].parent))
            growing[split] = InstancesFile(file, beside, licence, source)
        for row in side_by_side(reader):
            file_name = f"{row.stem}.{image_format}"
            if file_name in files[row.split]:
                raise UserError(f"{row.place} has the image_id of an earlier one; pack again")
            files[row.split].add(file_name)
            growing[row.split].add(*describe(row, file_name, categories))
            written += write_image(folder / row.split / file_name, row.webp, image_format)
            done += 1
            if progress:
                progress(done, len(reader))
        for instances in growing.values():  # both, so that none takes its place if one has no room
            instances.finish(categories)
    for split in set(SPLITS) - set(growing):
        paths[split].unlink(missing_ok=True)
    return CocoSummary(
        images={split: instances.images for split, instances in growing.items()},
        annotations=sum(instances.annotations for instances in growing.values()),
        categories=len(categories.entries),
        written=written,
        unchanged=done - written,
        unlisted=tuple(_unlisted(folder, files)),
    )


def _remove_leftovers(folder: Path) -> None:
    """Remove what a killed export left half-written; other files are somebody else's."""
    ours = {path.name for path in _json_paths(folder).values()}
    for place in (folder / name for name in ("annotations", *SPLITS)):
        for path in place.iterdir() if place.is_dir() else ():
            found = LEFTOVER.fullmatch(path.name)
            if found and (found["name"] in ours or IMAGE_NAME.fullmatch(found["name"])):
                path.unlink()


def _unlisted(folder: Path, files: Mapping[str, set[str]]) -> Iterator[str]:
    """Images in the folders that are named like ours and are not among `files`."""
    for split, names in files.items():
        for path in sorted((folder / split).iterdir()) if (folder / split).is_dir() else ():
            if IMAGE_NAME.fullmatch(path.name) and path.name not in names:
                yield f"{split}/{path.name}"
