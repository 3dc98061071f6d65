"""Masks in COCO's run-length encoding, as they stand in JSON files."""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

RLE = dict[str, Any]  # size: [h, w], counts: compressed runs, as text
MAX_PIXELS = 1 << 28  # of a mask: its size comes from a file and is what decoding it takes in memory
_MAX_SHIFT = 30  # bits before the last character of a run; pycocotools shifts beyond its integers without looking


def encode_mask(mask: np.ndarray) -> RLE:
    """A (h, w) mask in COCO's run-length encoding, with text that goes into JSON."""
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def decode_mask(rle: RLE) -> np.ndarray:
    """(h, w) bool."""
    return coco_mask.decode(rle).astype(bool)


def coco_annotation(number: int, image_id: int | str, rle: RLE) -> dict[str, Any]:
    """An object in COCO's format, of the only category."""
    return {
        "id": number,
        "image_id": image_id,
        "category_id": 1,
        "segmentation": rle,
        "area": int(coco_mask.area(rle)),
        "bbox": coco_mask.toBbox(rle).tolist(),
        "iscrowd": 0,
    }


def check_rle(rle: Any, where: str) -> RLE:
    """A mask from a file, if it is one; what stands in files is not handed to pycocotools unchecked.

    Raises:
        ValueError: it is no run-length encoding of a mask.
    """
    try:
        height, width = (int(side) for side in rle["size"])
        counts = rle["counts"]
        runs = [int(run) for run in counts] if isinstance(counts, list) else _runs_of(counts)
        if height * width > MAX_PIXELS:
            raise ValueError(f"{height} x {width} pixels are more than any frame has")
        if height < 1 or width < 1 or min(runs, default=-1) < 0 or sum(runs) != height * width:
            raise ValueError(f"its runs do not fill {height} x {width} pixels")
        if isinstance(counts, list):
            compressed = coco_mask.frPyObjects({"size": [height, width], "counts": runs}, height, width)
            counts = compressed["counts"].decode("ascii")
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise ValueError(f"{where}: not a mask in COCO's run-length encoding ({error})") from error
    return {"size": [height, width], "counts": counts}


def _runs_of(counts: str) -> list[int]:
    """Lengths of the runs of a compressed mask: 5 bits a character, from the fourth on less the one before the last."""
    runs: list[int] = []
    value, shift = 0, 0
    for character in counts:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"the character {character!r} is not one of the encoding")
        if shift > _MAX_SHIFT:
            raise ValueError("one of its runs is longer than any mask")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value, shift = 0, 0
    if shift:
        raise ValueError("its last run is cut off")
    return runs
