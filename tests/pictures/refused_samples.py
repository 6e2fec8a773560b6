"""Pictures that are refused."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image, ImageCms

from tests.pictures.samples import (
    QUARTER,
    H,
    Maker,
    W,
    area,
    before_end,
    bomb,
    changed,
    cut,
    encoded,
    exif,
    exr,
    fifo,
    gpano,
    one_bit_flipped,
    overwritten,
    panorama,
    plain_png,
    ramp,
    saved,
    stored_for,
    tiff,
    with_chunk,
)

REFUSED: dict[str, tuple[str, Maker, str]] = {
    "missing": ("a.jpg", lambda path: None, "is missing"),
    "zero bytes": ("a.jpg", lambda path: path.touch(), "it is empty"),
    "a folder": ("a.jpg", lambda path: path.mkdir(), "is a folder"),
    "a pipe": ("a.jpg", fifo, "is no regular file"),
    "a link to itself": ("a.jpg", lambda path: path.symlink_to(path), "symbolic links"),
    "text": ("a.jpg", lambda path: path.write_text("a picture of a room"), "no picture"),
    "an HTML page": ("a.jpg", lambda path: path.write_text("<!DOCTYPE html><html>"), "HTML"),
    "a Git LFS pointer": (
        "a.jpg",
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1"),
        "lfs pull",
    ),
    "GIF": ("a.gif", saved("GIF"), "a GIF picture"),
    "AVIF": ("a.avif", saved("AVIF"), "an AVIF picture"),
    "HEIC named .jpg": (
        "a.jpg",
        lambda path: path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(99)),
        "a HEIC picture",
    ),
    "JPEG of which a third arrived": ("a.jpg", changed("JPEG", cut(0.33)), "is damaged"),
    "JPEG without its end marker": ("a.jpg", changed("JPEG", lambda d: d[:-2]), "end marker"),
    "JPEG cut within its header": ("a.jpg", changed("JPEG", lambda d: d[:300]), "is damaged"),
    "JPEG cut, with an end marker added": (
        "a.jpg",
        changed("JPEG", lambda d: cut(0.6)(d) + b"\xff\xd9"),
        "is damaged",
    ),
    "JPEG with noise in its scan": (
        "a.jpg",
        changed("JPEG", overwritten, quality=90),
        "is damaged",
    ),
    "progressive JPEG with noise": (
        "a.jpg",
        changed("JPEG", overwritten, quality=90, progressive=True),
        "is damaged",
    ),
    "JPEG with noise before its end": (
        "a.jpg",
        changed("JPEG", before_end(b"\x12\x34\x56\x78" * 9)),
        "is damaged",
    ),
    "PNG cut": ("a.png", changed("PNG", cut(0.7)), "is damaged"),
    "PNG without its last byte": ("a.png", changed("PNG", lambda d: d[:-1]), "is damaged"),
    "PNG with a bit flipped": ("a.png", changed("PNG", one_bit_flipped), "checksum"),
    "WebP cut": ("a.webp", changed("WEBP", cut(0.7)), "is damaged"),
    "TIFF cut": ("a.tif", changed("TIFF", cut(0.7)), "is damaged"),
    "TIFF, deflate, cut": (
        "a.tif",
        changed("TIFF", cut(0.7), compression="tiff_adobe_deflate"),
        "is damaged",
    ),
    "BMP cut": ("a.bmp", changed("BMP", cut(0.7)), "is damaged"),
    "16-bit TIFF cut": (
        "a.tif",
        lambda path: (
            tiff(panorama().astype(np.uint16), photometric="rgb")(path),
            path.write_bytes(path.read_bytes()[:-900]),
        ),
        "is damaged",
    ),
    "EXR cut": (
        "a.exr",
        lambda path: (exr({"RGB": ramp()})(path), path.write_bytes(cut(0.7)(path.read_bytes()))),
        "is damaged",
    ),
    "HDR cut": (
        "a.hdr",
        lambda path: path.write_bytes(cut(0.7)(cv2.imencode(".hdr", ramp())[1].tobytes())),
        "is damaged",
    ),
    "PNG without its palette": (
        "a.png",
        plain_png(panorama()[..., 0], 8, 3),
        "of a palette of 0",
    ),
    "PNG with a value beyond its palette": (
        "a.png",
        plain_png(panorama()[..., 0] % 11, 8, 3, (b"PLTE", bytes(30))),
        "it uses colour 10 of a palette of 10",
    ),
    **{
        f"PNG in {name}": (
            "a.png",
            changed("PNG", with_chunk(b"cICP", bytes([9, code, 0, 1]))),
            f"for HDR screens ({name})",
        )
        for name, code in (("PQ", 16), ("HLG", 18))
    },
    "EXR in luminance and chroma": (
        "a.exr",
        exr({name: ramp(1)[..., 0].copy() for name in ("Y", "RY", "BY")}),
        "Y, RY and BY",
    ),
    "EXR that holds no light": ("a.exr", exr({"RGB": 0 * ramp()}), "no light"),
    "EXR of layers": (
        "a.exr",
        exr({f"Layer.{c}": ramp(1)[..., 0].copy() for c in "RGB"}),
        "without channels R, G, B or Y",
    ),
    "EXR of a part of its picture": (
        "a.exr",
        exr(
            {"RGB": ramp()},
            {
                "dataWindow": ((0, 0), (W - 1, H - 1)),
                "displayWindow": ((0, 0), (2 * W - 1, 2 * H - 1)),
            },
        ),
        "data window",
    ),
    "TIFF of signed bytes": (
        "a.tif",
        tiff(panorama()[..., 0].astype(np.int8), photometric="minisblack"),
        "8-bit int",
    ),
    "TIFF cut within its tags": (
        "a.tif",
        changed("TIFF", lambda d: d[:-30], compression="tiff_lzw"),
        "is damaged",
    ),
    "TIFF of halves": ("a.tif", tiff(ramp().astype(np.float16), photometric="rgb"), "16-bit float"),
    "TIFF of 32-bit integers": (
        "a.tif",
        tiff((ramp(1)[..., 0] * 2**31).astype(np.uint32)),
        "32-bit uint",
    ),
    "16-bit TIFF in planes": (
        "a.tif",
        tiff(
            np.moveaxis(panorama(), 2, 0).astype(np.uint16),
            photometric="rgb",
            planarconfig="separate",
        ),
        "separate planes",
    ),
    "TIFF in LAB": (
        "a.tif",
        lambda path: ImageCms.profileToProfile(
            Image.fromarray(panorama()),
            ImageCms.createProfile("sRGB"),
            ImageCms.createProfile("LAB"),
            outputMode="LAB",
        ).save(path),
        "colours LAB",
    ),
    "PNG of 5 billion pixels in 1 kB": (
        "a.png",
        lambda path: path.write_bytes(bomb(100_000, 50_000)),
        "100000 × 50000",
    ),
    "PNG of 180 million pixels": (
        "a.png",
        lambda path: path.write_bytes(bomb(19_000, 9_500)),
        "19000 × 9500",
    ),
    "a pixel too narrow": (
        "a.png",
        lambda path: path.write_bytes(encoded("PNG", panorama()[:, :-1])),
        "127 × 64",
    ),
    "a pixel too low": (
        "a.png",
        lambda path: path.write_bytes(encoded("PNG", panorama()[:-1])),
        "128 × 63",
    ),
    "a square": (
        "a.png",
        lambda path: path.write_bytes(encoded("PNG", panorama()[:, :64])),
        "64 × 64",
    ),
    "upright as stored, turned by EXIF": ("a.jpg", saved("JPEG", exif=exif(6)), "orientation 6"),
    "a cylindrical panorama": (
        "a.jpg",
        saved("JPEG", xmp=gpano(ProjectionType="cylindrical")),
        "cylindrical",
    ),
    **{
        f"a panorama in the projection {name}": (
            "a.jpg",
            saved("JPEG", xmp=gpano(ProjectionType=name, **QUARTER)),
            f"in {name} projection",
        )
        for name in ("half-equirectangular", "equirectangular 180", "vr180")
    },
    "a crop of a sphere that is turned by EXIF": (
        "a.jpg",
        lambda path: path.write_bytes(
            encoded("JPEG", stored_for(3), exif=exif(3), xmp=gpano(**QUARTER))
        ),
        "orientation 3",
    ),
    "a crop of a sphere of 5 billion pixels": (
        "a.jpg",
        saved("JPEG", xmp=gpano(**area((100_000, 50_000), (W, H), (0, 0)))),
        "100000 × 50000",
    ),
}
"""Name: the file's name, what makes it, and what the refusal says."""
