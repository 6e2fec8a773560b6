"""Instance ids and their two limits: Blender's pass index, and the 16 bits of the id map."""

from __future__ import annotations

MAX_PASS_INDEX = 32_767
"""Largest `pass_index` that Blender stores; larger ids need two of them."""

MAX_INSTANCES = 65_535
"""Largest id of the 16-bit id map."""


def digits_of(number: int) -> tuple[int, int]:
    """Split an instance id into two pass indices: id = high · `MAX_PASS_INDEX` + low.

    >>> digits_of(5), digits_of(32_767), digits_of(32_768)
    ((5, 0), (32767, 0), (1, 1))
    """
    high, low = divmod(number - 1, MAX_PASS_INDEX)
    return low + 1, high
