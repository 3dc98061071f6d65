"""The unsupervised DAVIS 2017 protocol against plain formulas."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts import benchmark_metrics
from scripts.benchmark_metrics import plain_scores
from util.davis_metrics import MAX_RESULTS, VideoScorer, VideoScores, count_objects, statistics

SIZE = (24, 37)


def random_video(seed: int, num_frames: int, num_objects: int, void: bool) -> np.ndarray:
    """(T, H, W) ids of blocks that move, hide one another and leave; every id is in the first frame."""
    rng = np.random.default_rng(seed)
    ids = np.zeros((num_frames, *SIZE), np.uint8)
    for t, i in itertools.product(range(num_frames), range(num_objects)):
        top, left = rng.integers(0, SIZE[0] - 4), rng.integers(0, SIZE[1] - 4)
        if t == 0 or rng.random() < 0.8:
            ids[t, top : top + rng.integers(1, 12), left : left + rng.integers(1, 16)] = i + 1
    for i in range(num_objects):
        ids[0, -1, i] = i + 1
    if void:
        ids[rng.random(ids.shape) < 0.05] = 255
    return ids


def fast_scores(truth: np.ndarray, result: np.ndarray) -> VideoScores:
    scorer = VideoScorer(count_objects(truth[0]), [int(result.max())])
    for t in range(len(truth)):
        scorer.add(truth[t], [result[t]])
    return scorer.finish()[0]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(0, 5), st.integers(1, 6), st.booleans())
def test_all_pairs_equal_the_plain_formulation(
    seed: int, num_objects: int, num_results: int, num_frames: int, void: bool
) -> None:
    """More and fewer results than objects, none at all, void pixels, empty masks."""
    truth = random_video(seed, num_frames, num_objects, void)
    result = random_video(seed + 1, num_frames, num_results, False)
    found, expected = fast_scores(truth, result), plain_scores(truth, result)
    assert found.j.shape == (max(num_results, count_objects(truth[0])), count_objects(truth[0]), num_frames)
    np.testing.assert_allclose(found.j, expected.j, atol=1e-6)
    np.testing.assert_allclose(found.f, expected.f, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(0, 4))
def test_the_assignment_is_the_best_of_all(seed: int, num_objects: int, num_results: int) -> None:
    scores = fast_scores(random_video(seed, 3, num_objects, True), random_video(seed + 1, 3, num_results, False))
    quality = (scores.j + scores.f).mean(axis=2) / 2
    num_rows, num_columns = quality.shape
    best = max(
        sum(quality[r, g] for g, r in enumerate(rows)) for rows in itertools.permutations(range(num_rows), num_columns)
    )
    chosen = scores.assign()
    assert len(set(chosen.tolist())) == num_columns
    assert sum(quality[r, g] for g, r in enumerate(chosen)) == pytest.approx(best)


def test_a_result_in_another_order_is_perfect() -> None:
    truth = random_video(3, 4, 3, True)
    permuted = np.array([0, 3, 1, 2], np.uint8)[np.where(truth == 255, 0, truth)]
    scores = fast_scores(truth, permuted)
    assert scores.assign().tolist() == [2, 0, 1]
    assert all(scores.j[r, g].min() == scores.f[r, g].min() == 1 for g, r in enumerate(scores.assign()))


def test_void_pixels_hide_errors() -> None:
    truth = np.zeros((1, *SIZE), np.uint8)
    truth[0, 5:15, 5:15] = 1
    result = truth.copy()
    truth[0, 5:15, 15:20] = 255
    result[0, 5:15, 15:20] = 1
    assert fast_scores(truth, result).j[0, 0, 0] == fast_scores(truth, result).f[0, 0, 0] == 1
    truth[truth == 255] = 0
    assert fast_scores(truth, result).j[0, 0, 0] == pytest.approx(2 / 3)


def test_objects_are_those_of_the_first_frame_and_void_is_none() -> None:
    ids = np.zeros(SIZE, np.uint8)
    ids[0, 0], ids[1, 1] = 2, 255
    assert count_objects(ids) == 2
    assert count_objects(np.zeros(SIZE, np.uint8)) == 0


def test_too_many_result_objects_are_refused() -> None:
    with pytest.raises(ValueError, match=f"allows {MAX_RESULTS}"):
        VideoScorer(1, [2, MAX_RESULTS + 1])


def test_results_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3, 4\)"):
        VideoScorer(1, [1]).add(np.ones(SIZE, np.uint8), [np.ones((3, 4), np.uint8)])


@pytest.mark.parametrize("num_frames", [1, 2, 3, 5, 8, 40, 70, 104])
def test_statistics_by_the_definition(num_frames: int) -> None:
    values = np.random.default_rng(num_frames).random(num_frames)
    edges = [round(1 + k * (num_frames - 1) / 4 + 1e-10) - 1 for k in range(5)]
    first = [values[i] for i in range(edges[0], edges[1] + 1)]
    last = [values[i] for i in range(edges[3], edges[4] + 1)]
    found = statistics(values)
    assert found.mean == pytest.approx(sum(values) / num_frames)
    assert found.recall == pytest.approx(sum(value > 0.5 for value in values) / num_frames)
    assert found.decay == pytest.approx(sum(first) / len(first) - sum(last) / len(last))


def test_recall_is_strictly_above_a_half_and_decay_has_no_end_in_long_videos() -> None:
    assert statistics(np.array([0.5, 0.6])).recall == 0.5
    assert np.isnan(statistics(np.ones(300)).decay)  # 8-bit indices


def test_the_benchmark_finds_equal_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    size = ["--height", "60", "--width", "90", "--num_frames", "3"]
    result = benchmark_metrics.main([*size, "--num_videos", "3", "--videos_a_turn", "2", "--num_workers", "0"])
    assert result["largest_difference"] < 1e-6
    assert result["seconds_per_video"] > 0
