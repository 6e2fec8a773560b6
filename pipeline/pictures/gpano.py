"""GPano metadata (XMP): which part of the sphere a picture shows. Read, and written.

The fields are those of Google's photo sphere specification. They are found by pattern and not by an
XML parser: the packet of a stranger's file need not be XML at all.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.pictures.contents import xmp_text

NAMESPACE = "http://ns.google.com/photos/1.0/panorama/"

POSE = ("PoseHeadingDegrees", "PosePitchDegrees", "PoseRollDegrees")


@dataclass(frozen=True)
class Gpano:
    """What a packet says, as far as it makes sense.

    Attributes:
        projection: In lower case and printable; "equirectangular" unless another is named.
        full: Width and height of the sphere in pixels; None where sizes are missing or nonsense.
        crop: Left, top, width, height of the picture on it; None as for `full`. Left is negative
            where the picture crosses the seam.
        pose: Heading, pitch and roll in degrees.
        is_nonsense: Whether sizes are given that cannot be true.
    """

    projection: str = "equirectangular"
    full: tuple[int, int] | None = None
    crop: tuple[int, int, int, int] | None = None
    pose: tuple[float, float, float] = (0.0, 0.0, 0.0)
    is_nonsense: bool = False

    @property
    def is_cropped(self) -> bool:
        return self.full is not None and self.crop != (0, 0, *self.full)


@dataclass(frozen=True)
class Window:
    """Where a picture lies on its sphere, in pixels of the picture.

    Attributes:
        left, top: Of the picture's first pixel; left is negative where the picture crosses the
            seam: its first -left columns are the sphere's last ones.
        width, height: Of the sphere: width = 2 · height.
    """

    left: int
    top: int
    width: int
    height: int


def read_gpano(packets: Sequence[bytes]) -> Gpano | None:
    """The GPano fields of a file's XMP packets; None where they have none.

    Where two packets have a field, the first one counts.
    """
    fields: dict[str, str] = {}
    for packet in packets:
        fields = _fields(xmp_text(packet)) | fields
    if not fields:
        return None
    heading, pitch, roll = (_number(fields.get(name)) or 0.0 for name in POSE)
    found = Gpano(
        projection=_printable(fields.get("ProjectionType", "").lower()) or "equirectangular",
        pose=(heading, pitch, roll),
    )
    names = ("FullPanoWidthPixels", "FullPanoHeightPixels")
    areas = ("CroppedAreaImageWidthPixels", "CroppedAreaImageHeightPixels")
    places = ("CroppedAreaLeftPixels", "CroppedAreaTopPixels")
    if not any(name in fields for name in (*names, *areas, *places)):
        return found
    full = [_number(fields.get(name)) for name in names]
    area = [_number(fields.get(name)) for name in areas]
    place = [_number(fields.get(name, "0")) for name in places]
    numbers = [*full, *area, *place]
    if any(value is None or value != round(value) or abs(value) > 2**31 for value in numbers):
        return Gpano(found.projection, pose=found.pose, is_nonsense=True)
    full_w, full_h, area_w, area_h, left, top = (
        int(value) for value in numbers if value is not None
    )
    if (
        min(full_w, full_h, area_w, area_h) < 1
        or abs(full_w - 2 * full_h) > 2
        or not -full_w < left < full_w
        or not (left == 0 or area_w < full_w)
        or area_w > full_w
        or not 0 <= top <= full_h - area_h
    ):
        return Gpano(found.projection, pose=found.pose, is_nonsense=True)
    left %= full_w
    if left + area_w > full_w:
        left -= full_w
    return Gpano(found.projection, (full_w, full_h), (left, top, area_w, area_h), found.pose)


def _fields(text: str) -> dict[str, str]:
    """Values by their name, written as elements or as attributes."""
    declared = re.search(rf"xmlns:([\w.-]+)\s*=\s*[\"']{re.escape(NAMESPACE)}[\"']", text)
    prefix = re.escape(declared[1] if declared else "GPano")
    field = rf"<{prefix}:(\w+)[^<>]*>([^<]*)(?=<)|\s{prefix}:(\w+)\s*=\s*[\"']([^\"'<]*)[\"']"
    return {m[1] or m[3]: (m[2] or m[4] or "").strip() for m in re.finditer(field, text)}


def _printable(text: str) -> str:
    """A stranger's text for a message: one line of at most 40 plain characters."""
    return re.sub(r"[^\w .-]+", " ", text).strip()[:40]


def window_of(gpano: Gpano, width: int, height: int) -> Window | None:
    """Where a picture of W × H pixels lies on its sphere.

    A picture that was scaled after its metadata were written keeps its pixels: the sphere is scaled
    instead.

    Returns:
        None where the picture's shape is not that of the crop.
    """
    if gpano.full is None or gpano.crop is None:
        return None
    left, top, crop_w, crop_h = gpano.crop
    scale = width / crop_w
    if abs(crop_h * scale - height) > max(1.0, scale):
        return None
    half = max(1, round(gpano.full[0] * scale / 2))
    left, top = round(left * scale), round(top * scale)
    left, top = min(left, 2 * half - width), min(top, half - height)
    return Window(left, top, 2 * half, half) if width <= 2 * half and top >= 0 else None


def gpano_xmp(window: Window, width: int, height: int) -> bytes:
    """An XMP packet for a picture of W × H pixels, which makes viewers show it as a panorama."""
    fields = {
        "ProjectionType": "equirectangular",
        "UsePanoramaViewer": "True",
        "CroppedAreaImageWidthPixels": width,
        "CroppedAreaImageHeightPixels": height,
        "FullPanoWidthPixels": window.width,
        "FullPanoHeightPixels": window.height,
        "CroppedAreaLeftPixels": window.left % window.width,
        "CroppedAreaTopPixels": window.top,
    }
    text = " ".join(f'GPano:{name}="{value}"' for name, value in fields.items())
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" xmlns:GPano="{NAMESPACE}" {text}/>'
        '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
