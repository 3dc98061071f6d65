"""Whether a sentence's object is in a video, and in which frames, by the scores of the chosen query."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SPAN = 12  # frames: an object that shows for so long is in the video, however long the rest of it


@dataclass(frozen=True)
class Presence:
    """The rule. Both thresholds 0: everything is always there, as published.

    Attributes:
        sentence_threshold: on `sentence_score`.
        frame_threshold: on the score of a frame, the median of it and its two neighbours.

    Raises:
        ValueError: a threshold is no probability.
    """

    sentence_threshold: float = 0.0
    frame_threshold: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}; it must be in [0, 1]")

    @property
    def decides(self) -> bool:
        """Whether anything can be found not to be there."""
        return bool(self.sentence_threshold or self.frame_threshold)

    def in_frames(self, scores: NDArray[np.floating]) -> NDArray[np.bool_]:
        """(T,) scores -> (T,) whether the object is in each frame; in none when the sentence's score is too low."""
        if sentence_score(scores) < self.sentence_threshold:
            return np.zeros(len(scores), dtype=bool)
        padded = np.pad(scores, 1, mode="edge")
        return np.median(np.stack((padded[:-2], scores, padded[2:])), axis=0) >= self.frame_threshold


def sentence_score(scores: NDArray[np.floating], span: int = SPAN) -> float:
    """The highest mean over `span` consecutive frames; of a video no longer than that, the mean (equation 6).

    The mean over a long video would be low for an object that shows in a part of it.
    """
    sums = np.concatenate(([0.0], np.cumsum(scores, dtype=np.float64)))
    span = min(span, len(scores))
    return float((sums[span:] - sums[:-span]).max() / span)
