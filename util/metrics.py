"""Region similarity J and boundary accuracy F of two masks, as DAVIS 2017 defines them.

Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation", CVPR 2016, section 5.
Two masks are compared by `region_similarity` and `boundary_accuracy`. Where each of several is compared with each of
others, what belongs to one mask is done once, as a `Silhouette`. Masks are (H, W) bool arrays; everything runs on the
CPU without torch, so that worker processes start quickly.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def region_similarity(result: Mask, truth: Mask, void: Mask | None = None) -> float:
    """J: intersection over union, 1 when both masks are empty.

    Args:
        result: (H, W) bool.
        truth: (H, W) bool.
        void: (H, W) bool, pixels that count in neither mask.

    Raises:
        ValueError: the sizes differ.
    """
    result, truth = _without_void(result, truth, void)
    union = np.count_nonzero(result | truth)
    return np.count_nonzero(result & truth) / union if union else 1.0


def boundary_accuracy(result: Mask, truth: Mask, tolerance: float = 0.008, void: Mask | None = None) -> float:
    """F: harmonic mean of the precision and the recall of the result's boundary.

    A boundary pixel is matched when the other mask has a boundary pixel within a disk of radius
    `ceil(tolerance * diagonal)`. No boundary in either mask gives 1, in only one of them 0.

    Args:
        result: (H, W) bool.
        truth: (H, W) bool.
        tolerance: as a share of the image's diagonal.
        void: (H, W) bool, pixels that count in neither mask.

    Raises:
        ValueError: the sizes differ.
    """
    result, truth = _without_void(result, truth, void)
    return compare_boundaries(Silhouette.of(result, tolerance), Silhouette.of(truth, tolerance))


def summarize_scores(scores: Sequence[tuple[str | None, float, float]]) -> dict[str, Any]:
    """Means over expressions.

    Args:
        scores: of each expression its kind, where kinds are known, its J and its F.

    Returns:
        `J`, `F`, `J&F` and `num_expressions`, and the same `per_kind` where there are kinds.
    """
    summary = _means(scores)
    if kinds := sorted({kind for kind, _, _ in scores if kind}):
        summary["per_kind"] = {kind: _means([score for score in scores if score[0] == kind]) for kind in kinds}
    return summary


def _means(scores: Sequence[tuple[str | None, float, float]]) -> dict[str, Any]:
    j, f = (math.fsum(score[i] for score in scores) / max(len(scores), 1) for i in (1, 2))
    return {"J": j, "F": f, "J&F": (j + f) / 2, "num_expressions": len(scores)}


@dataclass(frozen=True)
class Silhouette:
    """A mask and its boundary, within a window of the frame that holds all of both and of the dilated boundary.

    Attributes:
        top, left: of the window in the frame.
        mask: (h, w) bool.
        boundary: (h, w) bool.
        near: (h, w) bool, pixels within the tolerance of the boundary.
        area: pixels of the mask.
        length: pixels of the boundary.
    """

    top: int
    left: int
    mask: Mask
    boundary: Mask
    near: Mask
    area: int
    length: int

    @classmethod
    def of(cls, mask: Mask, tolerance: float = 0.008) -> Silhouette:
        """Prepare a mask.

        Args:
            mask: (H, W) bool, the whole frame.
            tolerance: of boundaries, as a share of the frame's diagonal.
        """
        height, width = mask.shape
        radius = math.ceil(tolerance * math.hypot(height, width))
        x, y, w, h = cv2.boundingRect(mask.view(np.uint8))
        if w == 0:
            nothing = np.zeros((0, 0), bool)
            return cls(0, 0, nothing, nothing, nothing, 0, 0)
        # A boundary pixel may lie one to the left and above, and what is near it `radius` further. The window ends in
        # background or at the frame's edge, so the rules of the last row and column apply where they do in the frame.
        top, left = max(y - 1 - radius, 0), max(x - 1 - radius, 0)
        mask = mask[top : y + h + radius + 1, left : x + w + radius + 1]
        boundary = boundary_map(mask)
        near = cv2.dilate(boundary.view(np.uint8), _disk(radius)).view(bool)
        return cls(top, left, mask, boundary, near, int(np.count_nonzero(mask)), int(np.count_nonzero(boundary)))


def compare_regions(result: Silhouette, truth: Silhouette) -> float:
    """J of two masks of one frame."""
    a, b = _common(result, truth)
    intersection = int(np.count_nonzero(result.mask[a] & truth.mask[b]))
    union = result.area + truth.area - intersection
    return intersection / union if union else 1.0


def compare_boundaries(result: Silhouette, truth: Silhouette) -> float:
    """F of two masks of one frame, prepared with the same tolerance."""
    if result.length == 0 or truth.length == 0:
        return float(result.length == truth.length)
    a, b = _common(result, truth)
    precision = int(np.count_nonzero(result.boundary[a] & truth.near[b])) / result.length
    recall = int(np.count_nonzero(truth.boundary[b] & result.near[a])) / truth.length
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def boundary_map(mask: Mask) -> Mask:
    """The pixels of a mask that differ from their right, lower or lower-right neighbour.

    The last row looks only to the right, the last column only down, and the corner is no boundary.

    Args:
        mask: (H, W) bool.

    Returns:
        (H, W) bool.
    """
    boundary = np.zeros_like(mask)
    boundary[:, :-1] = mask[:, :-1] ^ mask[:, 1:]
    boundary[:-1] |= mask[:-1] ^ mask[1:]
    boundary[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return boundary


def _without_void(result: Mask, truth: Mask, void: Mask | None) -> tuple[Mask, Mask]:
    result, truth = np.asarray(result, dtype=bool), np.asarray(truth, dtype=bool)
    if result.shape != truth.shape or result.ndim != 2:
        raise ValueError(f"masks of the same size are compared; the result is {result.shape}, the truth {truth.shape}")
    if void is None:
        return result, truth
    return result & ~void, truth & ~void


def _common(first: Silhouette, second: Silhouette) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """The part of the frame that two windows share, in the coordinates of each."""
    top, left = max(first.top, second.top), max(first.left, second.left)
    bottom = max(top, min(first.top + first.mask.shape[0], second.top + second.mask.shape[0]))
    right = max(left, min(first.left + first.mask.shape[1], second.left + second.mask.shape[1]))
    one, other = ((slice(top - s.top, bottom - s.top), slice(left - s.left, right - s.left)) for s in (first, second))
    return one, other


@functools.cache
def _disk(radius: int) -> NDArray[np.uint8]:
    """(2 r + 1, 2 r + 1): the pixels within `radius` of the centre, in the Euclidean sense."""
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return (y * y + x * x <= radius * radius).astype(np.uint8)
