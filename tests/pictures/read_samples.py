"""Pictures that are read as the panorama of 128 × 64 pixels."""

from __future__ import annotations

import zlib

import numpy as np
from PIL import Image, ImageCms

from tests.pictures.metadata_samples import TURNED
from tests.pictures.samples import (
    H,
    Maker,
    W,
    before_end,
    by_opencv,
    changed,
    encoded,
    exif,
    panorama,
    saved,
    stored_for,
    tiff,
    with_chunk,
)

READ: dict[str, tuple[str, Maker]] = {
    "JPEG": ("a.jpg", saved("JPEG", quality=100, subsampling=0)),
    "progressive JPEG": ("a.jpg", saved("JPEG", quality=100, subsampling=0, progressive=True)),
    "JPEG with restart markers": (
        "a.jpg",
        saved("JPEG", quality=100, subsampling=0, restart_marker_rows=1),
    ),
    "JPEG named .png": ("a.png", saved("JPEG", quality=100, subsampling=0)),
    "JPEG without suffix": ("a", saved("JPEG", quality=100, subsampling=0)),
    "JPEG with zeros before its end, as cameras write": (
        "a.jpg",
        changed("JPEG", before_end(bytes(20)), quality=100, subsampling=0),
    ),
    "JPEG with a video behind it, as phones write": (
        "a.jpg",
        changed("JPEG", lambda d: d + b"\0\0\0\x18ftypmp42" * 99, quality=100, subsampling=0),
    ),
    "CMYK JPEG without a profile": ("a.jpg", saved("JPEG", "CMYK", quality=100)),
    "JPEG whose EXIF is nonsense": (
        "a.jpg",
        saved("JPEG", quality=100, subsampling=0, exif=b"Exif\0\0MM\0*\xff\xff\xff\xd9no"),
    ),
    "JPEG whose colour profile is nonsense": (
        "a.jpg",
        saved("JPEG", quality=100, subsampling=0, icc_profile=b"no profile" * 40),
    ),
    "JPEG whose XMP is nonsense": (
        "a.jpg",
        saved("JPEG", quality=100, subsampling=0, xmp=b"\xff\xfe<<GPano:>>&&&"),
    ),
    "JPEG with an sRGB profile": (
        "a.jpg",
        saved(
            "JPEG",
            quality=100,
            subsampling=0,
            icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        ),
    ),
    "PNG": ("a.png", saved("PNG")),
    "PNG named .jpg": ("a.jpg", saved("PNG")),
    "PNG with opacity": ("a.png", saved("PNG", "RGBA")),
    "PNG in which all is transparent": (
        "a.png",
        lambda path: path.write_bytes(
            encoded("PNG", np.dstack([panorama(), np.zeros((H, W), np.uint8)]))
        ),
    ),
    "animated PNG": (
        "a.png",
        saved(
            "PNG",
            save_all=True,
            append_images=[Image.new("RGB", (W, H)), Image.new("RGB", (W, H), "red")],
        ),
    ),
    "PNG with a text chunk whose checksum is wrong": (
        "a.png",
        changed("PNG", with_chunk(b"tEXt", b"a\0b", b"\0\0\0\0")),
    ),
    "PNG with a text chunk that inflates to a gigabyte": (
        "a.png",
        changed("PNG", with_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**26)))),
    ),
    "PNG whose colour profile is nonsense": (
        "a.png",
        changed("PNG", with_chunk(b"iCCP", b"mine\0\0" + b"not zlib")),
    ),
    "PNG whose EXIF is nonsense": ("a.png", changed("PNG", with_chunk(b"eXIf", b"MM\0*\xff\xff"))),
    "WebP without loss": ("a.webp", saved("WEBP", lossless=True)),
    "WebP with loss": ("a.webp", saved("WEBP", quality=100)),
    "animated WebP": (
        "a.webp",
        saved("WEBP", lossless=True, save_all=True, append_images=[Image.new("RGB", (W, H))]),
    ),
    "TIFF": ("a.tif", saved("TIFF")),
    "TIFF, LZW": ("a.tif", saved("TIFF", compression="tiff_lzw")),
    "TIFF, deflate": ("a.tif", saved("TIFF", compression="tiff_adobe_deflate")),
    "TIFF, JPEG inside": ("a.tif", saved("TIFF", compression="jpeg", quality=100)),
    "TIFF, CMYK": ("a.tif", saved("TIFF", "CMYK")),
    "TIFF, big-endian": ("a.tif", tiff(panorama(), photometric="rgb", byteorder=">")),
    "TIFF, BigTIFF": ("a.tif", tiff(panorama(), photometric="rgb", bigtiff=True)),
    "TIFF, tiles": ("a.tif", tiff(panorama(), photometric="rgb", tile=(16, 16))),
    "TIFF, planes": (
        "a.tif",
        tiff(np.moveaxis(panorama(), 2, 0), photometric="rgb", planarconfig="separate"),
    ),
    "TIFF of several pages": ("a.tif", tiff(np.stack([panorama()] * 3), photometric="rgb")),
    "TIFF whose colour profile is nonsense": ("a.tif", saved("TIFF", icc_profile=b"no" * 300)),
    "TIFF whose metadata are of wrong types": (
        "a.tif",
        tiff(
            panorama(),
            photometric="rgb",
            extratags=[(tag, 3, 4, (1, 2, 3, 4), True) for tag in (700, 33723, 34675)],
        ),
    ),
    "TIFF with an orientation of 77": (
        "a.tif",
        tiff(panorama(), photometric="rgb", extratags=[(274, 3, 1, 77, True)]),
    ),
    "BMP": ("a.bmp", saved("BMP")),
    "16-bit PNG": ("a.png", by_opencv(panorama()[..., ::-1].astype(np.uint16) * 257, ".png")),
    "16-bit TIFF": ("a.tif", tiff(panorama().astype(np.uint16) * 257, photometric="rgb")),
    **{
        f"{kind} with EXIF orientation {number}": (
            f"a.{kind.lower()}",
            lambda path, kind=kind, number=number: path.write_bytes(
                encoded(
                    kind,
                    stored_for(number),
                    exif=exif(number),
                    **{"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(
                        kind, {}
                    ),
                )
            ),
        )
        for kind in ("JPEG", "PNG", "WEBP", "TIFF")
        for number in ((2, 3, 4, 5, 6, 7, 8) if kind == "JPEG" else (3, 6))
    },
    **TURNED,
    "16-bit TIFF with orientation 6": (
        "a.tif",
        tiff(
            stored_for(6).astype(np.uint16) * 257,
            photometric="rgb",
            extratags=[(274, 3, 1, 6, True)],
        ),
    ),
}
"""Name: the file's name, and what makes it. All are read as the panorama."""
