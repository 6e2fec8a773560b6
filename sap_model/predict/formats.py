"""Masks in the formats of other programs: COCO dictionaries, supervision's Detections.

annotations = to_coco(predictions, image_id=1)
detections = to_detections(predictions)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from pipeline.errors import UserError
from sap_model.predict.objects import Segmented

if TYPE_CHECKING:
    import supervision


def to_coco(
    found: Sequence[Segmented] | Mapping[int, Segmented],
    image_id: int = 1,
    category_id: int = 1,
    first_id: int = 1,
) -> list[dict[str, Any]]:
    """COCO annotations of the masks of one panorama.

    Args:
        found: Masks (H, W); the keys of a mapping become the annotations' ids.
        image_id, category_id: As the COCO file has them.
        first_id: Id of the first annotation of a sequence.

    Returns:
        For each mask `segmentation` (compressed run lengths), `area` and `bbox` in pixels, `score`
        (the model's own estimate of the IoU), and `solid_angle` in steradian. The box of a mask
        across the seam has the panorama's full width, as COCO knows no seam.
    """
    numbered = found if isinstance(found, Mapping) else dict(enumerate(found, start=first_id))
    annotations = []
    for number, one in numbered.items():
        mask = one.mask
        rle = encode_rle(mask)
        annotations.append(
            {
                "id": number,
                "image_id": image_id,
                "category_id": category_id,
                "segmentation": {"size": list(mask.shape), "counts": rle["counts"].decode()},
                "area": int(mask.sum()),
                "bbox": [float(value) for value in coco_mask.toBbox(rle)],
                "iscrowd": 0,
                "score": float(one.iou),
                "solid_angle": float(one.solid_angle),
            }
        )
    return annotations


def to_detections(found: Sequence[Segmented]) -> supervision.Detections:
    """Detections of the supervision library: boxes x, y, x, y, masks (n, H, W), confidences.

    Raises:
        UserError: The package is missing.
    """
    try:
        # late: an optional package
        import supervision
    except ModuleNotFoundError:
        raise UserError("package supervision is missing; run: pip install supervision") from None
    if not found:
        return supervision.Detections.empty()
    masks = np.stack([one.mask for one in found])
    boxes = np.array([coco_mask.toBbox(encode_rle(mask)) for mask in masks])
    boxes[:, 2:] += boxes[:, :2]
    confidence = np.array([one.iou for one in found], np.float32)
    return supervision.Detections(
        xyxy=boxes, mask=masks, confidence=confidence, class_id=np.zeros(len(masks), int)
    )


def encode_rle(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """A mask (H, W) as pycocotools' run lengths: size, and counts in bytes."""
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))


def label_map(masks: Mapping[int, NDArray[np.bool_]], size: tuple[int, int]) -> NDArray[np.uint16]:
    """Masks by number as one map (H, W): the number at each pixel, 0 for none.

    Where masks overlap the smaller one is on top.
    """
    labels = np.zeros(size, np.uint16)
    for number, mask in sorted(masks.items(), key=lambda item: -int(item[1].sum())):
        labels[mask] = number
    return labels


def encode_labels(labels: NDArray[np.uint16]) -> bytes:
    """A label map as a 16-bit PNG."""
    return cv2.imencode(".png", labels)[1].tobytes()
