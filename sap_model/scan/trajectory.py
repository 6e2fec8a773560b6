"""The scanning trajectory (paper, section 3.5 and appendix B): which views, in which order.

Angles are degrees, as in the paper. The yaw of a view is the longitude of its centre and grows to
the right; its pitch is the latitude of its centre, positive above the horizon. The grid:

    step    = fov * (1 - overlap)
    columns = 360 / step                    yaw   0, step, 2 step, …
    rows    = (180 - fov) / step + 1        pitch -(90 - fov / 2), …, +(90 - fov / 2)

The paper's text has lost the yaw at which a scan starts. Ours starts at 0, the centre of the
panorama; -180, the other likely number, lies on the same grid in every scan of the paper's
table 8, so that the set of views is the same and only the first index differs, which a cyclic
start makes up for.

Column-first, the order of the paper: up the first column, one step to the right, down the second,
and so on. One angle changes per step, and with an even number of columns the last view is one step
from the first, so that the scan can begin anywhere. Row-first is the ablation: a whole circle to
the right, one step up, a circle to the left. It does not close.

With overlap 0 the views do not cover the sphere, although the paper's appendix B says so: the lower
corners of a 90° view at pitch 45° lie on the horizon at ±35.3° instead of ±45°. 8 views leave four
gaps, each 19.5° wide on the horizon and 32° high, in all 3.1 % of the sphere.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from pipeline.errors import UserError

Order = Literal["column", "row"]

FITS = 1e-6
"""How far, in steps, columns and rows may be from integers: room for 2/3 in floating point."""


class View(NamedTuple):
    """Where one view of a scan looks."""

    yaw: float
    """Longitude of its centre in degrees, in [0, 360)."""
    pitch: float
    """Latitude of its centre in degrees."""
    column: int
    """Number of its yaw: yaw = column * 360 / columns, exactly."""
    row: int
    """Number of its pitch, from the lowest one up."""


@dataclass(frozen=True)
class Scan:
    """A grid of square views and the order in which they are visited. Hashable, cheap to make.

    >>> scan = Scan()
    >>> scan.rows, scan.columns, len(scan), scan.step, scan.closes
    (3, 8, 24, 45.0, True)
    >>> [(view.yaw, view.pitch) for view in scan.views[:4]]
    [(0.0, -45.0), (0.0, 0.0), (0.0, 45.0), (45.0, 45.0)]
    """

    fov: float = 90.0
    """Horizontal and vertical field of view in degrees."""
    overlap: float = 0.5
    """Share of the field of view by which neighbours overlap, in [0, 1)."""
    order: Order = "column"
    """"column": up and down, column by column (the paper's); "row": row by row."""

    def __post_init__(self) -> None:
        if self.order not in ("column", "row"):
            raise UserError(f"order {self.order!r} of a scan: choose 'column' or 'row'")
        if not 0 < self.fov < 180:
            raise UserError(f"fov {self.fov:g}° of a scan: choose more than 0° and less than 180°")
        if not 0 <= self.overlap < 1:
            raise UserError(f"overlap {self.overlap:g} of a scan: choose 0 <= overlap < 1")
        step = self.fov * (1 - self.overlap)
        for name, intervals in (("360°", 360 / step), ("180° - fov", (180 - self.fov) / step)):
            if abs(intervals - round(intervals)) > FITS * max(1.0, intervals):
                raise UserError(
                    f"fov {self.fov:g}° with overlap {self.overlap:g}: steps of {step:g}° do not "
                    f"divide {name} evenly; choose fov and overlap so that fov * (1 - overlap) does"
                )

    @cached_property
    def columns(self) -> int:
        """Number of different yaws."""
        return round(360 / (self.fov * (1 - self.overlap)))

    @cached_property
    def rows(self) -> int:
        """Number of different pitches."""
        return round((180 - self.fov) / (self.fov * (1 - self.overlap))) + 1

    @property
    def step(self) -> float:
        """Angle between neighbouring views in degrees, both ways."""
        return 360 / self.columns

    @property
    def closes(self) -> bool:
        """Whether the last view is one step from the first, so that any start serves as well."""
        return self.order == "column" and self.columns % 2 == 0

    def __len__(self) -> int:
        return self.columns * self.rows

    @cached_property
    def views(self) -> tuple[View, ...]:
        """All N = columns * rows views in the order of the scan."""
        if self.order == "column":
            cells = [
                (column, row if column % 2 == 0 else self.rows - 1 - row)
                for column in range(self.columns)
                for row in range(self.rows)
            ]
        else:
            cells = [
                (column if row % 2 == 0 else self.columns - 1 - column, row)
                for row in range(self.rows)
                for column in range(self.columns)
            ]
        lowest = self.fov / 2 - 90
        return tuple(
            View(column * 360 / self.columns, lowest + row * self.step, column, row)
            for column, row in cells
        )

    def window(self, start: int, length: int | None = None) -> tuple[int, ...]:
        """Indices of `length` views (one cycle by default) that follow each other from `start` on.

        This is a stretch of the endlessly repeated scan. A window of N or more views, from any
        start, holds every view.

        >>> Scan().window(22, 4)
        (22, 23, 0, 1)
        """
        length = len(self) if length is None else length
        return tuple((start + k) % len(self) for k in range(length))

    def cyclic(self, start: int = 0, cycles: int = 2) -> tuple[int, ...]:
        """Indices of `cycles` whole scans from `start` on: the paper trains and predicts with 2."""
        return self.window(start, cycles * len(self))
