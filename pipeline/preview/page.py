"""One HTML file on which a person sees whether the masks are right.

Packed shards in, `OUT/preview/index.html` out. The page carries everything in itself (pictures,
id maps, annotations, code), so it opens from a disk, an e-mail or a cluster without a server.
This module decides what the page is told, as JSON; the scripts beside it draw.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from pipeline.annotations.sizes import PAPER_MASKS_PER_PANORAMA, PAPER_MIX_PERCENT
from pipeline.errors import UserError
from pipeline.layout import RunFolder
from pipeline.shards.reader import ShardReader, decode_ids, decode_image
from pipeline.storage import is_remote, write_atomic

FOLDER = Path(__file__).parent
SCRIPTS = ("summary.js", "painting.js", "panorama.js", "controls.js")
"""In the order in which they use each other; together they are one script."""

PAPER = {
    "sizes": {size: percent / 100 for size, percent in PAPER_MIX_PERCENT.items()},
    "masks": PAPER_MASKS_PER_PANORAMA,
}
"""What the paper says of its dataset: shares of the sizes, masks per panorama."""

MAX_WIDTH = 2048
MAX_JPEG_BYTES = 600_000
"""With base64 and the id map, a panorama stays below 1 MB."""

SUMMARY_COLUMNS = (
    "scene_id",
    "generator",
    "width",
    "height",
    *(f"objects.list.element.{name}" for name in ("category", "is_structure", "size")),
    "provenance",
)
"""Without the masks, which are most of what the annotations weigh."""

Row = dict[str, Any]


def write_preview(run: RunFolder, limit: int = 24) -> Path:
    """Write the preview page of a run from its packed shards.

    Args:
        run: The run; its shards must be packed.
        limit: Panoramas to show, at most; evenly spaced ones if there are more. The statistics
            are over all panoramas whatever the limit.

    Returns:
        Path of the page.

    Raises:
        UserError: `limit` is not positive, or the reader finds no shards or a damaged one.
    """
    if limit < 1:
        raise UserError(f"the preview needs at least one panorama, not {limit}")
    remote = is_remote(run.path)
    reader = ShardReader(str(run.shards) if remote else run.shards)
    chosen = evenly_spaced(len(reader), limit)
    summary = run_summary(
        reader.annotations(SUMMARY_COLUMNS),
        name=run.path.name if remote else run.path.resolve().name,
    )
    page = run.preview / "index.html"
    panels = (panorama_panel(reader.row(index)) for index in chosen)
    write_atomic(page, render_page(summary, panels).encode())
    return page


def is_current(run: RunFolder) -> bool:
    """Whether the page is younger than the shards' manifest, which packing writes last."""
    page, manifest = run.preview / "index.html", run.shards / "manifest.json"
    if is_remote(page):
        return False
    try:
        return page.stat().st_mtime_ns > manifest.stat().st_mtime_ns
    except FileNotFoundError:
        return False


def evenly_spaced(count: int, limit: int) -> list[int]:
    """At most `limit` of `count` indices, first and last included.

    >>> evenly_spaced(10, 4)
    [0, 3, 6, 9]
    """
    if count <= limit:
        return list(range(count))
    if limit == 1:
        return [0]
    return [round(i * (count - 1) / (limit - 1)) for i in range(limit)]


def run_summary(rows: Iterable[Row], name: str) -> dict[str, Any]:
    """What the page says of the whole run; `rows` need only `SUMMARY_COLUMNS`."""
    sizes, object_sizes, categories = Counter[str](), Counter[str](), Counter[str]()
    facts: dict[str, Counter[str]] = {}
    masks = Counter[int]()
    scenes: set[str] = set()
    for row in rows:
        objects = row["objects"]
        masks[len(objects)] += 1
        for item in objects:
            sizes[item["size"]] += 1
            categories[item["category"]] += 1
            if not item["is_structure"]:
                object_sizes[item["size"]] += 1
        scenes.add(row["scene_id"])
        for fact, value in _facts(row):
            facts.setdefault(fact, Counter())[value] += 1
    return {
        "name": name,
        "panoramas": masks.total(),
        "instances": sizes.total(),
        "masks": masks,
        "scenes": len(scenes),
        "sizes": sizes,
        "object_sizes": object_sizes,
        "categories": categories.most_common(),
        "facts": {fact: values.most_common() for fact, values in facts.items()},
        "paper": PAPER,
    }


def _facts(row: Row) -> Iterator[tuple[str, str]]:
    """What most often is the same in all of a run, as (name, text)."""
    provenance = row["provenance"]
    yield "generator", row["generator"]
    yield "resolution", f"{row['width']} × {row['height']}"
    yield "profile", f"{provenance['profile']}, {provenance['samples']} samples"
    yield "device", provenance["device"]
    yield "settings hash", provenance["settings_hash"]
    yield "versions", ", ".join(f"{k} {provenance[k]}" for k in ("pipeline", "infinigen", "bpy"))


def panorama_panel(row: Row) -> dict[str, Any]:
    """What the page is told of one panorama: picture, id map, instances, contradictions."""
    picture, ids = decode_image(row["image"]), decode_ids(row["ids"])
    return {
        "image_id": row["image_id"],
        "scene_id": row["scene_id"],
        "width": row["width"],
        "height": row["height"],
        "generator": row["generator"],
        "seed": row["seed"],
        "room": row["camera"]["room"],
        "position": row["camera"]["position"],
        "objects": [_without(item, "segmentation") for item in row["objects"]],
        "too_small": np.count_nonzero(np.bincount(ids.ravel())[1:]) - len(row["objects"]),
        "contradictions": contradictions(ids, row["objects"]),
        "picture": _data_uri("image/jpeg", encode_picture(picture)),
        "ids": _data_uri("image/png", encode_ids(ids)),
    }


def contradictions(ids: NDArray[np.uint16], objects: list[Row]) -> list[str]:
    """Where the id map and the annotations of one panorama say different things.

    Three independent records of a mask are compared: its pixels in the id map, its RLE, and its
    stored area; and the click must lie inside. A sound dataset gives an empty list.
    """
    found = []
    known = {item["id"] for item in objects}
    pixels = np.bincount(ids.ravel(), minlength=1 + max(known, default=0))
    smallest = min((item["area"] for item in objects), default=ids.size)
    for stray in sorted(set(np.flatnonzero(pixels).tolist()) - known - {0}):
        if pixels[stray] >= smallest:  # else it was too small to keep
            found.append(f"id {stray} has {pixels[stray]} px in the id map and no annotation")
    for item in objects:
        who = f"id {item['id']} ({item['name']})"
        in_map, in_rle = int(pixels[item["id"]]), int(coco.area(item["segmentation"]))
        if not in_map == in_rle == item["area"]:
            areas = f"id map {in_map} px, RLE {in_rle} px, stored {item['area']} px"
            found.append(f"{who}: areas differ: {areas}")
        x, y = item["click"]
        if not (0 <= y < ids.shape[0] and 0 <= x < ids.shape[1] and ids[y, x] == item["id"]):
            found.append(f"{who}: the click ({x}, {y}) is outside the mask")
    return found


def encode_picture(picture: NDArray[np.uint8]) -> bytes:
    """JPEG of an RGB panorama, at most `MAX_WIDTH` wide and about `MAX_JPEG_BYTES` long."""
    small = cv2.resize(picture, _page_size(picture), interpolation=cv2.INTER_AREA)[..., ::-1]
    for quality in (90, 84, 76, 66, 52, 36):
        data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        if len(data) <= MAX_JPEG_BYTES:
            break
    return data


def encode_ids(ids: NDArray[np.uint16]) -> bytes:
    """PNG of an id map at the picture's size: red is the id's low byte, green its high byte."""
    nearest = cv2.INTER_NEAREST_EXACT
    small = np.asarray(cv2.resize(ids, _page_size(ids), interpolation=nearest), np.uint16)
    channels = (np.zeros_like(small), small >> 8, small & 255)  # OpenCV's order is B, G, R
    packed = np.dstack(channels).astype(np.uint8)
    return cv2.imencode(".png", packed, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()


def render_page(summary: dict[str, Any], panels: Iterable[dict[str, Any]]) -> str:
    """Fill the template; `summary` is `run_summary`'s, `panels` are `panorama_panel`'s."""
    scripts = [
        f'<script type="application/json" class="panel">{embed_json(panel)}</script>'
        for panel in panels
    ]
    parts = {
        "style": (FOLDER / "style.css").read_text("utf-8"),
        "script": "".join((FOLDER / name).read_text("utf-8") for name in SCRIPTS),
        "title": html.escape(summary["name"]),
        "summary": embed_json(summary),
        "panoramas": "\n".join(scripts),
    }
    # in one pass, so that data which looks like a placeholder stays data
    template = (FOLDER / "template.html").read_text("utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def embed_json(data: Any) -> str:
    """JSON that cannot end the script element around it.

    >>> embed_json("</script>")
    '"\\\\u003c/script>"'
    """
    return json.dumps(data, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")


def _page_size(array: NDArray) -> tuple[int, int]:
    height, width = array.shape[:2]
    scale = min(1.0, MAX_WIDTH / width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _without(item: Row, key: str) -> Row:
    return {name: value for name, value in item.items() if name != key}
