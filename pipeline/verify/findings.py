"""A finding of the verification: what is wrong, and where."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """An error in a dataset. Locations that do not apply are None.

    Attributes:
        text: What is wrong.
        shard: File name of the shard.
        row: Number of the row in its shard, from 0.
        image_id: The row's image_id.
        object: Instance id.

    >>> print(Finding("area is 5, by the id map 6", "train-00000.parquet", 3, "rooms-1/0", 9))
    train-00000.parquet row 3 (rooms-1/0) object 9: area is 5, by the id map 6
    """

    text: str
    shard: str | None = None
    row: int | None = None
    image_id: str | None = None
    object: int | None = None

    def __str__(self) -> str:
        parts = [self.shard] if self.shard else []
        if self.row is not None:
            parts.append(f"row {self.row}" + (f" ({self.image_id})" if self.image_id else ""))
        if self.object is not None:
            parts.append(f"object {self.object}")
        return f"{' '.join(parts)}: {self.text}" if parts else self.text


Report = Callable[..., None]
"""`report(text, object=None)` records a finding about the current row."""
