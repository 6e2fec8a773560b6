"""Export panoramas as FiftyOne's own dataset format (`fiftyone.types.FiftyOneDataset`).

    metadata.json, samples.json    a sample for each panorama: field `ground_truth`, detections with
                                   box and mask; `split`, `scene_id`, and others as in a row
    data/<panorama>.jpg            with GPano metadata

Open it with `fiftyone.Dataset.from_dir(FOLDER, dataset_type=fiftyone.types.FiftyOneDataset)`.
"""

from __future__ import annotations

import base64
import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.export.dataset_rows import DatasetRow
from pipeline.export.resumable import Record
from pipeline.pictures.write import encode_panorama
from pipeline.shards.reader import decode_image, masks
from pipeline.storage import open_atomic, write_atomic
from pipeline.taxonomy import class_of


@dataclass(frozen=True)
class FiftyOneExport:
    """FiftyOne's own format.

    Attributes:
        categories: "own" or a taxonomy; objects without a class there are left out.
    """

    categories: str = "own"

    @property
    def format(self) -> str:
        return "fiftyone"

    @property
    def columns(self) -> tuple[str, ...]:
        return ()

    def write_row(self, row: DatasetRow, folder: Path) -> Record:
        """Write the picture of a panorama, and its sample."""
        image = decode_image({"bytes": row.webp, "path": row.stem})
        name = f"data/{row.stem}.jpg"
        write_atomic(folder / name, encode_panorama(image, ".jpg"))
        values = row.values
        objects = values["objects"]
        found = (
            self._detection(thing, mask)
            for thing, mask in zip(objects, masks(objects), strict=True)
        )
        sample = {
            "filepath": name,
            "tags": [row.split],
            "metadata": {
                "_cls": "ImageMetadata",
                "width": values["width"],
                "height": values["height"],
                "num_channels": 3,
            },
            "ground_truth": {"_cls": "Detections", "detections": [one for one in found if one]},
            **{key: values[key] for key in ("image_id", "scene_id", "generator", "seed")},
        }
        return {"files": [name], "sample": sample}

    def _detection(self, thing: dict[str, Any], mask: NDArray[np.bool_]) -> dict[str, Any] | None:
        label = thing["category"]
        if self.categories != "own":
            counterpart = class_of(label, self.categories)
            if counterpart is None:
                return None
            label = counterpart.name
        x, y, w, h = map(int, thing["bbox"])
        height, width = mask.shape
        return {
            "_cls": "Detection",
            "label": label,
            "bounding_box": [x / width, y / height, w / width, h / height],
            "mask": {"$binary": {"base64": packed(mask[y : y + h, x : x + w]), "subType": "00"}},
            "instance_id": thing["id"],
            "is_structure": thing["is_structure"],
            "solid_angle": thing["solid_angle"],
        }

    def finish(self, folder: Path, records: Iterator[Record]) -> None:
        """Write samples.json and metadata.json."""
        with open_atomic(folder / "samples.json") as file:
            file.write(b'{"samples": [')
            for number, record in enumerate(records):
                text = json.dumps(record["sample"], allow_nan=False)
                file.write((",\n" if number else "\n").encode() + text.encode())
            file.write(b"\n]}\n")
        about = {"name": "sap-panorama", "media_type": "image", "info": {}}
        write_atomic(folder / "metadata.json", json.dumps(about, indent=1).encode())


def packed(mask: NDArray[np.bool_]) -> str:
    """A mask as FiftyOne stores arrays: NumPy's file format, compressed, in base64."""
    file = io.BytesIO()
    np.save(file, mask, allow_pickle=False)
    return base64.b64encode(zlib.compress(file.getvalue())).decode("ascii")
