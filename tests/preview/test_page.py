"""The preview page: complete, self-contained, safe against its data, working in a browser."""

from __future__ import annotations

import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import viewer
from pipeline.annotations.annotate import InstanceInfo, annotate
from pipeline.layout import RunFolder
from pipeline.preview import page
from pipeline.shards.schema import make_schema
from pipeline.statistics.measure import measure_batches
from tests.errors import raises_user_error

Row = dict[str, Any]


def synthetic_row(width: int = 256, seed: int = 0, balls: int = 20) -> Row:
    """A ray-cast room with balls; the first ball is on the seam, the last at a pole."""
    height = width // 2
    ids, picture = cast_room(width, ball_directions(balls, seed), seed)
    instances = {
        number: InstanceInfo(f"room {name}", name, is_structure=True)
        for number, name in enumerate(("wall", "floor", "ceiling"), start=1)
    }
    for i in range(balls):
        name = f"BallFactory({seed * 1000 + i}).spawn_asset({i})"
        instances[4 + i] = InstanceInfo(name, f"ball_{i % 7}", is_structure=False)
    objects, _ = annotate(ids, instances, 1)
    return {
        "image": {"bytes": cv2.imencode(".png", picture)[1].tobytes(), "path": "image.png"},
        "ids": {"bytes": cv2.imencode(".png", ids)[1].tobytes(), "path": "ids.png"},
        "image_id": f"spheres-{seed:010d}/0",
        "scene_id": f"spheres-{seed:010d}",
        "width": width,
        "height": height,
        "generator": "spheres",
        "seed": seed,
        "camera": {"position": [0.0, 0.0, 1.5], "rotation_euler": [1.57, 0.0, 0.0], "room": "room"},
        "objects": objects,
        "provenance": {
            "pipeline": "0.1.0",
            "infinigen": "2.0.0a3",
            "bpy": "4.2.0",
            "profile": "draft",
            "samples": 8,
            "device": "cpu",
            "settings_hash": "0123456789ab",
            "exposure_stops": -0.5,
        },
    }


def ball_directions(count: int, seed: int) -> list[tuple[np.ndarray, float]]:
    """Unit direction and angular radius of every ball."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(count, 3)) * (1, 1, 0.45)
    directions[0], directions[-1] = (0, -1, 0.1), (0.05, 0, -1)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return list(zip(directions, rng.uniform(0.04, 0.28, count), strict=True))


def cast_room(
    width: int, balls: list[tuple[np.ndarray, float]], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """16-bit id map and BGR picture: walls 1, floor 2, ceiling 3, balls from 4."""
    height = width // 2
    lon = ((np.arange(width) + 0.5) / width - 0.5) * 2 * np.pi
    lat = (0.5 - (np.arange(height) + 0.5) / height)[:, None] * np.pi
    rays = np.stack(
        np.broadcast_arrays(np.cos(lat) * np.sin(lon), np.cos(lat) * np.cos(lon), np.sin(lat)), -1
    ).astype(np.float32)
    reach = np.abs(rays) / (3.0, 2.5, 1.4)
    side = reach.argmax(-1)
    ids = np.where(side < 2, 1, np.where(rays[..., 2] < 0, 2, 3)).astype(np.uint16)
    tile = np.floor(rays / reach.max(-1, keepdims=True) * 2).sum(-1) % 2
    light = 0.45 + 0.2 * side + 0.06 * tile
    picture = light[..., None] * np.array((200, 215, 225), np.float32)
    rng = np.random.default_rng(seed + 1)
    for number, (direction, radius) in enumerate(balls, start=4):
        inside = (cosine := rays @ direction.astype(np.float32)) > np.cos(radius)
        shade = np.clip((cosine[inside] - np.cos(radius)) / (1 - np.cos(radius)), 0, 1) ** 0.5
        ids[inside] = number
        picture[inside] = (0.25 + 0.75 * shade)[:, None] * rng.uniform(40, 255, 3)
    return ids, np.clip(picture, 0, 255).astype(np.uint8)


def write_shards(run: RunFolder, rows: list[Row]) -> None:
    """Write shards as the packer does: one row per row group."""
    path = run.shards / "data" / "train-00000.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=make_schema()), path, row_group_size=1)


def render(rows: list[Row], name: str = "run") -> str:
    batch = pa.RecordBatch.from_pylist(rows, make_schema())
    statistics = measure_batches([("train-00000.parquet", batch)])
    return page.render_page(page.run_summary(statistics, name), map(page.panorama_panel, rows))


class Elements(HTMLParser):
    """The elements of a page as (tag, attributes), and the content of every JSON script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.json: list[Any] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        tag, attributes = self.found[-1] if self.found else ("", {})
        if tag == "script" and attributes.get("type") == "application/json" and data.strip():
            self.json.append(json.loads(data))


def test_page_contains_every_panorama_and_instance(tmp_path: Path) -> None:
    rows = [synthetic_row(seed=seed) for seed in range(3)]
    run = RunFolder(tmp_path / "my run")
    write_shards(run, rows)
    path = page.write_preview(run)
    assert path == run.preview / "index.html"
    summary, *panels = Elements(path.read_text()).json
    assert [panel["image_id"] for panel in panels] == [row["image_id"] for row in rows]
    for panel, row in zip(panels, rows, strict=True):
        assert [item["id"] for item in panel["objects"]] == [item["id"] for item in row["objects"]]
    assert summary["name"] == "my run"
    assert (summary["panoramas"], summary["scenes"]) == (3, 3)
    assert summary["instances"] == sum(len(row["objects"]) for row in rows)
    assert summary["made_with"]["settings_hash"] == [{"value": "0123456789ab", "panoramas": 3}]
    assert summary["made_with"]["generator"] == [{"value": "spheres", "panoramas": 3}]


def test_page_loads_no_other_file() -> None:
    text = render([synthetic_row()])
    for bundled in (viewer.SCRIPT, viewer.STYLE):  # has addresses in comments and namespaces
        text = text.replace(bundled.read_text("utf-8"), "")
    assert "default-src 'none'" in text
    assert not re.search(r"https?:|//\w+\.|@import|url\(", text.replace("data:", ""))
    for tag, attributes in Elements(text).found:
        assert tag not in {"link", "iframe", "object", "embed", "base"}
        assert not {"src", "href"} & set(attributes)


def test_header_counts_all_rows_and_panels_are_evenly_spaced(tmp_path: Path) -> None:
    rows = [synthetic_row(64, seed=seed, balls=3) for seed in range(7)]
    run = RunFolder(tmp_path)
    write_shards(run, rows)
    summary, *panels = Elements(page.write_preview(run, limit=3).read_text()).json
    assert [panel["seed"] for panel in panels] == [0, 3, 6]
    assert summary["panoramas"] == 7


def test_page_is_current_until_the_shards_change(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    write_shards(run, [synthetic_row(64, balls=3)])
    manifest = run.shards / "manifest.json"
    manifest.write_text('{"train-00000.parquet": {}}')
    assert not page.is_current(run)  # it does not exist
    path = page.write_preview(run)
    os.utime(manifest, ns=(0, path.stat().st_mtime_ns - 1))
    assert page.is_current(run)
    os.utime(manifest, ns=(0, path.stat().st_mtime_ns + 1))  # packed later
    assert not page.is_current(run)


@pytest.mark.parametrize(
    ("count", "limit", "expected"),
    [(0, 5, []), (3, 5, [0, 1, 2]), (5, 5, [0, 1, 2, 3, 4]), (9, 1, [0]), (100, 3, [0, 50, 99])],
)
def test_evenly_spaced(count: int, limit: int, expected: list[int]) -> None:
    assert page.evenly_spaced(count, limit) == expected


def test_no_panoramas_is_a_user_error(tmp_path: Path) -> None:
    with raises_user_error(RunFolder(tmp_path).shards):
        page.write_preview(RunFolder(tmp_path))
    with raises_user_error("LIMIT=0"):
        page.write_preview(RunFolder(tmp_path), limit=0)


MARKUP = '</script><img src=x onerror="document.title=1"><!--<script>{{summary}}&amp;'


def test_html_in_the_data_stays_text() -> None:
    row = synthetic_row(balls=4)
    row["objects"][3]["category"] = row["camera"]["room"] = row["objects"][3]["name"] = MARKUP
    text = render([row], name=MARKUP)
    elements = Elements(text)
    assert "img" not in {tag for tag, _ in elements.found}
    summary, panel = elements.json
    assert summary["name"] == panel["room"] == panel["objects"][3]["category"] == MARKUP


def test_instances_without_annotation_are_counted() -> None:
    row = synthetic_row()
    assert page.panorama_panel(row)["too_small"] == 0
    row["objects"].pop()
    assert page.panorama_panel(row)["too_small"] == 1


def test_id_map_keeps_16_bit_ids() -> None:
    ids = np.arange(0, 7 * 64 * 128, 7, dtype=np.uint16).reshape(64, 128)
    packed = cv2.imdecode(np.frombuffer(page.encode_ids(ids), np.uint8), cv2.IMREAD_COLOR)
    assert (packed[..., 2] + 256 * packed[..., 1].astype(int) == ids).all()


def test_noisy_4k_picture_stays_small() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2048, 4096, 3), np.uint8)
    picture = page.encode_picture(noise)
    assert len(picture) <= page.MAX_JPEG_BYTES
    assert cv2.imdecode(np.frombuffer(picture, np.uint8), 1).shape == (1024, 2048, 3)


def test_in_a_browser(browser: Any, tmp_path: Path) -> None:
    """Pointing at each click highlights its instance: id map, hit test and annotations agree."""
    row = synthetic_row(512)
    row["objects"][5]["category"] = MARKUP
    path = tmp_path / "index.html"
    path.write_text(render([row]))
    browser.open(path, "#masks")
    browser.wait_for("document.querySelector('canvas') && viewers[0].loaded !== null")
    assert browser.evaluate("visible.masks && !visible.outlines")

    browser.evaluate("document.querySelector('canvas').scrollIntoView({block: 'center'})")
    box = browser.evaluate("document.querySelector('canvas').getBoundingClientRect().toJSON()")
    for item in row["objects"]:
        x, y = ((value + 0.5) / row["width"] * box["width"] for value in item["click"])
        browser.point_at(box["left"] + x, box["top"] + y)
        assert browser.evaluate("viewers[0].lit") == item["id"]
        assert browser.evaluate("tooltip.firstChild.textContent") == item["category"]
        assert browser.evaluate("document.querySelectorAll('tr.lit').length") == 1

    seam_ball = row["objects"][3]
    assert seam_ball["crosses_seam"]
    browser.evaluate("viewers[0].moveTo(0.5, 0)")
    x, y = ((value + 0.5) / row["width"] * box["width"] for value in seam_ball["click"])
    across = (x + box["width"] / 2) % box["width"]  # the ball on the seam is now in the middle
    browser.point_at(box["left"] + across, box["top"] + y)
    assert browser.evaluate("viewers[0].lit") == seam_ball["id"]

    browser.evaluate("document.querySelector('.around').click()")
    browser.wait_for("document.querySelector('dialog')?.dataset.ready === '1'", 60)
    pinned = browser.evaluate("viewers[0].pinned")
    middle = browser.evaluate(
        "(({left, top, width, height}) => [left + width / 2, top + height / 2])"
        "(document.querySelector('.look-around-sphere').getBoundingClientRect())"
    )
    browser.click(*middle)
    browser.wait_for(f"viewers[0].pinned !== {pinned}")
    browser.wait_for("document.querySelector('.look-around-note').textContent.length > 3")
    browser.evaluate("document.querySelector('dialog button').click()")
    browser.wait_for("document.querySelector('dialog') === null")

    methods = [event["method"] for event in browser.events]
    loaded = [
        event["params"]["request"]["url"].partition(":")[0]
        for event in browser.events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert set(loaded) <= {"file", "data", "blob"}
    assert not {"Runtime.exceptionThrown", "Log.entryAdded"} & set(methods)
