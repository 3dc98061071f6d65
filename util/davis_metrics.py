"""Scores of the unsupervised DAVIS 2017 protocol: every result object may be any annotated one.

Caelles et al., "The 2019 DAVIS Challenge on VOS: Unsupervised Multi-Object Segmentation", section 3.

Letters: T frames, G annotated objects, R result objects. Free of torch, so that worker processes start quickly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from util.metrics import Silhouette, compare_boundaries, compare_regions

VOID = 255
MAX_RESULTS = 20

Ids = NDArray[np.uint8]
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Statistics:
    """Of one object's J or F over the frames of a video.

    Attributes:
        mean: over frames.
        recall: share of frames above 0.5.
        decay: mean of the first quarter of the video minus that of the last.
    """

    mean: float
    recall: float
    decay: float


@dataclass(frozen=True)
class VideoScores:
    """All pairs of a video.

    Attributes:
        j, f: (R, G, T), R at least G: objects that a result lacks are empty masks.
    """

    j: Scores
    f: Scores

    def assign(self) -> NDArray[np.int64]:
        """(G,) index of the result object of each annotated one: the assignment with the largest mean J&F."""
        results, truths = linear_sum_assignment(-(self.j.mean(axis=2) + self.f.mean(axis=2)) / 2)
        return results[np.argsort(truths)]


def count_objects(first_truth: Ids) -> int:
    """G, which the first annotated frame (H, W) decides: objects are 1 to its largest id that is not void."""
    return int(first_truth[first_truth != VOID].max(initial=0))


class VideoScorer:
    """Scores result after result of one video, frame by frame; the annotation's part of the work is done once.

    Args:
        num_objects: annotated objects G.
        num_results: result objects R of each result.

    Raises:
        ValueError: a result has more than `MAX_RESULTS` objects.
    """

    def __init__(self, num_objects: int, num_results: list[int]) -> None:
        if max(num_results, default=0) > MAX_RESULTS:
            raise ValueError(f"a result has {max(num_results)} objects; the protocol allows {MAX_RESULTS}")
        self.num_objects = num_objects
        self._num_results = [max(count, num_objects) for count in num_results]
        self._frames: list[list[Scores]] = [[] for _ in num_results]

    def add(self, truth: Ids, results: list[Ids]) -> None:
        """Compare the results' ids (H, W) of one frame with the annotation (H, W)."""
        void = truth == VOID
        truths = [Silhouette.of(truth == i + 1) for i in range(self.num_objects)]
        for ids, count, frames in zip(results, self._num_results, self._frames, strict=True):
            if ids.shape != truth.shape:
                raise ValueError(f"the result is {ids.shape}, its annotation {truth.shape} (h, w)")
            seen = np.where(void, 0, ids) if void.any() else ids
            silhouettes = [Silhouette.of(seen == r + 1) for r in range(count)]
            scores = [
                [(compare_regions(result, other), compare_boundaries(result, other)) for other in truths]
                for result in silhouettes
            ]
            frames.append(np.array(scores, np.float64).reshape(count, self.num_objects, 2))

    def finish(self) -> list[VideoScores]:
        """One for each result."""
        stacked = [np.stack(frames, axis=2) for frames in self._frames]  # (R, G, T, 2)
        return [VideoScores(scores[..., 0], scores[..., 1]) for scores in stacked]


def statistics(values: Scores) -> Statistics:
    """Mean, recall and decay of an object's (T,) values.

    Quarters end at `round(linspace(1, T, 5) + 1e-10) - 1` and share their ends. The published evaluation keeps these
    indices in 8 bits; with more than 256 frames it has no decay, which is NaN.
    """
    ends = (np.round(np.linspace(1, len(values), 5) + 1e-10) - 1).astype(np.int64) & 255
    first, last = values[ends[0] : ends[1] + 1], values[ends[3] : ends[4] + 1]
    decay = float(first.mean() - last.mean()) if len(first) and len(last) else float("nan")
    return Statistics(float(values.mean()), float((values > 0.5).mean()), decay)
