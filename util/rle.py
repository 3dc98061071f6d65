"""Masks in COCO's run-length encoding, as they stand in JSON files."""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

RLE = dict[str, Any]  # size: [h, w], counts: compressed runs, as text


def encode_mask(mask: np.ndarray) -> RLE:
    """A (h, w) mask in COCO's run-length encoding, with text that goes into JSON."""
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def decode_mask(rle: RLE) -> np.ndarray:
    """(h, w) bool."""
    return coco_mask.decode(rle).astype(bool)


def check_rle(rle: Any, where: str) -> RLE:
    """A mask from a file, if it is one.

    Raises:
        ValueError: it is no run-length encoding of a mask.
    """
    try:
        height, width = (int(side) for side in rle["size"])
        counts = rle["counts"]
        if isinstance(counts, list):
            checked = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
            checked["counts"] = checked["counts"].decode("ascii")
        else:
            checked = {"size": [height, width], "counts": str(counts)}
        if height < 1 or width < 1 or coco_mask.decode(checked).shape != (height, width):
            raise ValueError("its runs do not fill it")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{where}: not a mask in COCO's run-length encoding ({error})") from error
    return checked
