"""Export shards as a COCO dataset: folders of images, and one JSON per split for COCO's tools.

    folder/
      annotations/instances_<split>.json   for each split that has shards
      <split>/<scene_id>-<k>.<format>      its images; `file_name` is relative to this folder
      .lock                                held (flock) while a process exports into the folder

The JSON has COCO's fields as COCO defines them. Masks are compressed run-length encodings whatever
`iscrowd` says, because polygons cannot represent holes exactly. pycocotools and supervision read
them. Additional fields have the names and meanings of `pipeline.shards.schema`:

| in | additional fields |
|---|---|
| info | `source`: the dataset's first scene and settings hash, which stay the same as it grows |
| image | `panorama` (the row's `image_id`), `scene_id`, `generator`, `seed`, `camera` |
| annotation | `instance_id` (the value in `ids`), `category` (our name), the 3D fields, and
`instances_json.OBJECT_FIELDS` |
| category | `is_structure`; `supercategory` is "structure" or "object" accordingly |

Not exported: `date_captured`, `info.year` and `info.date_created`, so that equal shards give equal
bytes; depth and normals, which COCO does not define.

Ids start at 1, because COCO's evaluation treats 0 as "none". They stay the same when the dataset
grows, which it does at its end only:

- Images and annotations are numbered per split, in the order of the shards. Only `panorama` is
  unique across splits.
- Categories are equal in all files, used or not: first those of `pipeline.categories` in its order,
  then other names in order of first appearance. For this, the splits are read in parallel, merged
  by seed, so that a new scene of either split comes after all earlier ones. Export all splits
  together. The categories of another taxonomy have the ids that they have there.

One row per split is in memory at a time. Files are written atomically, the JSONs last. A repeated
export writes only images that are missing or changed, and refuses a folder whose JSONs have another
`source`. Images that the dataset no longer contains stay, and are reported
(`CocoSummary.unlisted`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from pipeline.card.licences import Licence
from pipeline.errors import UserError
from pipeline.export.dataset_rows import IMAGE_NAME, dataset_source, merged_rows
from pipeline.export.images import FORMATS, ImageFormat, write_image
from pipeline.export.instances_json import (
    Categories,
    InstancesJson,
    check_existing_json,
    make_entries,
)
from pipeline.layout import LEFTOVER
from pipeline.shards.reader import ShardReader
from pipeline.shards.schema import SPLITS
from pipeline.storage import disk_full_as_user_error, exclusive_lock, open_atomic


@dataclass(frozen=True)
class CocoSummary:
    """The result of an export.

    Attributes:
        images: Number of images by split, without splits that have no shards.
        annotations: Number of annotations of all splits.
        omitted: Number of objects without a category in the taxonomy.
        categories: Number of categories in each JSON, used or not.
        written: Number of images written.
        unchanged: Number of images that existed already.
        unlisted: Images in the folder, as `<split>/<file>`, that are named like the export's but
            are no longer part of the dataset or have another format. They may be deleted.
    """

    images: dict[str, int]
    annotations: int
    omitted: int
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
    taxonomy: str = "own",
) -> CocoSummary:
    """Write all splits as a COCO dataset. A repeated export resumes or updates the folder.

    Args:
        shards: A folder or URL of shards, as for `ShardReader`.
        folder: The output folder. Files that the export did not write stay untouched.
        image_format: "webp" copies the stored bytes; "png" (lossless) and "jpg" (quality 95) are
            for tools that cannot read WebP.
        licence: The dataset's licence, recorded in each JSON and for each image.
        progress: Called after each image with the number of finished images and the total.
        taxonomy: "own", or the taxonomy whose categories the annotations get.

    Raises:
        UserError: There are no shards, a shard is damaged, a row does not fit the schema or its
            name is unsafe, the folder holds another dataset or is not writable, another process
            exports into it, or the disk is full. The JSONs then stay as they were; images that
            were written stay.
    """
    if image_format not in FORMATS:
        raise UserError(f"FORMAT={image_format} is unknown; choose one of {', '.join(FORMATS)}")
    reader = ShardReader(shards)
    full = f"no room for the export in {folder}; free some space and run the same command again"
    try:
        with disk_full_as_user_error(full), exclusive_lock(folder / ".lock", "exporting into"):
            return _export(reader, folder, image_format, licence, progress, taxonomy)
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
    taxonomy: str,
) -> CocoSummary:
    paths, source = _json_paths(folder), dataset_source(reader)
    for path in paths.values():
        check_existing_json(path, source)
    _remove_leftovers(folder)
    categories = Categories(taxonomy)
    files: dict[str, set[str]] = {split: set() for split in SPLITS}
    written = done = things = 0
    with ExitStack() as stack:
        jsons = {}
        for split in reader.splits:
            (folder / split).mkdir(exist_ok=True)
            file = stack.enter_context(open_atomic(paths[split]))
            spool = stack.enter_context(tempfile.TemporaryFile(dir=paths[split].parent))
            jsons[split] = InstancesJson(file, spool, licence, source)
        for row in merged_rows(reader):
            file_name = f"{row.stem}.{image_format}"
            if file_name in files[row.split]:
                raise UserError(f"{row.place} repeats an earlier image_id; pack again")
            files[row.split].add(file_name)
            jsons[row.split].add(*make_entries(row, file_name, categories))
            things += len(row.values["objects"])
            written += write_image(folder / row.split / file_name, row.webp, image_format)
            done += 1
            if progress:
                progress(done, len(reader))
        for instances in jsons.values():  # before either is renamed, in case the disk fills up
            instances.finish(categories)
    for split in set(SPLITS) - set(jsons):
        paths[split].unlink(missing_ok=True)
    annotations = sum(instances.annotations for instances in jsons.values())
    return CocoSummary(
        images={split: instances.images for split, instances in jsons.items()},
        annotations=annotations,
        omitted=things - annotations,
        categories=len(categories.entries),
        written=written,
        unchanged=done - written,
        unlisted=tuple(_unlisted(folder, files)),
    )


def _remove_leftovers(folder: Path) -> None:
    """Remove temporary files of a killed export; leave files of other programs."""
    json_names = {path.name for path in _json_paths(folder).values()}
    for place in (folder / name for name in ("annotations", *SPLITS)):
        for path in place.iterdir() if place.is_dir() else ():
            found = LEFTOVER.fullmatch(path.name)
            if found and (found["name"] in json_names or IMAGE_NAME.fullmatch(found["name"])):
                path.unlink()


def _unlisted(folder: Path, files: Mapping[str, set[str]]) -> Iterator[str]:
    """Images in the folder that are named like the export's and are not among `files`."""
    for split, names in files.items():
        for path in sorted((folder / split).iterdir()) if (folder / split).is_dir() else ():
            if IMAGE_NAME.fullmatch(path.name) and path.name not in names:
                yield f"{split}/{path.name}"
