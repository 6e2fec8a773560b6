"""Instance ids and the two limits they live under: Blender's pass index, and 16 bits."""

from __future__ import annotations

MAX_PASS_INDEX = 32_767
"""Largest `pass_index` that Blender stores; ids beyond it take two digits."""

MAX_INSTANCES = 65_535
"""Largest id of the 16-bit id map."""


def digits_of(number: int) -> tuple[int, int]:
    """An instance id as two pass indices, low and high: id = high · `MAX_PASS_INDEX` + low.

    >>> digits_of(5), digits_of(32_767), digits_of(32_768)
    ((5, 0), (32767, 0), (1, 1))
    """
    high, low = divmod(number - 1, MAX_PASS_INDEX)
    return low + 1, high
