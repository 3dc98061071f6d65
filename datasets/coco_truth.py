"""Ground truth of single frames in COCO format: one image a sample, one annotation an image."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datasets.files import member, read_json
from util.rle import RLE, check_rle, coco_annotation, encode_mask


@dataclass(frozen=True)
class Truth:
    """The object of a sample.

    Attributes:
        size: (h, w) of its frame.
        rle: the mask, compressed.
    """

    size: tuple[int, int]
    rle: RLE


def make_truths(masks: Iterable[tuple[str, np.ndarray]]) -> dict[str, Any]:
    """The content of a ground truth file, from pairs of an image id and its mask (h, w)."""
    images, annotations = [], []
    for number, (image_id, mask) in enumerate(masks, start=1):
        rle = encode_mask(mask)
        height, width = rle["size"]
        images.append({"id": image_id, "height": height, "width": width})
        annotations.append(coco_annotation(number, image_id, rle))
    return {"categories": [{"id": 1, "name": "object"}], "images": images, "annotations": annotations}


def read_truths(path: Path) -> dict[str, Truth]:
    """{image id: ground truth} of a file, ours or one that others distribute.

    Raises:
        FileNotFoundError: it is missing.
        ValueError: it is damaged or no ground truth.
    """
    content = read_json(path)
    truths = {}
    for annotation in member(content, "annotations", list, f"{path}:"):
        where = f"{path}: an annotation"
        image_id = member(annotation, "image_id", str, where)
        rle = check_rle(member(annotation, "segmentation", dict, f"{where} of {image_id}"), f"{path}: {image_id}")
        if image_id in truths and truths[image_id].rle != rle:
            raise ValueError(f"{path}: two different masks of {image_id}")
        truths[image_id] = Truth((rle["size"][0], rle["size"][1]), rle)
    return truths
