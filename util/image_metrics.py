"""Scores of referring expressions in single images: P@K of boxes and masks, overall and mean IoU (RefCOCO/+/g)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Overlap:
    """How the answer to one sentence overlaps its truth.

    Attributes:
        intersection: of the masks (pixels).
        union: of the masks (pixels).
        box_iou: IoU of the boxes.
    """

    intersection: int
    union: int
    box_iou: float


def compare(
    mask: NDArray[np.bool_], box: Sequence[float], true_mask: NDArray[np.bool_], true_box: Sequence[float]
) -> Overlap:
    """The overlap of an answer with its truth.

    Args:
        mask: (h, w) bool.
        box: x, y, x, y of the edges.
        true_mask: (h, w) bool.
        true_box: x, y, x, y of the edges.

    Raises:
        ValueError: the masks have different sizes.
    """
    if mask.shape != true_mask.shape:
        raise ValueError(f"the predicted mask is {mask.shape}, the true one {true_mask.shape} (h, w)")
    intersection = int(np.count_nonzero(mask & true_mask))
    union = int(np.count_nonzero(mask)) + int(np.count_nonzero(true_mask)) - intersection
    return Overlap(intersection, union, box_iou(box, true_box))


def box_iou(first: Sequence[float], second: Sequence[float]) -> float:
    """IoU of two boxes x, y, x, y; 0 when neither has an area."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    intersection = max(width, 0.0) * max(height, 0.0)
    areas = sum(max(b[2] - b[0], 0.0) * max(b[3] - b[1], 0.0) for b in (first, second))
    return float(intersection / (areas - intersection)) if areas > intersection else float(intersection > 0)


def score_images(overlaps: Sequence[Overlap]) -> dict[str, float]:
    """Means over sentences.

    Args:
        overlaps: of all of them.

    Returns:
        `P@0.5` to `P@0.9`, the share of sentences whose mask IoU is above; `overall_IoU`, the sum of intersections
        over that of unions; `mean_IoU`; `box_P@0.5` to `box_P@0.9` and `box_mean_IoU`; `num_samples`. Two empty
        masks have an IoU of 1.

    Raises:
        ValueError: there is nothing to score.
    """
    if not overlaps:
        raise ValueError("no sentences to score")
    intersections = np.array([overlap.intersection for overlap in overlaps], np.int64)
    unions = np.array([overlap.union for overlap in overlaps], np.int64)
    boxes = np.array([overlap.box_iou for overlap in overlaps])
    ious = np.where(unions > 0, intersections / np.maximum(unions, 1), 1.0)
    return {
        **{f"P@{threshold}": float((ious > threshold).mean()) for threshold in THRESHOLDS},
        "overall_IoU": float(intersections.sum() / unions.sum()) if unions.sum() else 1.0,
        "mean_IoU": float(ious.mean()),
        **{f"box_P@{threshold}": float((boxes > threshold).mean()) for threshold in THRESHOLDS},
        "box_mean_IoU": float(boxes.mean()),
        "num_samples": len(overlaps),
    }
