"""One HTML file with the tables and, of each method, its worst, middling and best cases."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pycocotools import mask as coco

from pipeline import viewer
from pipeline.annotations.click_point import click_mask
from pipeline.preview.page import embed_json, encode_picture
from pipeline.shards.reader import ShardReader, decode_image
from pipeline.storage import write_atomic
from sap_model.evaluate.eval_settings import EvalSettings
from sap_model.evaluate.jobs import PanoramaRef, benchmark_folder
from sap_model.evaluate.pictures import Mask, Picture, case_picture
from sap_model.evaluate.report import read_benchmark

CASES = 6
"""Of each kind."""

MASK_WIDTH = 1024
"""Columns of a mask that is shown in 360°."""

STYLE = """
:root { color-scheme: light dark; --line: #8884; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1200px; padding: 0 1rem }
h1 { font-size: 1.6rem } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line) }
h3 { font-size: 1rem; margin: 1.2rem 0 .4rem }
pre { overflow-x: auto; font-size: 13px }
table { border-collapse: collapse; display: block; overflow-x: auto; font-size: 13px }
th, td { padding: .25rem .5rem; text-align: right; white-space: nowrap }
tr { border-bottom: 1px solid var(--line) }
th:first-child, td:first-child { text-align: left }
.cases { display: grid; grid-template-columns: repeat(auto-fill, minmax(180px, 1fr)); gap: .8rem }
figure { margin: 0 } img { width: 100%; height: 180px; object-fit: contain; background: #0002 }
figcaption { font-size: 12px; line-height: 1.3; overflow-wrap: anywhere }
.around { font: inherit; font-size: 11px; padding: 0 .5em; cursor: pointer }
.key span { padding: 0 .5em; border-radius: 3px; margin-right: 1em }
"""

KEY = (
    '<p class="key"><span style="background:#e67814">predicted</span>'
    '<span style="border:1px solid">true outline</span>'
    '<span style="background:#28c850">positive click</span>'
    '<span style="background:#e6283c">negative click</span></p>'
)


@dataclass(frozen=True)
class Case:
    """An object to show."""

    row: dict[str, Any]  # of the results, with `prediction` and `points`
    index: int  # of its panorama in the shards


def write_page(
    settings: EvalSettings, folder: Path, wanted: list[PanoramaRef], tables: str
) -> Path:
    """Write EVAL/index.html.

    Args:
        settings: The evaluation's.
        folder: EVAL, evaluated.
        wanted: Its panoramas.
        tables: As `sap_model.evaluate.report.write_report` returns them.
    """
    reader = ShardReader(settings.data, settings.split)
    numbers = {panorama.image_id: panorama.index for panorama in wanted}
    methods, _ = read_benchmark(benchmark_folder(folder, settings), wanted)
    parts = [f"<h1>{html.escape(settings.benchmark)}</h1>", *_tables(tables), KEY]
    around = _Around()
    for method in methods:
        parts.append(f"<h2>{html.escape(method.name)}</h2>")
        for title, rows in pick(pa.concat_tables(method.tables.values())):
            cases = [Case(row, numbers[row["image_id"]]) for row in rows]
            figures = "".join(_figure(reader, case, around) for case in cases)
            parts.append(f'<h3>{html.escape(title)}</h3><div class="cases">{figures}</div>')
    page = folder / "index.html"
    style = STYLE + viewer.dialog_style()
    head = f"<!doctype html><meta charset=utf-8><title>Evaluation</title><style>{style}</style>"
    parts.append(around.scripts())
    write_atomic(page, (head + "\n".join(parts)).encode())
    return page


class _Around:
    """The panoramas of a page, each once, and the cases to look at in them."""

    def __init__(self) -> None:
        self.panoramas: dict[str, str] = {}
        self.cases: list[dict[str, Any]] = []

    def add(self, case: Case, title: str, image: Picture, truth: Mask, prediction: Mask) -> int:
        """Add a case; its number."""
        name = case.row["image_id"]
        if name not in self.panoramas:
            self.panoramas[name] = _uri("jpeg", encode_picture(image))
        height, width = truth.shape
        masks = np.dstack([np.zeros_like(truth), truth, prediction]) * np.uint8(255)
        scale = min(1.0, MASK_WIDTH / width)
        size = round(width * scale), round(height * scale)
        small = cv2.resize(masks, size, interpolation=cv2.INTER_AREA)
        click = click_mask(truth | prediction)
        x, y = (click.x, click.y) if click else (width // 2, height // 2)
        self.cases.append(
            {
                "panorama": name,
                "title": title,
                "masks": _uri("png", cv2.imencode(".png", small)[1].tobytes()),
                "points": [list(point) for point in case.row["points"]],
                "size": [height, width],
                "at": [(x + 0.5) / width, (y + 0.5) / height],
            }
        )
        return len(self.cases) - 1

    def scripts(self) -> str:
        """Data and code, for the end of the page."""
        data = embed_json({"panoramas": self.panoramas, "cases": self.cases})
        code = (Path(__file__).parent / "page.js").read_text("utf-8")
        return (
            f'<script type="application/json" id="cases">{data}</script>'
            f"<script>{viewer.dialog_script()}</script><script>{code}</script>"
        )


def pick(found: pa.Table) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The worst, middling and best instances of a method, with their titles.

    Equal scores are ordered by name, so that the same results give the same page.
    """
    last = pc.max(found["clicks"]).as_py()
    first = _ranked(found, 1)
    middle = max(0, len(first) // 2 - CASES // 2)
    yield "worst after one click", first[:CASES]
    if last > 1:
        yield f"worst after {last} clicks", _ranked(found, last)[:CASES]
    if len(first) > 3 * CASES:
        yield "around the median after one click", first[middle : middle + CASES]
    if len(first) > 2 * CASES:
        yield "best after one click", first[::-1][:CASES]


def _ranked(found: pa.Table, clicks: int) -> list[dict[str, Any]]:
    """All instances after some clicks, worst first."""
    rows = found.filter(pc.equal(found["clicks"], clicks))
    keys = ("iou", "image_id", "object_id")
    return rows.sort_by([(key, "ascending") for key in keys]).to_pylist()


def _figure(reader: ShardReader, case: Case, around: _Around) -> str:
    row = reader.row(case.index, ["image", "objects"])
    thing = next(t for t in row["objects"] if t["id"] == case.row["object_id"])
    size = thing["segmentation"]["size"]
    masks = (thing["segmentation"], {"size": size, "counts": case.row["prediction"]})
    truth, prediction = (coco.decode(mask).view(np.bool_) for mask in masks)
    image = decode_image(row["image"])
    picture = case_picture(image, truth, prediction, case.row["points"])
    data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
    name = html.escape(f"{thing['name']} ({thing['size']}), {case.row['image_id']}")
    title = f"{thing['name']}, IoU {case.row['iou']:.2f}, {case.row['image_id']}"
    number = around.add(case, title, image, truth, prediction)
    button = f'<button class="around" data-case="{number}" title="look around">360°</button>'
    caption = f"IoU {case.row['iou']:.2f} {button}<br>{name}"
    return (
        f'<figure><img src="{_uri("jpeg", data)}" alt="{name}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _tables(text: str) -> Iterator[str]:
    """The report's Markdown, which is headings, paragraphs and tables only, as HTML."""
    block: list[str] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            block.append(line)
            continue
        if block:
            head, _, *rows = ([cell.strip() for cell in r.strip("|").split("|")] for r in block)
            cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
            body = "".join(
                f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>"
                for row in rows
            )
            yield f"<table><tr>{cells}</tr>{body}</table>"
            block = []
        if line and not line.startswith("#"):
            yield f"<p>{html.escape(line.replace('**', ''))}</p>"
