"""Region similarity J and boundary accuracy F of two masks, as DAVIS 2017 defines them.

Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation", CVPR 2016, section 5.
Masks are (H, W) bool arrays; everything runs on the CPU without torch, so that worker processes start quickly.
"""

from __future__ import annotations

import functools
import math

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
    radius = math.ceil(tolerance * math.hypot(*result.shape))
    window = _window_around(result | truth)
    result_boundary, truth_boundary = boundary_map(result[window]), boundary_map(truth[window])
    num_result, num_truth = np.count_nonzero(result_boundary), np.count_nonzero(truth_boundary)
    if num_result == 0 or num_truth == 0:
        return float(num_result == num_truth)
    precision = np.count_nonzero(result_boundary & _dilated(truth_boundary, radius)) / num_result
    recall = np.count_nonzero(truth_boundary & _dilated(result_boundary, radius)) / num_truth
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


def _window_around(mask: Mask) -> tuple[slice, slice]:
    """The box of a mask and one pixel around it: all its boundary pixels, and background beyond them.

    A cut at that margin changes nothing: a cut row or column holds background alone, so that the rules of the last row
    and column find no boundary there, and a dilation is looked at only where the other boundary is.
    """
    window = []
    for axis in (1, 0):
        occupied = np.flatnonzero(mask.any(axis=axis))
        window.append(slice(max(occupied[0] - 1, 0), occupied[-1] + 2) if occupied.size else slice(0, 0))
    return window[0], window[1]


def _dilated(boundary: Mask, radius: int) -> Mask:
    return cv2.dilate(boundary.view(np.uint8), _disk(radius)).view(bool)


@functools.cache
def _disk(radius: int) -> NDArray[np.uint8]:
    """(2 r + 1, 2 r + 1): the pixels within `radius` of the centre, in the Euclidean sense."""
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return (y * y + x * x <= radius * radius).astype(np.uint8)
