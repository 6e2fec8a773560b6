"""A self-contained HTML page on which a person checks the masks of a run.

Packed shards in, OUT/preview/index.html out. The page contains everything (pictures, id maps,
annotations, code), so it works without a server. This module makes its data as JSON; the scripts
beside it draw. `make stats` draws the figures of a dataset, and `make verify` checks its pixels.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline import viewer
from pipeline.errors import UserError
from pipeline.layout import RunFolder
from pipeline.shards.reader import ShardReader, decode_ids, decode_image
from pipeline.shards.schema import NO_GEOMETRY
from pipeline.statistics.measure import measure
from pipeline.storage import is_remote, write_atomic

FOLDER = Path(__file__).parent
SCRIPTS = ("page.js", "painting.js", "viewer.js", "controls.js")
"""In the order in which they use each other; the page joins them to one script."""

MAX_WIDTH = 2048
MAX_JPEG_BYTES = 600_000
"""With base64 and its id map, a panorama takes less than 1 MiB of the page."""

Row = dict[str, Any]


def write_preview(run: RunFolder, limit: int = 24) -> Path:
    """Write the preview page of a run from its packed shards.

    Args:
        run: A run whose shards are packed.
        limit: Maximum number of panoramas; evenly spaced ones are chosen.

    Returns:
        Path of the page.

    Raises:
        UserError: `limit` is not positive, there are no shards, or a shard is damaged.
    """
    if limit < 1:
        raise UserError(f"LIMIT={limit} is not positive; show at least 1 panorama")
    remote = is_remote(run.path)
    reader = ShardReader(str(run.shards) if remote else run.shards)
    name = run.path.name if remote else run.path.resolve().name
    summary = run_summary(measure(reader), name)
    page = run.preview / "index.html"
    panels = (panorama_panel(reader.row(index)) for index in evenly_spaced(len(reader), limit))
    write_atomic(page, render_page(summary, panels).encode())
    return page


def is_current(run: RunFolder) -> bool:
    """Whether the page is newer than the shards' manifest, which packing writes last."""
    page, manifest = run.preview / "index.html", run.shards / "manifest.json"
    if is_remote(page):
        return False
    try:
        return page.stat().st_mtime_ns > manifest.stat().st_mtime_ns
    except FileNotFoundError:
        return False


def evenly_spaced(count: int, limit: int) -> list[int]:
    """At most `limit` of `count` indices, including the first and the last.

    >>> evenly_spaced(10, 4)
    [0, 3, 6, 9]
    """
    if count <= limit:
        return list(range(count))
    if limit == 1:
        return [0]
    return [round(i * (count - 1) / (limit - 1)) for i in range(limit)]


def run_summary(statistics: dict[str, Any], name: str) -> dict[str, Any]:
    """The header of the page, from the statistics of `pipeline.statistics.measure`."""
    total = statistics["total"]
    made_with = {"generator": [], **total["made_with"]}
    for generator, group in statistics["generators"].items():
        made_with["generator"].append({"value": generator, "panoramas": group["panoramas"]})
    return {
        "name": name,
        "panoramas": total["panoramas"],
        "scenes": total["scenes"],
        "instances": total["instances"]["count"],
        "objects": total["objects"]["count"],
        "paper_masks": statistics["paper"]["masks_per_panorama"],
        "made_with": made_with,
    }


def panorama_panel(row: Row) -> dict[str, Any]:
    """The data of one panorama: picture, id map, instances."""
    picture, ids = decode_image(row["image"]), decode_ids(row["ids"])
    return {
        "image_id": row["image_id"],
        "width": row["width"],
        "height": row["height"],
        "generator": row["generator"],
        "seed": row["seed"],
        "room": row["camera"]["room"],
        "position": row["camera"]["position"],
        "objects": [_without(item, {"segmentation", *NO_GEOMETRY}) for item in row["objects"]],
        "too_small": int(np.count_nonzero(np.bincount(ids.ravel())[1:])) - len(row["objects"]),
        "picture": _data_uri("image/jpeg", encode_picture(picture)),
        "ids": _data_uri("image/png", encode_ids(ids)),
    }


def encode_picture(picture: NDArray[np.uint8]) -> bytes:
    """JPEG of an RGB picture (H, W, 3), at most `MAX_WIDTH` wide, about `MAX_JPEG_BYTES` long."""
    small = cv2.resize(picture, _page_size(picture), interpolation=cv2.INTER_AREA)[..., ::-1]
    for quality in (90, 84, 76, 66, 52, 36):
        data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        if len(data) <= MAX_JPEG_BYTES:
            break
    return data


def encode_ids(ids: NDArray[np.uint16]) -> bytes:
    """PNG of an id map (H, W) uint16 at the size of the picture: red low byte, green high byte."""
    nearest = cv2.INTER_NEAREST_EXACT
    small = np.asarray(cv2.resize(ids, _page_size(ids), interpolation=nearest), np.uint16)
    channels = (np.zeros_like(small), small >> 8, small & 255)  # OpenCV's order is B, G, R
    packed = np.dstack(channels).astype(np.uint8)
    return cv2.imencode(".png", packed, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()


def render_page(summary: dict[str, Any], panels: Iterable[dict[str, Any]]) -> str:
    """Fill the template with the data of `run_summary` and `panorama_panel`."""
    scripts = [
        f'<script type="application/json" class="panel">{embed_json(panel)}</script>'
        for panel in panels
    ]
    parts = {
        "style": (FOLDER / "style.css").read_text("utf-8") + viewer.dialog_style(),
        "sphere": viewer.dialog_script(),
        "script": "".join((FOLDER / name).read_text("utf-8") for name in SCRIPTS),
        "title": html.escape(summary["name"]),
        "summary": embed_json(summary),
        "panoramas": "\n".join(scripts),
    }
    # in one pass, so that data that looks like a placeholder is not replaced
    template = (FOLDER / "template.html").read_text("utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def embed_json(data: Any) -> str:
    """JSON that cannot close the script element around it.

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


def _without(item: Row, keys: set[str]) -> Row:
    return {name: value for name, value in item.items() if name not in keys}
