"""The work of `views` in torch, on any device: a twin that reads from the same tables.

Positions are those of the NumPy side, rounded to 1/32 pixel in the same way; what is left is the
rounding of float32 positions in `grid_sample`, at most 5e-4 pixels in an 8K panorama. So

- views, rounded, differ by at most one grey level, and by none in all but a few pixels in 1,000;
  where they are antialiased (`maps`) the NumPy side rounds twice, so more pixels differ;
- ids are the same;
- soft masks differ by at most 2e-3 (the NumPy side counts bool masks in steps of 1/255), and masks
  only where the soft mask is that close to 0.5.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.errors import UserError
from sap_model.scan.fusion import pieces
from sap_model.scan.maps import RemapTable
from sap_model.scan.views import Fusion, MappedViews

TIE = 2.0**-12
"""Rounding that a bool mask's 0.5 may suffer; its soft mask is a multiple of 2^-10 in each view."""


class TorchViews:
    """Renders and fuses like the `MappedViews` it is made from, with tensors on one device.

    Keeps 8 bytes per table entry on the device: 67 MB for the default scan at 4K and L = 1024.
    """

    def __init__(self, views: MappedViews, device: torch.device | str = "cpu") -> None:
        self.views = views
        self.device = torch.device(device)
        kinds = len({(place.pitch, place.fraction) for place in views.maps.places})
        self._reading = lru_cache(kinds)(self._make_reading)
        self._nearest = lru_cache(kinds)(self._make_nearest)
        self._writing = lru_cache(kinds)(self._make_writing)
        self._counts: Tensor | None = None

    @torch.no_grad()
    def render(self, panorama: Tensor) -> Tensor:
        """Views (N, C, L, L) of a panorama (C, H, W) of any dtype: bilinear, float32."""
        padded = self._pad(panorama.to(self.device, torch.float32))
        size = self.views.size
        views = padded.new_empty((len(self.views), len(panorama), size, size))
        for view, strip, place in zip(
            views, self._strips(padded), self.views.maps.places, strict=True
        ):
            fine = _sample(strip[None], self._reading(place.pitch, place.fraction))
            view[:] = functional.avg_pool2d(fine, self.views.maps.samples)[0]
        return views

    @torch.no_grad()
    def render_ids(self, ids: Tensor) -> Tensor:
        """Views (..., N, L, L) of id maps or masks (..., H, W), nearest pixel, same dtype."""
        padded = self._pad(ids.to(self.device))
        views = []
        for strip, place in zip(self._strips(padded), self.views.maps.places, strict=True):
            column, row = self._nearest(place.pitch, place.fraction)
            views.append(strip[..., row, column])
        return torch.stack(views, dim=-3)

    @torch.no_grad()
    def soft_panorama(self, masks: Tensor, fusion: Fusion = "max") -> Tensor:
        """Soft masks (O, H, W) float32 of O objects' masks (O, N, L, L), bool or float in [0, 1].

        Takes O panoramas of float32 (34 MB each at 4K), and one view's part of them.
        """
        if fusion not in ("max", "mean"):
            raise UserError(f"fusion {fusion!r}: choose 'max' or 'mean'")
        due = (len(self.views), self.views.size, self.views.size)
        if masks.ndim != 4 or masks.shape[1:] != due:
            raise UserError(f"masks of shape {tuple(masks.shape)}: (objects, {str(due)[1:]} due")
        width = self.views.width
        total = torch.zeros((len(masks), self.views.height, width), device=self.device)
        filled = masks.transpose(0, 1).flatten(1).any(dim=1).tolist()  # one look, not one per view
        for i, place in enumerate(self.views.maps.places):
            if not filled[i]:
                continue
            (top, bottom, west, east), _ = self.views.maps.writing(place.pitch, place.fraction)
            grid = self._writing(place.pitch, place.fraction)
            values = _sample(masks[:, i : i + 1].to(self.device, torch.float32), grid)[:, 0]
            for here, there in pieces(place.column + west, east - west, width):
                target = total[:, top:bottom, here]
                if fusion == "max":
                    torch.maximum(target, values[..., there], out=target)
                else:
                    target += values[..., there]
        if fusion == "mean":
            if self._counts is None:
                counts = torch.from_numpy(self.views.counts()).to(self.device)
                self._counts = counts.clamp(min=1)
            total /= self._counts
        return total

    def to_panorama(self, masks: Tensor, fusion: Fusion = "max") -> Tensor:
        """Masks (O, H, W) bool of O objects' masks (O, N, L, L): soft masks of at least 0.5."""
        soft = self.soft_panorama(masks, fusion)
        return soft >= (0.5 - TIE if masks.dtype == torch.bool else 0.5)

    def _pad(self, panorama: Tensor) -> Tensor:
        """`views.pad` for the last two axes."""
        if panorama.shape[-2:] != (self.views.height, self.views.width):
            found = " × ".join(map(str, panorama.shape[-2:]))
            due = f"{self.views.height} × {self.views.width}"
            raise UserError(f"panorama of {found} pixels (H × W): {due} due")
        beyond = [panorama[..., row : row + 1, :] for row in (0, self.views.height - 1)]
        above, below = (row.roll(self.views.width // 2, dims=-1) for row in beyond)
        padded = torch.cat([above, panorama, below], dim=-2)
        right = padded[..., : self.views.maps.strip]
        if right.shape[-1] < self.views.maps.strip:  # a tiny panorama goes round more than once
            columns = torch.arange(self.views.maps.strip, device=padded.device)
            right = padded[..., columns % self.views.width]
        return torch.cat([padded, right], dim=-1)

    def _strips(self, padded: Tensor) -> Iterator[Tensor]:
        for place in self.views.maps.places:
            start = (place.column - self.views.maps.reach) % self.views.width
            yield padded[..., start : start + self.views.maps.strip]

    def _make_reading(self, pitch: float, fraction: Fraction) -> Tensor:
        maps = self.views.maps
        table = maps.reading(pitch, fraction)
        return self._grid(table, maps.strip, maps.height + 2)

    def _make_nearest(self, pitch: float, fraction: Fraction) -> tuple[Tensor, Tensor]:
        nearest = self.views.maps.nearest(pitch, fraction)
        column, row = torch.from_numpy(nearest).to(self.device, torch.int64).unbind(-1)
        return column, row

    def _make_writing(self, pitch: float, fraction: Fraction) -> Tensor:
        _, table = self.views.maps.writing(pitch, fraction)
        return self._grid(table, self.views.size, self.views.size)

    def _grid(self, table: RemapTable, width: int, height: int) -> Tensor:
        """A table as `grid_sample` wants it: (h, w, 2), from -1 at the first centre to 1."""
        fraction = np.stack([table.fraction & 31, table.fraction >> 5], axis=-1) / 32
        positions = (table.whole + fraction) / [(width - 1) / 2, (height - 1) / 2] - 1
        return torch.from_numpy(positions).to(self.device, torch.float32)


def _sample(images: Tensor, grid: Tensor) -> Tensor:
    """Images (B, C, H, W) at the positions of one grid (h, w, 2); zero outside."""
    return functional.grid_sample(
        images, grid.expand(len(images), -1, -1, -1), padding_mode="zeros", align_corners=True
    )
