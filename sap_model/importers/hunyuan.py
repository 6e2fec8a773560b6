"""Panoramas with one mask per object, as for HunyuanWorld 1.0 (the paper's section 4.2).

The paper generated 100 panoramas of 8K and annotated 264 objects; neither is published, so this
was never tried on them. HunyuanWorld's demo writes each panorama to a separate folder, as
`panorama.png`; the masks are expected beside it:

    SOURCE/<panorama>/panorama.png      or any one picture, whatever its name
    SOURCE/<panorama>/masks/<object>.png

A mask is white on black, or opaque on transparent, in the panorama's size. Its name gives the
category: `chair_2.png` is a chair. Masks may overlap (see `sap_model.importers.annotated_row`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pipeline.annotations.annotate import InstanceInfo
from pipeline.errors import UserError
from sap_model.importers.annotated_row import Found, PictureSource
from sap_model.importers.files import (
    MASKS,
    PICTURES,
    count_others,
    files_of,
    folders_of,
    name_of,
    read_mask,
)
from sap_model.importers.tally import Tally
from sap_model.importers.write_dataset import store


def import_hunyuan(
    source: Path,
    out: Path,
    min_area: int = 1,
    split: str = "validation",
    skip_bad: bool = False,
) -> Tally:
    """Convert folders of panoramas.

    Args:
        source: The folder that holds one folder for each panorama.
        out: Where the shards go.
        min_area: Objects with fewer pixels are left out.
        split: Of all rows.
        skip_bad: Leave out panoramas that are damaged instead of refusing all.

    Raises:
        UserError: A folder has not one picture, or no masks; or as for `store`.
    """
    folders = [folder for folder in folders_of(source) if folder.resolve() != out.resolve()]
    if not folders:
        raise UserError(f"{source} holds no folders; each panorama needs one, with its masks/")
    tally = Tally(skip_bad)
    for path in files_of(source, PICTURES):
        tally.note(str(source), f"pictures outside of a panorama's folder, left out: {path.name}")
    panoramas = _panoramas(folders, tally)
    return store(out, "hunyuan", {}, panoramas, min_area=min_area, split=split, tally=tally)


def _panoramas(folders: list[Path], tally: Tally) -> Iterator[PictureSource]:
    for folder in folders:
        try:
            yield _panorama(folder)
            count_others(folder / "masks", tally)
        except UserError as error:
            tally.bad(str(error))


def _panorama(folder: Path) -> PictureSource:
    pictures = files_of(folder, PICTURES)
    named = [path for path in pictures if path.stem == "panorama"]
    if len(named or pictures) != 1:
        raise UserError(
            f"{folder} holds {len(pictures)} pictures instead of one; name the one panorama.png"
        )
    masks = files_of(folder / "masks", MASKS)
    if not masks:
        raise UserError(f"{folder / 'masks'} holds no masks; each object needs one, as PNG")
    picture = (named or pictures)[0]
    return PictureSource(folder.name, 0, picture, partial(_objects, masks), annotations=len(masks))


def _objects(masks: list[Path], shape: tuple[int, int]) -> Iterator[Found]:
    for label, path in enumerate(masks, start=1):
        yield (
            label,
            InstanceInfo(name_of(path), category_of(name_of(path)), False),
            read_mask(path, shape),
        )


def category_of(name: str) -> str:
    """What a mask's name says it is.

    >>> category_of("dining_chair-02"), category_of("7")
    ('dining chair', 'object')
    """
    words = re.sub(r"[\W_]+", " ", re.sub(r"[\W_]*[0-9]+$", "", name)).strip()
    return words or "object"
