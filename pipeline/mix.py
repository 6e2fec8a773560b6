"""Mixes: names with weights, such as `indoors:3,rooms:1`, and the draw of a name by seed."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

from pipeline.errors import UserError

Mix = tuple[tuple[str, float], ...]
"""(name, weight) pairs."""

SHARE_DIGITS = 6
"""Decimals of a name's share in a mix; a smaller share is none."""


def parse_mix(text: str) -> Mix:
    """Parse `indoors` or `indoors:3,rooms:1` into (name, weight) pairs.

    Raises:
        ValueError: A weight is not a number.
    """
    mix = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, weight = part.partition(":")
        try:
            mix.append((name.strip(), float(weight or 1)))
        except ValueError:
            raise ValueError("a name or a mix of names with weights") from None
    return tuple(mix)


def normalise_mix(mix: Mix, setting: str, known: Collection[str]) -> Mix:
    """A mix by name, its weights as shares of 1, so that equal mixes are equal as values.

    Args:
        mix: What the user gave.
        setting: Name of the setting, for messages.
        known: Names that a mix may hold.

    Raises:
        UserError: The mix is empty, or a name or weight is wrong.

    >>> normalise_mix((("rooms", 1), ("indoors", 2)), "GENERATOR", ("indoors", "rooms"))
    (('indoors', 0.666667), ('rooms', 0.333333))
    """
    names = ", ".join(known)
    if not mix:
        raise UserError(f"{setting} is empty; choose from {names}")
    for name, weight in mix:
        if name not in known:
            first, second = (*known, *known)[:2]
            raise UserError(
                f"{setting}={name} is unknown; choose from {names}, "
                f"or a mix such as {first}:3,{second}:1"
            )
        if not 0 < weight < float("inf"):
            raise UserError(
                f"the weight {weight} of {name} in {setting} is out of range; choose a "
                "positive number"
            )
    names_given = [name for name, _ in mix]
    if repeated := [name for name in names_given if names_given.count(name) > 1]:
        raise UserError(f"{setting} names {repeated[0]} twice; give each name one weight")
    total = sum(weight for _, weight in mix)
    shares = {name: round(weight / total, SHARE_DIGITS) for name, weight in sorted(mix)}
    for name, share in shares.items():
        if not share:
            raise UserError(f"{name} is less than a millionth of the mix {setting}; leave it out")
    largest = max(shares, key=lambda name: shares[name])  # takes the rounding, so that 1 is left
    rest = sum(share for name, share in shares.items() if name != largest)
    shares[largest] = round(1 - rest, SHARE_DIGITS)
    return tuple(shares.items())


def format_mix(mix: Mix) -> str:
    """The inverse of `parse_mix`.

    >>> format_mix((("rooms", 0.25), ("spheres", 0.75))), format_mix((("rooms", 1.0),))
    ('rooms:0.25,spheres:0.75', 'rooms')
    """
    if len(mix) == 1:
        return mix[0][0]
    return ",".join(f"{name}:{weight:g}" for name, weight in mix)


def draw_from_mix(mix: Mix, text: str) -> str:
    """The name that a text draws from a normalised mix, by its weights."""
    if len(mix) == 1:
        return mix[0][0]
    digest = hashlib.sha256(text.encode()).digest()
    total = sum(weight for _, weight in mix)
    point = int.from_bytes(digest[:8], "big") / 2**64 * total
    for name, weight in mix:
        point -= weight
        if point < 0:
            return name
    return mix[-1][0]
