"""Panoramas that are written for people: JPEG, PNG and WebP that viewers show as panoramas."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipeline.pictures.gpano import Window, gpano_xmp

JPEG_QUALITY = 95
PNG_LEVEL = 1
"""zlib's quickest."""


def encode_panorama(image: NDArray[np.uint8], suffix: str, window: Window | None = None) -> bytes:
    """A file of a panorama with GPano metadata.

    Args:
        image: (H, W, 3) uint8 RGB.
        suffix: ".jpg", ".jpeg", ".png" (lossless) or ".webp" (lossless).
        window: Where the image lies on its sphere; None is the whole sphere.

    Raises:
        ValueError: Another suffix.
    """
    picture = Image.fromarray(np.ascontiguousarray(image))
    sphere = window or Window(0, 0, picture.width, picture.height)
    xmp = gpano_xmp(sphere, picture.width, picture.height)
    file = io.BytesIO()
    match suffix.lower():
        case ".jpg" | ".jpeg":
            picture.save(file, "JPEG", quality=JPEG_QUALITY, subsampling="4:4:4", xmp=xmp)
        case ".png":
            text = PngInfo()
            text.add_itxt("XML:com.adobe.xmp", xmp.decode())
            picture.save(file, "PNG", compress_level=PNG_LEVEL, pnginfo=text)
        case ".webp":
            picture.save(file, "WEBP", lossless=True, method=0, quality=20, xmp=xmp)
        case _:
            raise ValueError(f"no panoramas as {suffix}")
    return file.getvalue()
