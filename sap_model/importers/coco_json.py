"""A stranger's COCO JSON, read and checked before any picture is opened.

What is checked here is the file's own order: each id once, and every reference of the type that the
id has. Nothing of that can be skipped, because no annotation could be trusted after it.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import UserError

Entry = dict[str, Any]
Id = int | str

LISTS = ("images", "annotations", "categories")

FLAGS = {0: False, 1: True, "0": False, "1": True, "false": False, "true": True, "": False}
"""What tools write for a flag, in small letters; True and False are 1 and 0 to Python."""


@dataclass(frozen=True)
class CocoFile:
    """The lists of a file, with unique ids.

    Attributes:
        path: The file.
        images, annotations, categories: Its entries.
        images_by_id, categories_by_id: Places in these lists.
    """

    path: Path
    images: list[Entry]
    annotations: list[Entry]
    categories: list[Entry]
    images_by_id: Mapping[float | str, int]
    categories_by_id: Mapping[float | str, int]


def read_coco(path: Path) -> CocoFile:
    """Read a file and check its ids.

    Raises:
        UserError: It is no COCO JSON, an object has a key twice, or ids are not unique.
    """
    data = _parse(path)
    if not isinstance(data, dict) or not all(isinstance(data.get(name), list) for name in LISTS):
        raise UserError(f"{path} is no COCO JSON: lists {', '.join(LISTS)} are expected; export it")
    for name in LISTS:
        for index, entry in enumerate(data[name]):
            if not isinstance(entry, dict):
                raise UserError(f"{path}: {name}[{index}] is {shown(entry)}, no object; correct it")
    lists = {name: data[name] for name in LISTS}
    places = {name: _unique_ids(path, name, lists[name]) for name in LISTS}
    for index, category in enumerate(lists["categories"]):
        if not isinstance(category.get("name"), str):
            name = shown(category["name"]) if "name" in category else "missing"
            raise UserError(f"{path}: categories[{index}].name is {name}; give it a text")
    return CocoFile(
        path, **lists, images_by_id=places["images"], categories_by_id=places["categories"]
    )


def _parse(path: Path) -> Any:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(f"{path} is no file; name the JSON")
        return json.loads(path.read_bytes(), object_pairs_hook=_checked_object)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; correct SOURCE") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} is no JSON: {error.msg} in line {error.lineno}; export it again"
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is no JSON in UTF-8; export it again") from None
    except (RecursionError, ValueError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise UserError(f"{path}: {reason[:200]}; correct it") from None


def _checked_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    for key, value in pairs:
        for text in (key, value):
            if isinstance(text, str) and not text.isascii():
                try:
                    text.encode()
                except UnicodeEncodeError:
                    raise ValueError(f"{text!a} holds half of a character") from None
    entry = dict(pairs)
    if len(entry) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} is twice in one object")
    return entry


def _unique_ids(path: Path, name: str, entries: Sequence[Entry]) -> dict[float | str, int]:
    """The place of each id; ids that differ only in type count as the same."""
    by_text: dict[str, int] = {}
    for index, entry in enumerate(entries):
        number = entry.get("id")
        if isinstance(number, bool) or not isinstance(number, int | str):
            wrong = f"has the id {shown(number)}" if "id" in entry else "has no id"
            raise UserError(f"{path}: {name}[{index}] {wrong}; give it an integer")
        first = by_text.setdefault(str(number), index)
        if first != index:
            raise UserError(
                f"{path}: {name}[{first}] and {name}[{index}] have the same id {shown(number)}; "
                "give each its own"
            )
    return {entries[index]["id"]: index for index in by_text.values()}


def place_of(file: CocoFile, index: int, field: str) -> int | None:
    """The place in `images` or `categories` that an annotation refers to.

    Args:
        file: The file.
        index: The annotation's place.
        field: "image_id" or "category_id".

    Returns:
        None where no entry has that id.

    Raises:
        UserError: An entry has that id in another type.
    """
    name, places, entries = (
        ("images", file.images_by_id, file.images)
        if field == "image_id"
        else ("categories", file.categories_by_id, file.categories)
    )
    number = file.annotations[index].get(field)
    if isinstance(number, bool) or not isinstance(number, int | float | str):
        return None
    place = places.get(number)
    if place is None:
        place = places.get(_in_other_type(number))
    if place is None or type(entries[place]["id"]) is type(number):
        return place
    raise UserError(
        f"{file.path}: annotations[{index}].{field} is {shown(number)} but {name}[{place}].id is "
        f"{shown(entries[place]['id'])}; write both as numbers or both as text"
    )


def _in_other_type(number: float | str) -> Id:
    """A number as text, and text as the number that it holds."""
    if isinstance(number, str):
        return int(number) if re.fullmatch(r"\s*-?[0-9]{1,29}\s*", number) else ""
    return str(int(number)) if number == number // 1 else ""


def flag_of(value: Any) -> bool | None:
    """A flag as tools write it: number, text, boolean or nothing; None for anything else.

    >>> flag_of("0"), flag_of(1.0), flag_of("TRUE"), flag_of("maybe")
    (False, True, True, None)
    """
    if value is None:
        return False
    key = value.strip().lower() if isinstance(value, str) else value
    return FLAGS.get(key) if isinstance(key, int | float | str) else None


def shown(value: Any) -> str:
    """A value for a message, as JSON and not long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:60]}…"
