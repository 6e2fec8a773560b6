"""Settings as fields of frozen dataclasses: declared once, read from text, checked.

    @dataclass(frozen=True)
    class Preview(Settings):
        limit: int = setting(24, help="panoramas on the page", at_least=1)

The field is the only place where a setting's name, type, default, range, unit and help stand. The
command line, the config file and docs/settings.md are made from it (`pipeline.cli`,
`pipeline.settings_reference`), and every instance is checked, whoever makes it.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import types
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pipeline.errors import UserError

T = TypeVar("T")

SETTING, GROUP = "setting", "group"
"""Keys in a field's metadata."""

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")

TRUE, FALSE = ("1", "true"), ("0", "false")


@dataclass(frozen=True)
class Declaration:
    """What `setting` keeps in a field's metadata; see there."""

    help: str
    unit: str
    at_least: float | None
    at_most: float | None
    above: float | None
    below: float | None
    choices: tuple[Any, ...]
    name: str | None
    parse: Callable[[str], Any] | None
    default_text: str | None
    positional: bool
    repeat: bool
    required: str


def setting(
    default: Any = MISSING,
    *,
    help: str,
    unit: str = "",
    at_least: float | None = None,
    at_most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: Collection[Any] = (),
    name: str | None = None,
    parse: Callable[[str], Any] | None = None,
    default_text: str | None = None,
    positional: bool = False,
    repeat: bool = False,
    required: str = "",
) -> Any:
    """Declare a setting: the value of a dataclass field.

    Args:
        default: None means that the program chooses; `default_text` says what.
        help: What the setting decides, in a few words without the default, unit and range.
        unit: Of the number, for example "pixels" or "GiB".
        at_least, at_most: Inclusive range, also of each item of a tuple.
        above, below: Exclusive range.
        choices: The values that are accepted. A `Literal` type lists them without this.
        name: On the command line, where it differs from the field's name.
        parse: Text → value, for types that `Option.read` does not know. It raises `ValueError`
            with what it expects, for example "a number".
        default_text: The default as help shows it, where the value itself does not say it.
        positional: Also accept the value without its name.
        repeat: May be given several times; `parse` then gets a JSON list. Tuples always may.
        required: An example value. A command without this setting is refused and shows it.
    """
    declaration = Declaration(
        help=help,
        unit=unit,
        at_least=at_least,
        at_most=at_most,
        above=above,
        below=below,
        choices=tuple(choices),
        name=name,
        parse=parse,
        default_text=default_text,
        positional=positional,
        repeat=repeat,
        required=required,
    )
    return dataclasses.field(
        default=None if default is MISSING else default, metadata={SETTING: declaration}
    )


class Settings:
    """Base of dataclasses with settings: refuses values outside of their declared ranges."""

    def __post_init__(self) -> None:
        cls: Any = type(self)
        for option in own_options(cls):
            option.check(getattr(self, option.field))


@dataclass(frozen=True)
class Given(Generic[T]):
    """The settings of a class that the user gave, before the others get their defaults.

    Attributes:
        cls: The class.
        values: Value of each field that was given.
    """

    cls: type[T]
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def build(self, **changes: Any) -> T:
        """The settings, with `changes` in place of what was given or not given."""
        return self.cls(**{**self.values, **changes})


def group(cls: type[T], every: str = "{}", **texts: str) -> Any:
    """Declare a field that holds the settings of another class, as `Given`.

    On the command line they are settings like all others, without a prefix.

    Args:
        cls: The other class.
        every: What this command takes for a setting that is not given; `{}` stands for the
            class's own default.
        texts: The same for single settings, by the name of their field.
    """
    return dataclasses.field(default=Given(cls), metadata={GROUP: (cls, every, texts)})


def like(cls: type, name: str) -> Any:
    """Declare the setting that another class has declared in its field `name`."""
    (field,) = (field for field in fields(cls) if field.name == name)
    return dataclasses.field(default=field.default, metadata=field.metadata)


@dataclass(frozen=True)
class Option:
    """A setting as a command sees it.

    Attributes:
        field: Name of the dataclass field.
        declared: Its declaration.
        type: Its annotation, resolved.
        default: Its default.
        group: Name of the command's field whose `Given` it belongs to; None for the command's own.
        default_text: What the command takes if the setting is not given, in words.
    """

    field: str
    declared: Declaration
    type: Any
    default: Any
    group: str | None = None
    default_text: str | None = None

    @property
    def name(self) -> str:
        """As it is written: `MIN_AREA` in make and messages, `--min-area` on the command line."""
        return (self.declared.name or self.field).upper()

    @property
    def flag(self) -> str:
        return "--" + self.name.lower().replace("_", "-")

    @property
    def choices(self) -> tuple[Any, ...]:
        """The values that are accepted; empty if they are not listed."""
        kind = _item(self.type) if self.is_list else _without_none(self.type)
        return self.declared.choices or (get_args(kind) if get_origin(kind) is Literal else ())

    @property
    def is_list(self) -> bool:
        """Whether its value is a tuple of values that are read one by one."""
        return _is_list(self.type) and self.declared.parse is None

    @property
    def repeats(self) -> bool:
        """Whether it may be given several times."""
        return self.is_list or self.declared.repeat

    @property
    def is_flag(self) -> bool:
        return _without_none(self.type) is bool

    @property
    def shown_default(self) -> str:
        """The default in words; empty where there is none to show."""
        text = self.default_text or self.declared.default_text
        if text is not None or self.default is None:
            return text or ""
        if self.is_flag:
            return "1" if self.default else "0"
        if isinstance(self.default, tuple):
            return ",".join(map(str, self.default))
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)

    @property
    def shown_values(self) -> str:
        """Range, choices or kind of the values, in words.

        >>> [o.shown_values for o in own_options(_Example)]
        ['from 1 to 9 pixels', 'depth, normal']
        """
        declared = self.declared
        if self.choices:
            return ", ".join(map(str, self.choices))
        if self.is_flag:
            return "0 or 1"
        unit = f" {declared.unit}" if declared.unit else ""
        low, high = declared.at_least, declared.at_most
        if low is not None and high is not None:
            return f"from {low:.12g} to {high:.12g}{unit}"
        parts = [
            f"{word} {bound:.12g}"
            for word, bound in (
                ("at least", low),
                ("more than", declared.above),
                ("at most", high),
                ("less than", declared.below),
            )
            if bound is not None
        ]
        return " and ".join(parts) + unit if parts else declared.unit

    def read(self, text: str) -> Any:
        """The value that a text stands for, checked.

        Several values are written in one text between commas, or as a JSON list: `depth,normal`,
        `["my data", "more, of it"]`.

        Raises:
            UserError: The text is empty or stands for no value of this setting.
        """
        if not text.strip():
            raise UserError(f"{self.name} is empty; give it a value, or leave it out")
        try:
            value = self._parse(text)
        except ValueError as error:
            raise UserError(f"{self.name}={text} is not {error}; {self.remedy}") from None
        self.check(value)
        return value

    def _parse(self, text: str) -> Any:
        if self.declared.parse is not None:
            return self.declared.parse(text)
        if not self.is_list:
            return _read_one(_without_none(self.type), text)
        values = tuple(_read_one(_item(self.type), part) for part in split_list(text))
        length = len(get_args(_without_none(self.type)))
        if Ellipsis not in get_args(_without_none(self.type)) and len(values) != length:
            raise ValueError(f"{length} values")
        return values

    @property
    def remedy(self) -> str:
        """What to do about a value that is refused."""
        values = self.shown_values
        if not values and _without_none(self.type) is Path:
            return "give the path of a file or folder in full"
        return f"choose {values}" if values else f"see {self.flag} in --help"

    def check(self, value: Any) -> None:
        """Refuse a value outside of the declared range or choices.

        Raises:
            UserError: With the name, the value and the range.
        """
        if value is None:
            return
        for item in value if self.is_list else (value,):
            if self.choices and item not in self.choices:
                raise UserError(f"{self.name}={item} is unknown; {self.remedy}")
            if isinstance(item, (int, float)) and not self._in_range(item):
                shown = f"{item:g}" if isinstance(item, float) else item
                raise UserError(f"{self.name}={shown} is out of range; {self.remedy}")

    def _in_range(self, value: float) -> bool:
        declared = self.declared
        return (
            math.isfinite(value)
            and (declared.at_least is None or value >= declared.at_least)
            and (declared.at_most is None or value <= declared.at_most)
            and (declared.above is None or value > declared.above)
            and (declared.below is None or value < declared.below)
        )


@cache
def own_options(cls: Any) -> tuple[Option, ...]:
    """The settings that a class declares, without those of its groups."""
    hints = get_type_hints(cls)
    return tuple(
        Option(field.name, field.metadata[SETTING], hints[field.name], field.default)
        for field in fields(cls)
        if SETTING in field.metadata
    )


def options_of(cls: Any) -> dict[str, Option]:
    """Name → setting of a command, its own and those of its groups."""
    found: dict[str, Option] = {}
    for field in fields(cls):
        options = [option for option in own_options(cls) if option.field == field.name]
        if GROUP in field.metadata:
            other, every, texts = field.metadata[GROUP]
            options = [
                dataclasses.replace(
                    option,
                    group=field.name,
                    default_text=texts.get(option.field, every).format(
                        option.shown_default or "none"
                    ),
                )
                for option in own_options(other)
            ]
        for option in options:
            if option.name in found:
                raise TypeError(f"{cls.__name__} declares {option.name} twice")
            found[option.name] = option
    return found


def build(cls: Any, values: Mapping[str, Any]) -> Any:
    """A command's settings.

    Args:
        cls: The command's class.
        values: Name → value of what was given.

    Raises:
        UserError: A value is out of range, or a required setting is missing.
    """
    own: dict[str, Any] = {}
    groups: dict[str, dict[str, Any]] = {}
    for name, option in options_of(cls).items():
        if option.group is not None:
            groups.setdefault(option.group, {})
        if name in values:
            target = own if option.group is None else groups[option.group]
            target[option.field] = values[name]
        elif option.declared.required:
            raise UserError(
                f"{name} is not given; give it, for example {name}={option.declared.required}"
            )
    for field in fields(cls):
        if field.name in groups:
            own[field.name] = Given(field.metadata[GROUP][0], groups[field.name])
    return cls(**own)


def split_list(text: str) -> list[str]:
    """The items of a JSON list, or of a text with commas.

    >>> split_list("depth, normal"), split_list('["a, b", "c"]')
    (['depth', 'normal'], ['a, b', 'c'])
    """
    items = json_list(text)
    return [part.strip() for part in text.split(",") if part.strip()] if items is None else items


def json_list(text: str) -> list[str] | None:
    """The items of a JSON list of texts; None if the text is something else."""
    if not text.lstrip().startswith("["):
        return None
    try:
        items = json.loads(text)
    except ValueError:
        return None
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        return None
    return items


def _read_one(kind: Any, text: str) -> Any:
    if get_origin(kind) is Literal:
        return text
    if kind is bool:
        if text.lower() not in (*TRUE, *FALSE):
            raise ValueError("0 or 1")
        return text.lower() in TRUE
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            raise ValueError("an integer" if kind is int else "a number") from None
    if kind is Path:
        if URL.match(text):
            raise ValueError("a path of this machine but a URL")
        try:
            return Path(text).expanduser()
        except RuntimeError:
            raise ValueError("a path: it begins with a user whose home is unknown") from None
    if kind is str:
        return text
    raise TypeError(f"settings of type {kind} need parse=")


def _without_none(kind: Any) -> Any:
    if get_origin(kind) in (Union, types.UnionType):
        (kind,) = (part for part in get_args(kind) if part is not type(None))
    return kind


def _is_list(kind: Any) -> bool:
    return get_origin(_without_none(kind)) is tuple


def _item(kind: Any) -> Any:
    return get_args(_without_none(kind))[0]


@dataclass(frozen=True)
class _Example(Settings):
    """For the examples in docstrings."""

    width: int = setting(4, help="width", unit="pixels", at_least=1, at_most=9)
    passes: tuple[Literal["depth", "normal"], ...] = setting((), help="passes")
