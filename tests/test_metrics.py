import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt

from util.metrics import _disk, boundary_accuracy, boundary_map, region_similarity


def square(size: tuple[int, int], top: int, left: int, side: int) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


def slow_boundary(mask: np.ndarray) -> np.ndarray:
    """Pixel by pixel, in the words of the definition."""
    height, width = mask.shape
    boundary = np.zeros_like(mask)
    for y in range(height):
        for x in range(width):
            neighbours = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
            if y == height - 1:
                neighbours = [(y, x + 1)]
            if x == width - 1:
                neighbours = [(y + 1, x)]
            boundary[y, x] = any(j < height and i < width and mask[j, i] != mask[y, x] for j, i in neighbours)
    return boundary


def slow_accuracy(result: np.ndarray, truth: np.ndarray, tolerance: float) -> float:
    """Over the whole frame, with Euclidean distances instead of dilations."""
    radius = np.ceil(tolerance * np.linalg.norm(result.shape))
    result, truth = slow_boundary(result), slow_boundary(truth)
    if not result.any() or not truth.any():
        return float(result.any() == truth.any())
    precision = np.mean(distance_transform_edt(~truth)[result] <= radius)
    recall = np.mean(distance_transform_edt(~result)[truth] <= radius)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@st.composite
def mask_pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Blobs, noise, full and empty masks, at odd sizes and against every edge."""
    size = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    generator = np.random.default_rng(draw(st.integers(0, 2**31)))

    def mask() -> np.ndarray:
        kind = draw(st.sampled_from(["blob", "blob", "noise", "empty", "full"]))
        if kind == "noise":
            return generator.random(size) > 0.7
        if kind != "blob":
            return np.full(size, kind == "full")
        y, x = np.ogrid[: size[0], : size[1]]
        centre, radii = generator.random(2) * size, 1 + generator.random(2) * 12
        return ((y - centre[0]) / radii[0]) ** 2 + ((x - centre[1]) / radii[1]) ** 2 <= 1

    return mask(), mask()


@settings(max_examples=300, deadline=None)
@given(mask_pairs(), st.sampled_from([0.0, 0.008, 0.05, 0.1]))
def test_scores_agree_with_the_slow_formulas(pair: tuple[np.ndarray, np.ndarray], tolerance: float) -> None:
    result, truth = pair
    assert np.array_equal(boundary_map(result), slow_boundary(result))
    assert boundary_accuracy(result, truth, tolerance) == pytest.approx(slow_accuracy(result, truth, tolerance))
    either = (result | truth).sum()
    expected = (result & truth).sum() / either if either else 1
    assert region_similarity(result, truth) == pytest.approx(expected)


@settings(max_examples=50, deadline=None)
@given(mask_pairs())
def test_scores_are_symmetric_within_bounds_and_perfect_on_equal_masks(pair: tuple[np.ndarray, np.ndarray]) -> None:
    result, truth = pair
    for score in (region_similarity, boundary_accuracy):
        assert 0 <= score(result, truth) <= 1
        assert score(result, truth) == pytest.approx(score(truth, result))
        assert score(truth, truth) == 1


def test_disk_holds_the_pixels_within_the_radius() -> None:
    assert _disk(0).tolist() == [[1]]
    assert _disk(1).tolist() == [[0, 1, 0], [1, 1, 1], [0, 1, 0]]
    assert _disk(2).sum() == 13
    assert _disk(5)[5 + 3, 5 + 4] == 1  # 3, 4, 5
    assert _disk(5)[5 + 4, 5 + 4] == 0


def test_region_similarity_by_hand() -> None:
    first, second = square((10, 10), 0, 0, 4), square((10, 10), 2, 2, 4)
    assert region_similarity(first, second) == 4 / 28
    assert region_similarity(first, square((10, 10), 6, 6, 4)) == 0


def test_empty_masks() -> None:
    empty, some = np.zeros((20, 30), dtype=bool), square((20, 30), 5, 5, 4)
    assert region_similarity(empty, empty) == boundary_accuracy(empty, empty) == 1
    assert region_similarity(empty, some) == boundary_accuracy(empty, some) == 0
    assert region_similarity(some, empty) == boundary_accuracy(some, empty) == 0


def test_a_full_frame_has_no_boundary() -> None:
    full, empty = np.ones((20, 30), dtype=bool), np.zeros((20, 30), dtype=bool)
    assert boundary_accuracy(full, empty) == 1  # by the definition, although no pixel is right
    assert boundary_accuracy(full, square((20, 30), 5, 5, 4)) == 0


def test_boundary_tolerance_follows_the_diagonal() -> None:
    size = (480, 854)  # diagonal 979.6, so the radius is 8 pixels
    truth = square(size, 100, 100, 200)
    assert boundary_accuracy(square(size, 108, 100, 200), truth) == 1
    assert boundary_accuracy(square(size, 109, 100, 200), truth) < 1
    assert boundary_accuracy(square(size, 109, 100, 200), truth, tolerance=9 / 979) == 1


def test_boundary_accuracy_by_hand() -> None:
    size = (60, 60)  # radius 1
    near, far = square(size, 10, 10, 3), square(size, 40, 40, 3)
    assert np.count_nonzero(boundary_map(near)) == 12  # a ring around 2 x 2 pixels
    # Precision 1/2, recall 1.
    assert boundary_accuracy(near | far, near) == pytest.approx(2 * 0.5 / 1.5)


def test_void_pixels_count_in_neither_mask() -> None:
    result, truth = square((20, 20), 0, 0, 10), square((20, 20), 0, 0, 5)
    void = result & ~truth
    assert region_similarity(result, truth, void=void) == 1
    assert boundary_accuracy(result, truth, void=void) == 1
    assert region_similarity(result, truth) < 1
    # as much in the truth as in the result
    assert region_similarity(truth, result, void=void) == 1
    assert boundary_accuracy(truth, result, void=void) == 1


def test_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match="same size"):
        region_similarity(np.zeros((4, 5), dtype=bool), np.zeros((5, 4), dtype=bool))
