"""The rule that says "not there", against what it is by definition."""

import numpy as np
import pytest

from util.presence import Presence, sentence_score


def test_without_thresholds_everything_is_there():
    assert Presence().in_frames(np.zeros(5)).all()
    assert not Presence().decides


@pytest.mark.parametrize(("num_frames", "span"), [(1, 12), (12, 12), (40, 12), (7, 3)])
def test_the_sentence_score_is_the_best_mean_of_consecutive_frames(num_frames: int, span: int):
    scores = np.random.default_rng(num_frames).random(num_frames)
    length = min(span, num_frames)
    expected = max(scores[start : start + length].mean() for start in range(num_frames - length + 1))
    assert sentence_score(scores, span) == pytest.approx(expected)


def test_an_object_that_shows_in_a_part_of_a_long_video_is_there():
    scores = np.full(300, 0.1)
    scores[100:120] = 0.9
    present = Presence(0.5, 0.5).in_frames(scores)
    assert present[100:120].all() and present.sum() == 20


def test_a_single_frame_does_not_flicker():
    scores = np.array([0.9, 0.9, 0.1, 0.9, 0.9])
    assert Presence(0.5, 0.5).in_frames(scores).all()


@pytest.mark.parametrize("thresholds", [(-0.1, 0), (0, 1.5)])
def test_thresholds_are_probabilities(thresholds: tuple[float, float]):
    with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
        Presence(*thresholds)
