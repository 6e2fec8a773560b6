"""Numbers as people read them. Sizes of files are in decimal units, as the Hugging Face Hub's."""

from __future__ import annotations


def format_bytes(size: float) -> str:
    """Format a number of bytes with one decimal.

    >>> format_bytes(0), format_bytes(2_012_699), format_bytes(1_300_000_000_000)
    ('0 bytes', '2.0 MB', '1.3 TB')
    """
    if size < 1000:
        return f"{size:.0f} bytes"
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 1000:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:,.1f} TB"


def format_count(count: int, noun: str) -> str:
    """Format a number of things, with the plural's s.

    >>> format_count(1, "pixel"), format_count(2600, "pixel")
    ('1 pixel', '2,600 pixels')
    """
    return f"{count:,} {noun}{'s' * (count != 1)}"
