"""Numbers as people read them. Sizes are in binary units throughout the project."""

from __future__ import annotations

GIB = 2**30


def format_bytes(size: float) -> str:
    """Format a number of bytes.

    >>> format_bytes(0), format_bytes(1536), format_bytes(1.3 * 2**40)
    ('0 bytes', '1.5 KiB', '1.3 TiB')
    """
    if size < 1024:
        return f"{size:.0f} bytes"
    for unit in ("KiB", "MiB", "GiB"):
        size /= 1024
        if size < 1024:
            return f"{size:.1f} {unit}"
    return f"{size / 1024:,.1f} TiB"


def format_count(count: int, noun: str) -> str:
    """Format a number of things, with the plural's s.

    >>> format_count(1, "pixel"), format_count(2600, "pixel")
    ('1 pixel', '2,600 pixels')
    """
    return f"{count:,} {noun}{'s' * (count != 1)}"
