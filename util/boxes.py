"""Boxes: their two notations, their overlap, and the box of a mask.

`cxcywh` is centre and size, `xyxy` the left, top, right and bottom edges. Edges lie between pixels, so a mask of one
pixel at column x reaches from x to x + 1.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_convert


def box_cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(..., 4) cxcywh -> (..., 4) xyxy, in the same unit."""
    return box_convert(boxes, "cxcywh", "xyxy")


def box_xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """(..., 4) xyxy -> (..., 4) cxcywh, in the same unit."""
    return box_convert(boxes, "xyxy", "cxcywh")


def generalized_box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Generalised IoU, box by box: IoU - (hull - union) / hull, in [-1, 1] (Rezatofighi et al., CVPR 2019).

    torchvision offers the matrix of all pairs, and a loss with an epsilon that shows on small boxes; here shapes
    broadcast, and a box without area gives a number, not NaN.

    Args:
        boxes1: (..., 4) xyxy.
        boxes2: (..., 4) xyxy.

    Returns:
        (...), the broadcast shape without the last dimension.
    """
    tiny = torch.finfo(boxes1.dtype).tiny
    intersection = _area(
        torch.maximum(boxes1[..., :2], boxes2[..., :2]), torch.minimum(boxes1[..., 2:], boxes2[..., 2:])
    )
    hull = _area(torch.minimum(boxes1[..., :2], boxes2[..., :2]), torch.maximum(boxes1[..., 2:], boxes2[..., 2:]))
    union = _area(boxes1[..., :2], boxes1[..., 2:]) + _area(boxes2[..., :2], boxes2[..., 2:]) - intersection
    return intersection / union.clamp(min=tiny) - (hull - union) / hull.clamp(min=tiny)


def masks_to_boxes(masks: Tensor) -> Tensor:
    """The tight box of each mask; zeros where a mask is empty.

    Args:
        masks: (..., H, W) bool.

    Returns:
        (..., 4) float32 xyxy in pixels.
    """
    height, width = masks.shape[-2:]
    columns, rows = masks.any(-2).to(torch.uint8), masks.any(-1).to(torch.uint8)
    left, top = columns.argmax(-1), rows.argmax(-1)  # argmax gives the first of equal values
    right, bottom = width - columns.flip(-1).argmax(-1), height - rows.flip(-1).argmax(-1)
    boxes = torch.stack((left, top, right, bottom), dim=-1).float()
    return boxes * columns.any(-1, keepdim=True)


def _area(top_left: Tensor, bottom_right: Tensor) -> Tensor:
    sides = (bottom_right - top_left).clamp(min=0)
    return sides[..., 0] * sides[..., 1]
