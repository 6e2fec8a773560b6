"""What the demo keeps: the panoramas that it offers, and what people segmented on them."""

from __future__ import annotations

import base64
import io
import json
import secrets
import tempfile
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from pipeline.annotations.boxes import wrapped_crop
from pipeline.errors import UserError
from pipeline.pictures.read import read_picture
from pipeline.shards.reader import ShardReader, decode_ids, decode_image
from sap_model.config import Demo
from sap_model.predict.formats import encode_labels, encode_rle, label_map, to_coco
from sap_model.predict.objects import Prompt, panorama_size, prompt_of
from sap_model.predict.predictor import SapPredictor
from sap_model.predict.session import SegmentedObject, Session
from sap_model.predict.warp import Step
from sap_model.scan.trajectory import Scan
from sap_model.scan.views import PerspectiveViews
from sap_model.segment.everything import EverythingOptions
from sap_model.segment.sources import PICTURES

MAX_SESSIONS = 4
"""Panoramas whose features are kept; the one that was not used for longest goes first."""

MAX_LISTED = 200
"""Panoramas in the page's list."""

PAGE_WIDTH = 4096
"""The page shows at most so many columns; masks are sent at half of that."""

VIEW_PIXELS = 96
"""Side of a view in the panel of the scan."""

FIRST_OF_EVERYTHING = 1001
"""Number of the first mask of everything; objects that are clicked have lower ones."""

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]


class NotFoundError(UserError):
    """There is no such panorama, session or object."""


@dataclass(frozen=True)
class TrueMask:
    """An object of the ground truth."""

    category: str
    mask: Mask


@dataclass(frozen=True)
class Panorama:
    """A panorama that can be opened; `load` gives its picture and the ground truth, if any."""

    name: str
    load: Callable[[], tuple[Image, list[TrueMask]]]
    has_truth: bool = False


@dataclass
class OpenPanorama:
    """A panorama that somebody works on."""

    image: Image
    truth: list[TrueMask]
    predictor: SapPredictor
    ready: Session | None = None
    """None while the views are encoded."""
    views: Image | None = None
    """All views of the scan on one picture, small."""

    @property
    def session(self) -> Session:
        """What was segmented.

        Raises:
            NotFoundError: The views are not encoded.
        """
        if self.ready is None:
            raise NotFoundError("the views are not ready; wait until the panorama is encoded")
        return self.ready


class Sessions:
    """The demo's state. All methods are called from one thread.

    Args:
        predictor: Makes a predictor; all of them share the model.
        panoramas: What the page offers first.
    """

    def __init__(self, predictor: Callable[[], SapPredictor], panoramas: list[Panorama]) -> None:
        self._predictor = predictor
        self._panoramas = {str(i): panorama for i, panorama in enumerate(panoramas)}
        self._open: OrderedDict[str, OpenPanorama] = OrderedDict()

    def list(self) -> list[dict[str, Any]]:
        """The panoramas as the page lists them."""
        return [{"id": key, "name": one.name} for key, one in self._panoramas.items()]

    def add(self, name: str, data: bytes) -> dict[str, Any]:
        """Take a picture that a person uploaded.

        Raises:
            UserError: It is not a panorama that can be read.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name  # the message names it
            path.write_bytes(data)
            image = read_picture(path).pixels
        key = f"u{secrets.token_hex(4)}"
        self._panoramas[key] = Panorama(name, lambda: (image, []))
        uploaded = [key for key in self._panoramas if key.startswith("u")]
        for old in uploaded[:-MAX_SESSIONS]:
            del self._panoramas[old]
        return {"id": key, "name": name}

    def open(self, panorama_id: str) -> Iterator[dict[str, Any]]:
        """Open a panorama: yields its session and size, the progress of encoding, and `ready`."""
        began = time.monotonic()
        panorama = self._panoramas.get(panorama_id)
        if panorama is None:
            raise NotFoundError(f"there is no panorama {panorama_id!r}; choose one from the list")
        image, truth = panorama.load()
        opened = OpenPanorama(image, truth, self._predictor())
        while len(self._open) >= MAX_SESSIONS:
            self._open.popitem(last=False)
        key = secrets.token_urlsafe(12)
        self._open[key] = opened
        height, width = image.shape[:2]
        yield {"session": key, "width": width, "height": height, "truth": bool(truth)}
        scan = opened.predictor.scan
        for encoded in opened.predictor.encode_steps(image):
            yield {"encoded": encoded, "views": len(scan)}
        opened.views = view_sheet(scan, image)
        opened.ready = opened.predictor.session()
        yield {"ready": True, "seconds": time.monotonic() - began, "grid": grid(scan)}

    def opened(self, key: str) -> OpenPanorama:
        """An open panorama.

        Raises:
            NotFoundError: There is none of this name any more.
        """
        if key not in self._open:
            raise NotFoundError("this panorama was closed; choose it from the list")
        self._open.move_to_end(key)
        return self._open[key]

    def close(self, key: str) -> None:
        """Forget a session."""
        self._open.pop(key, None)

    def segment(self, key: str, number: int, prompt: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Segment an object: yields masks that grow view by view, then the final one."""
        opened = self.opened(key)
        made, name = parse_prompt(prompt, panorama_size(opened.image))
        step: Step | None = None
        for step in opened.session.segment_steps(number, made, name):
            if step.prediction is None:
                yield {
                    "mask": mask_url(step.mask),
                    "seen": len(step.view_masks),
                    "of": len(opened.predictor.scan),
                    "clicked": step.clicked,
                    "view_masks": view_urls(step),
                }
        if step is None or step.prediction is None:
            return
        mask = step.prediction.mask
        yield {
            "done": True,
            "mask": mask_url(mask),
            "view_masks": view_urls(step),
            "iou": step.prediction.iou,
            "area": int(mask.sum()),
            "solid_angle": step.prediction.solid_angle,
            "truth": best_match(mask, opened.truth),
        }

    def everything(self, key: str) -> Iterator[dict[str, Any]]:
        """Segment everything: yields the progress, then all masks as one map of numbers."""
        opened = self.opened(key)
        session = opened.session
        for step in opened.predictor.everything_steps(EverythingOptions()):
            if step.segments is None:
                yield {"stage": step.stage, "done_of": [step.done, step.total]}
                continue
            forget_everything(session)
            for number, one in enumerate(step.segments, start=FIRST_OF_EVERYTHING):
                made = SegmentedObject(f"mask {number}", Prompt(), one)
                session.objects[number] = made
            masks = {i: one.mask for i, one in enumerate(step.segments, start=1)}
            labels = label_map(masks, panorama_size(opened.image))
            yield {"labels": labels_url(labels), "count": len(step.segments)}


def forget_everything(session: Session) -> None:
    """Remove the masks of `Sessions.everything`, and leave those that were clicked."""
    for number in [number for number in session.objects if number >= FIRST_OF_EVERYTHING]:
        del session.objects[number]


def labels_url(labels: NDArray[np.uint16]) -> str:
    """A map of numbers, at most half of PAGE_WIDTH wide, as a PNG in a data URL: red is the low
    byte, green the high one."""
    if labels.shape[1] > PAGE_WIDTH // 2:
        size = (PAGE_WIDTH // 2, PAGE_WIDTH // 2 * labels.shape[0] // labels.shape[1])
        nearest = cv2.INTER_NEAREST_EXACT
        labels = np.asarray(cv2.resize(labels, size, interpolation=nearest), np.uint16)
    channels = (np.zeros_like(labels), labels >> 8, labels & 255)  # OpenCV's order is B, G, R
    _, data = cv2.imencode(".png", np.dstack(channels).astype(np.uint8))
    return "data:image/png;base64," + base64.b64encode(data.tobytes()).decode()


def open_sessions(options: Demo, panoramas: list[Panorama]) -> tuple[Sessions, str]:
    """The demo's state with a model loaded, and the model's name.

    Raises:
        UserError: The weights cannot be loaded.
    """
    import torch

    torch.set_num_threads(options.threads)
    cv2.setNumThreads(options.threads)
    checkpoint = options.checkpoint or "sap-nano"
    first = SapPredictor.from_pretrained(
        checkpoint, method=options.method, size=options.size, image_size=options.image_size
    )
    return Sessions(lambda: SapPredictor(first.model, options.method), panoramas), checkpoint


def parse_prompt(prompt: dict[str, Any], size: tuple[int, int]) -> tuple[Prompt, str]:
    """The prompt and the object's name of a request.

    Raises:
        UserError: It is not a prompt, or lies outside of the panorama.
    """
    given = {name: prompt.get(name) for name in ("points", "labels", "box")}
    return prompt_of(size, **given), str(prompt.get("name", "object"))[:100]


def best_match(mask: Mask, truth: list[TrueMask]) -> dict[str, Any] | None:
    """The true object that a mask overlaps most, with the IoU; None where there is none."""
    best, best_iou = None, 0.0
    for one in truth:
        overlap = float(np.count_nonzero(mask & one.mask))
        iou = overlap / max(1.0, float(np.count_nonzero(mask | one.mask))) if overlap else 0.0
        if iou > best_iou:
            best, best_iou = one, iou
    if best is None:
        return None
    return {"category": best.category, "iou": best_iou, "mask": mask_url(best.mask)}


def mask_url(mask: Mask) -> str:
    """A mask as a grey PNG of at most half of PAGE_WIDTH columns, in a data URL."""
    pixels: NDArray = mask.astype(np.uint8) * 255
    if pixels.shape[1] > PAGE_WIDTH // 2:
        size = (PAGE_WIDTH // 2, PAGE_WIDTH // 2 * mask.shape[0] // mask.shape[1])
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return "data:image/png;base64," + base64.b64encode(data.tobytes()).decode()


def view_urls(step: Step) -> dict[int, str]:
    """The masks of the views, small, as data URLs."""
    return {view: mask_url(mask) for view, mask in step.view_masks.items()}


def view_sheet(scan: Scan, image: Image) -> Image:
    """All views, small, each at its column and row of the scan; the highest row is on top."""
    views = PerspectiveViews(scan, VIEW_PIXELS, image.shape[1]).render(image)
    sheet = np.zeros((scan.rows * VIEW_PIXELS, scan.columns * VIEW_PIXELS, 3), np.uint8)
    for picture, place in zip(views, grid(scan)["views"], strict=True):
        top, left = place["row"] * VIEW_PIXELS, place["column"] * VIEW_PIXELS
        sheet[top : top + VIEW_PIXELS, left : left + VIEW_PIXELS] = picture
    return sheet


def grid(scan: Scan) -> dict[str, Any]:
    """Where the page shows each view: as on the flat panorama, whose centre has yaw 0."""
    half = scan.columns // 2
    places = [
        {"column": (view.column + half) % scan.columns, "row": scan.rows - 1 - view.row}
        for view in scan.views
    ]
    return {"columns": scan.columns, "rows": scan.rows, "views": places}


def picture_jpeg(image: Image) -> bytes:
    """A panorama as the page shows it."""
    bgr: NDArray = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    if image.shape[1] > PAGE_WIDTH:
        bgr = cv2.resize(bgr, (PAGE_WIDTH, PAGE_WIDTH // 2), interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


def label_png(session: Session) -> bytes:
    """All masks as one 16-bit PNG: the object's number at each pixel, 0 for none.

    Where masks overlap the smaller object is on top.
    """
    masks = {number: one.mask for number, one in session.predictions().items()}
    return encode_labels(label_map(masks, panorama_size(session.image)))


def coco_json(session: Session, file_name: str) -> bytes:
    """The objects as a COCO file with compressed run-length masks and boxes."""
    height, width = session.image.shape[:2]
    annotations = to_coco(session.predictions())
    for annotation in annotations:
        annotation["name"] = session.objects[annotation["id"]].name
    content = {
        "images": [{"id": 1, "file_name": file_name, "width": width, "height": height}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "object"}],
    }
    return json.dumps(content, indent=1).encode()


def cutouts_zip(session: Session) -> bytes:
    """A PNG of each object on a transparent ground, cut to its box (which may wrap the seam)."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for number, one in session.predictions().items():
            if not one.mask.any():
                continue
            x, y, w, h = map(int, coco_mask.toBbox(encode_rle(one.mask)))
            crop = wrapped_crop(one.mask, True, (x, y, w, h))
            columns = (crop.x + np.arange(crop.mask.shape[1])) % crop.width
            rows = slice(crop.y, crop.y + crop.mask.shape[0])
            alpha = crop.mask.astype(np.uint8) * 255
            pixels = np.dstack([session.image[rows][:, columns, ::-1], alpha])
            archive.writestr(f"{number:03d}.png", cv2.imencode(".png", pixels)[1].tobytes())
    return out.getvalue()


def find_panoramas(source: str) -> list[Panorama]:
    """The panoramas of an image file, a folder of images, or a folder or URL of shards.

    Raises:
        UserError: There is none.
    """
    path = Path(source).expanduser()
    if "://" in source or (path / "data").is_dir() or list(path.glob("*.parquet")):
        return from_shards(source)
    if path.is_file():
        return [from_file(path)]
    if path.is_dir():
        files = sorted(one for one in path.iterdir() if one.suffix.lower() in PICTURES)
        if files:
            return [from_file(one) for one in files[:MAX_LISTED]]
    raise UserError(f"{source} holds no picture; give an image, a folder of images, or shards")


def from_file(path: Path) -> Panorama:
    """A picture on this machine."""
    return Panorama(path.name, lambda: (read_picture(path).pixels, []))


def from_shards(source: str) -> list[Panorama]:
    """The first panoramas of shards, with their true masks."""
    reader = ShardReader(source if "://" in source else Path(source).expanduser())
    names = [row["image_id"] for row in reader.annotations(("image_id",))]

    def load(index: int) -> tuple[Image, list[TrueMask]]:
        row = reader.row(index)
        ids = decode_ids(row["ids"])
        truth = [TrueMask(one["category"], ids == one["id"]) for one in row["objects"]]
        return decode_image(row["image"]), truth

    return [
        Panorama(name, partial(load, index), has_truth=True)
        for index, name in enumerate(names[:MAX_LISTED])
    ]
