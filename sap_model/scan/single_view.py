"""A panorama as one square image: what SAM2 does with it without a scan.

SAM2's image predictor stretches any image to the model's square input, which squeezes a panorama to
half its width: "stretch". The paper (introduction) describes the other way, to fit the width and to
leave the lower half empty: "pad". Stretching uses all pixels of the input, padding keeps shapes.
"""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sap_model.model.tracker import MEAN
from sap_model.scan.trajectory import Scan
from sap_model.scan.views import Fusion, Sighting

Fit = Literal["stretch", "pad"]


class OneView:
    """The trajectory of a still image: one frame, however many cycles."""

    def __len__(self) -> int:
        return 1

    def cyclic(self, start: int = 0, cycles: int = 2) -> tuple[int, ...]:
        """The one frame."""
        return (0,)


class WholeView:
    """The one view of a panorama W × W / 2 as an image L × L; it knows nothing of the seam.

    Points and masks pass between panorama and view as `sap_model.scan.views.Projector` has it.

    Args:
        scan: Ignored; all kinds of views take it.
        size, width: L and W.
        fit: "stretch" or "pad".
    """

    def __init__(self, scan: Scan, size: int, width: int, fit: Fit = "stretch") -> None:
        self.scan = OneView()
        self.size, self.width, self.height = size, width, width // 2
        self.rows = size if fit == "stretch" else size // 2
        """Rows of the view that show the panorama; below them lies padding."""

    def render(self, panorama: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The view (1, L, L, 3) of a panorama (H, W, 3), resized like SAM2's images: bilinear, with
        antialiasing. The padding is the mean colour, which normalises to about 0."""
        small = Image.fromarray(panorama).resize((self.size, self.rows), Image.Resampling.BILINEAR)
        view = np.empty((1, self.size, self.size, 3), np.uint8)
        view[0, : self.rows] = small
        view[0, self.rows :] = np.round(255 * np.array(MEAN))
        return view

    def render_ids(self, ids: NDArray) -> NDArray:
        """The view (1, L, L) of an id map or mask (H, W): the pixel at each centre."""
        x = (np.arange(self.size) + 0.5) * self.width / self.size
        y = (np.arange(self.rows) + 0.5) * self.height / self.rows
        view = np.zeros((1, self.size, self.size), ids.dtype)
        view[0, : self.rows] = ids[np.ix_(y.astype(int), x.astype(int))]
        return view

    def visible(self, x: float, y: float) -> list[Sighting]:
        """Where a panorama pixel lies in the view: always somewhere."""
        u = (x % self.width + 0.5) * self.size / self.width - 0.5
        v = (y + 0.5) * self.rows / self.height - 0.5
        return [Sighting(0, float(np.clip(u, 0, self.size - 1)), float(np.clip(v, 0, None)))]

    def to_panorama(self, masks: NDArray, fusion: Fusion = "max") -> NDArray[np.bool_]:
        """Mask (H, W) of a mask (1, L, L), bool or float in [0, 1]."""
        return self.soft_panorama(masks, fusion) >= 0.5

    def soft_panorama(self, masks: NDArray, fusion: Fusion = "max") -> NDArray[np.float32]:
        """Soft mask (H, W), bilinear; there is nothing to fuse."""
        shown = masks[0, : self.rows].astype(np.float32)
        whole = np.empty((self.height, self.width), np.float32)
        cv2.resize(shown, (self.width, self.height), dst=whole, interpolation=cv2.INTER_LINEAR)
        return whole
