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
from sap_model.importers.files import MASKS, PICTURES, files_of, folders_of, read_mask
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
    folders = folders_of(source)
    if not folders:
        raise UserError(f"{source} holds no folders; each panorama needs one, with its masks/")
    tally = Tally(skip_bad)
    panoramas = _panoramas(folders, tally)
    return store(out, "hunyuan", {}, panoramas, min_area=min_area, split=split, tally=tally)


def _panoramas(folders: list[Path], tally: Tally) -> Iterator[PictureSource]:
    for folder in folders:
        try:
            yield _panorama(folder)
            lossy = set(files_of(folder / "masks", PICTURES)) - set(
                files_of(folder / "masks", MASKS)
            )
            tally.leave_out("masks with loss (JPEG, WebP)", len(lossy))
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
        yield label, InstanceInfo(path.stem, category_of(path.stem), False), read_mask(path, shape)


def category_of(name: str) -> str:
    """What a mask's name says it is.

    >>> category_of("dining_chair-02"), category_of("7")
    ('dining chair', 'object')
    """
    words = re.sub(r"[\W_]+", " ", re.sub(r"[\W_]*[0-9]+$", "", name)).strip()
    return words or "object"
