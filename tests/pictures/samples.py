"""Pictures as people have them, made in many formats and damaged in many ways.

Every sample is a file of the same panorama of 128 × 64 pixels, so that what is read can be compared
with what was meant.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import OpenEXR
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageCms

W, H = 128, 64

Maker = Callable[[Path], object]

os.environ.setdefault("OPENCV_IO_ENABLE_OPENEXR", "1")


def panorama() -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB, smooth and without symmetry."""
    small = np.random.default_rng(0).integers(20, 230, (8, 16, 3), dtype=np.uint8)
    return cv2.resize(small, (W, H), interpolation=cv2.INTER_LINEAR)


def ramp(channels: int = 3) -> NDArray[np.float32]:
    """(H, W, channels) float32 from 0 on the left to 1 on the right."""
    return np.linspace(0, 1, W, dtype=np.float32)[None, :, None].repeat(H, 0).repeat(channels, 2)


def encoded(
    format: str, image: NDArray[np.uint8] | Image.Image | None = None, **save: Any
) -> bytes:
    """A file by Pillow; the panorama by default."""
    picture = image if isinstance(image, Image.Image) else None
    picture = picture or Image.fromarray(panorama() if image is None else image)
    file = io.BytesIO()
    picture.save(file, format, **save)
    return file.getvalue()


def saved(format: str, mode: str = "RGB", **save: Any) -> Maker:
    def make(path: Path) -> None:
        path.write_bytes(encoded(format, Image.fromarray(panorama()).convert(mode), **save))

    return make


def changed(format: str, change: Callable[[bytes], bytes], **save: Any) -> Maker:
    """A file whose bytes are changed after it was written."""
    return lambda path: path.write_bytes(change(encoded(format, **save)))


def by_opencv(image: NDArray, suffix: str) -> Maker:
    return lambda path: path.write_bytes(cv2.imencode(suffix, image)[1].tobytes())


def tiff(image: NDArray, **options: Any) -> Maker:
    return lambda path: tifffile.imwrite(path, image, **options)


def exr(channels: dict[str, NDArray], header: dict[str, Any] | None = None) -> Maker:
    about = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}

    def make(path: Path) -> None:
        with OpenEXR.File(about | (header or {}), channels) as file:
            file.write(str(path))

    return make


def cut(share: float) -> Callable[[bytes], bytes]:
    return lambda data: data[: int(len(data) * share)]


def overwritten(data: bytes) -> bytes:
    """Thirty bytes in the middle are noise."""
    place = len(data) // 2
    noise = np.random.default_rng(1).integers(0, 250, 30, dtype=np.uint8).tobytes()
    return data[:place] + noise + data[place + 30 :]


def one_bit_flipped(data: bytes) -> bytes:
    place = len(data) // 2
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def before_end(more: bytes) -> Callable[[bytes], bytes]:
    """Bytes between a JPEG's last scan and its end marker."""
    return lambda data: data[:-2] + more + data[-2:]


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def stored_for(orientation: int) -> NDArray[np.uint8]:
    """The panorama as a camera stores it that asks viewers to turn it."""
    image = panorama()
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }
    return np.ascontiguousarray(undo[orientation](image))


def gpano(**fields: object) -> bytes:
    """An XMP packet with fields as elements, as Google's camera writes them."""
    text = "".join(f"<GPano:{name}>{value}</GPano:{name}>" for name, value in fields.items())
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:GPano="http://ns.google.com/photos/1.0/panorama/">'
        f"{text}</rdf:Description></rdf:RDF></x:xmpmeta>"
    ).encode()


def area(full: tuple[int, int], size: tuple[int, int], place: tuple[int, int]) -> dict[str, int]:
    """GPano's fields of a crop: (width, height) of the sphere and of the crop, and (left, top)."""
    return {
        "FullPanoWidthPixels": full[0],
        "FullPanoHeightPixels": full[1],
        "CroppedAreaImageWidthPixels": size[0],
        "CroppedAreaImageHeightPixels": size[1],
        "CroppedAreaLeftPixels": place[0],
        "CroppedAreaTopPixels": place[1],
    }


QUARTER = area((2 * W, 2 * H), (W, H), (40, 30))


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few kilobytes that declares very many pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return png((b"IHDR", header), (b"IDAT", zlib.compress(bytes(10**6))), (b"IEND", b""))


def plain_png(
    rows: NDArray, bits: int, colours: int, *chunks: tuple[bytes, bytes], width: int = W
) -> Maker:
    """A PNG of packed rows (H, ...) in big-endian order: colours 0 are grey, 2 RGB, 3 a palette."""
    header = struct.pack(">IIBBBBB", width, len(rows), bits, colours, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    data = png((b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b""))
    return lambda path: path.write_bytes(data)


def with_chunk(name: bytes, data: bytes, checksum: bytes | None = None) -> Callable[[bytes], bytes]:
    """A PNG with one more chunk behind its header."""

    def change(file: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(name + data)) if checksum is None else checksum
        return file[:33] + struct.pack(">I", len(data)) + name + data + crc + file[33:]

    return change


def packed_tiff(values: NDArray[np.int64], bits: int) -> bytes:
    """A grey TIFF with values (H, W) of 10, 12 or 14 bits without gaps between them."""
    height, width = values.shape
    text = ["".join(format(int(value), f"0{bits}b") for value in row) for row in values]
    rows = b"".join(int(row, 2).to_bytes(len(row) // 8, "big") for row in text)
    tags = [
        (256, width), (257, height), (258, bits), (259, 1), (262, 1), (273, 8), (277, 1),
        (278, height), (279, len(rows)),
    ]  # fmt: skip
    head = b"MM\0*" + struct.pack(">I", 8 + len(rows)) + rows
    return (
        head
        + struct.pack(">H", len(tags))
        + b"".join(struct.pack(">HHII", tag, 4, 1, value) for tag, value in tags)
        + bytes(4)
    )


def cmyk_profile(black: float) -> bytes:
    """A CMYK profile (ICC 2.4) in which ink K is L* = `black` and paper is L* = 100, all grey."""
    lightness = [100.0 if not corner & 1 else black for corner in range(16)]  # K varies fastest
    table = b"".join(bytes([round(light * 2.55), 128, 128]) for light in lightness)
    identity = struct.pack(">9i", *(65536 * value for value in (1, 0, 0, 0, 1, 0, 0, 0, 1)))
    straight = bytes(range(256))
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + straight * 4 + table + straight * 3
    lut += bytes(-len(lut) % 4)
    size = 128 + 4 + 12 + len(lut)
    white = struct.pack(">3I", 0xF6D6, 0x10000, 0xD32D)
    header = struct.pack(">I4xI", size, 0x02400000) + b"prtrCMYKLab " + bytes(12) + b"acsp"
    header = header.ljust(68, b"\0") + white
    return header.ljust(128, b"\0") + struct.pack(">I4sII", 1, b"A2B0", 144, len(lut)) + lut


def swapped_profile() -> bytes:
    """sRGB's profile under another name, with the primaries of red and green swapped."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = profile.replace(b"\0s\0R\0G\0B", b"\0m\0i\0n\0e")
    return profile.replace(b"rXYZ", b"?XYZ").replace(b"gXYZ", b"rXYZ").replace(b"?XYZ", b"gXYZ")


def fifo(path: Path) -> None:
    os.mkfifo(path)
