"""P@K, IoU and mAP against formulas written here."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from util.frame_metrics import FrameResult, score_frames
from util.rle import _runs_of, check_rle, decode_mask, encode_mask

SIZE = (20, 30)


def random_masks(rng: np.random.Generator, count: int) -> np.ndarray:
    masks = np.zeros((count, *SIZE), bool)
    for mask in masks:
        if rng.random() < 0.85:  # the others are empty
            top, left = rng.integers(0, 12), rng.integers(0, 20)
            mask[top : top + rng.integers(1, 12), left : left + rng.integers(1, 16)] = True
    return masks


def make_case(seed: int, num_samples: int, num_queries: int) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """Truths (S, h, w), never empty; masks of each sample's queries, some near the truth; their scores, some equal."""
    rng = np.random.default_rng(seed)
    truths = random_masks(rng, num_samples)
    truths[:, 3:6, 4:9] = True
    masks, scores = [], []
    for truth in truths:
        queries = random_masks(rng, num_queries)
        for query in queries[rng.random(num_queries) < 0.5]:
            query[:] = truth
        if num_queries:
            queries[0] = truth ^ (rng.random(SIZE) < 0.02 * rng.integers(0, 5))
        masks.append(queries)
        scores.append(rng.integers(1, 30, num_queries) / 30)
    return truths, masks, scores


def results_of(masks: list[np.ndarray], scores: list[np.ndarray]) -> list[FrameResult]:
    return [
        FrameResult(tuple(map(float, s)), tuple(encode_mask(mask) for mask in m))
        for m, s in zip(masks, scores, strict=True)
    ]


def iou(first: np.ndarray, second: np.ndarray) -> float:
    union = (first | second).sum()
    return (first & second).sum() / union if union else 0.0


def plain_ap(truths: np.ndarray, masks: list[np.ndarray], scores: list[np.ndarray]) -> float:
    """Mean over IoU thresholds of the precision at 101 recalls, one object in each image."""
    detections = [
        (-score, image, query)
        for image, of_image in enumerate(scores)
        for query, score in sorted(enumerate(of_image), key=lambda pair: -pair[1])
    ]
    detections.sort(key=lambda detection: detection[0])  # stable: images in order, then queries
    values = []
    for threshold in np.linspace(0.5, 0.95, 10):
        taken, hits = set(), []
        for _, image, query in detections:
            hit = image not in taken and iou(masks[image][query], truths[image]) >= threshold
            taken |= {image} if hit else set()
            hits.append(hit)
        true = np.cumsum(hits)
        recalls, precisions = true / len(truths), true / np.arange(1, len(hits) + 1)
        for recall in np.linspace(0, 1, 101):
            later = precisions[recalls >= recall - 1e-12]
            values.append(later.max() if len(later) else 0.0)
    return float(np.mean(values))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 5))
def test_all_scores_equal_the_plain_formulas(seed: int, num_samples: int, num_queries: int) -> None:
    truths, masks, scores = make_case(seed, num_samples, num_queries)
    found = score_frames([encode_mask(truth) for truth in truths], results_of(masks, scores))
    best = [m[int(np.argmax(s))] for m, s in zip(masks, scores, strict=True)]
    ious = [iou(truth, mask) for truth, mask in zip(truths, best, strict=True)]
    for threshold in (0.5, 0.6, 0.7, 0.8, 0.9):
        assert found[f"P@{threshold}"] == pytest.approx(np.mean([value > threshold for value in ious]), abs=1e-6)
    intersections = sum((truth & mask).sum() for truth, mask in zip(truths, best, strict=True))
    unions = sum((truth | mask).sum() for truth, mask in zip(truths, best, strict=True))
    assert found["overall_IoU"] == pytest.approx(intersections / unions, abs=1e-6)
    assert found["mean_IoU"] == pytest.approx(np.mean(ious), abs=1e-6)
    assert found["mAP"] == pytest.approx(plain_ap(truths, masks, scores), abs=1e-6)
    top = [s.max(keepdims=True) for s in scores]
    assert found["mAP_best"] == pytest.approx(plain_ap(truths, [mask[None] for mask in best], top), abs=1e-6)
    assert found["num_samples"] == num_samples


def test_all_queries_count_in_the_published_protocol_and_the_best_one_only_beside_it() -> None:
    truth, wrong = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
    truth[2:8, 2:8], wrong[10:15, 10:15] = True, True
    results = results_of([np.stack([wrong, truth])], [np.array([0.9, 0.8])])
    found = score_frames([encode_mask(truth)], results)
    assert found["mAP"] == pytest.approx(0.5) and found["mAP_best"] == found["mean_IoU"] == 0


def test_precision_is_strictly_above_the_threshold() -> None:
    truth = np.zeros(SIZE, bool)
    truth[0, :10] = True
    half = truth.copy()
    half[0, 5:] = False
    found = score_frames([encode_mask(truth)], results_of([half[None]], [np.ones(1)]))
    assert found["mean_IoU"] == 0.5 and found["P@0.5"] == 0


def test_samples_without_queries_are_empty_masks() -> None:
    truths, masks, scores = make_case(1, 4, 3)
    encoded = [encode_mask(truth) for truth in truths]
    masks[2], scores[2] = masks[2][:0], scores[2][:0]
    found = score_frames(encoded, results_of(masks, scores))
    masks[2], scores[2] = np.zeros((1, *SIZE), bool), np.zeros(1)
    empty = score_frames(encoded, results_of(masks, scores))
    assert found == pytest.approx(empty)
    nothing = score_frames(encoded, [FrameResult((), ())] * 4)
    assert {value for name, value in nothing.items() if name != "num_samples"} == {0.0}


def test_two_samples_about_one_object_are_two_samples() -> None:
    truths, masks, scores = make_case(5, 1, 3)
    once = score_frames([encode_mask(truths[0])], results_of(masks, scores))
    twice = score_frames([encode_mask(truths[0])] * 2, results_of(masks * 2, scores * 2))
    for name in ("P@0.5", "overall_IoU", "mean_IoU"):
        assert once[name] == twice[name]
    assert twice["num_samples"] == 2


def test_unequal_sizes_and_counts_are_refused() -> None:
    truth = encode_mask(np.ones(SIZE, bool))
    other = FrameResult((1.0,), (encode_mask(np.ones((5, 6), bool)),))
    for result in (other, FrameResult((1.0, 0.5), (truth, *other.masks))):  # the best query, and another
        with pytest.raises(ValueError, match=r"\[5, 6\]"):
            score_frames([truth], [result])
    for truths, results in (([], []), ([truth], [])):
        with pytest.raises(ValueError, match="each sample needs one"):
            score_frames(truths, results)


def test_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    truths, masks, scores = make_case(1, 2, 2)
    score_frames([encode_mask(truth) for truth in truths], results_of(masks, scores))
    assert capsys.readouterr().out == ""


def test_run_lengths_there_and_back() -> None:
    mask = np.random.default_rng(0).random(SIZE) > 0.5
    rle = encode_mask(mask)
    assert np.array_equal(decode_mask(rle), mask)
    assert check_rle(rle, "x") == rle
    plain, runs, value = mask.T.ravel(), [], False
    while len(plain):
        length = int(np.argmax(plain != value)) if (plain != value).any() else len(plain)
        runs.append(length)
        plain, value = plain[length:], not value
    assert check_rle({"size": list(SIZE), "counts": runs}, "x") == rle
    assert _runs_of(rle["counts"]) == runs


@pytest.mark.parametrize(
    "rle",
    [
        None,
        {},
        {"size": [2]},
        {"size": [4, 4]},
        {"size": [4, 4], "counts": [1, 2]},
        {"size": [4, 4], "counts": [17, -1]},
        {"size": [4, 4], "counts": "0"},
        {"size": [4, 4], "counts": "`"},
        {"size": [4, 4], "counts": "é"},
        {"size": [0, 0], "counts": ""},
        {"size": [float("inf"), 4], "counts": [4]},
        {"size": [4, 4], "counts": [float("inf")]},
        {"size": [1 << 15, 1 << 15], "counts": [1 << 30]},  # a gigabyte when decoded
        {"size": [4, 4], "counts": "448l" + 12 * "o" + "O"},  # -4 in 70 bits, which pycocotools reads as -2
    ],
)
def test_what_is_no_mask_is_refused(rle: object) -> None:
    with pytest.raises(ValueError, match="file: not a mask"):
        check_rle(rle, "file")
