from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou as torchvision_box_iou

from util.image_metrics import THRESHOLDS, box_iou, compare, score_images


def test_scores_equal_an_independent_formula() -> None:
    rng = np.random.default_rng(0)
    overlaps, pairs, box_pairs = [], [], []
    for number in range(40):
        truth = rng.random((12, 17)) < 0.4
        mask = truth ^ (rng.random((12, 17)) < rng.uniform(0, 0.5))
        if number % 10 == 0:
            mask = np.zeros_like(truth)
        box, true_box = (np.sort(rng.uniform(0, 10, (2, 2)), 0).ravel() for _ in range(2))
        if number % 3:
            box = true_box + rng.uniform(-0.3, 0.3, 4)
        overlaps.append(compare(mask, box, truth, true_box))
        pairs.append((set(np.flatnonzero(mask)), set(np.flatnonzero(truth))))
        box_pairs.append((box, true_box))
    scores = score_images(overlaps)
    ious = [len(a & b) / len(a | b) for a, b in pairs]
    boxes = [torchvision_box_iou(*(torch.tensor(b)[None] for b in pair)).item() for pair in box_pairs]
    assert scores["mean_IoU"] == pytest.approx(sum(ious) / 40, abs=1e-9)
    assert scores["overall_IoU"] == pytest.approx(
        sum(len(a & b) for a, b in pairs) / sum(len(a | b) for a, b in pairs), abs=1e-9
    )
    assert scores["box_mean_IoU"] == pytest.approx(sum(boxes) / 40, abs=1e-6)
    for threshold in THRESHOLDS:
        assert scores[f"P@{threshold}"] == pytest.approx(sum(iou > threshold for iou in ious) / 40)
        assert scores[f"box_P@{threshold}"] == pytest.approx(sum(iou > threshold for iou in boxes) / 40)
    assert 0 < scores["P@0.5"] < 1 and scores["num_samples"] == 40


def test_precision_is_strictly_above_the_threshold() -> None:
    truth = np.ones((1, 10), bool)
    half = truth & (np.arange(10) < 5)
    scores = score_images([compare(half, (0, 0, 5, 1), truth, (0, 0, 10, 1))])
    assert scores["mean_IoU"] == scores["box_mean_IoU"] == 0.5 and scores["P@0.5"] == scores["box_P@0.5"] == 0


def test_empty_masks_and_boxes() -> None:
    nothing, something = np.zeros((2, 2), bool), np.eye(2, dtype=bool)
    assert score_images([compare(nothing, (0, 0, 0, 0), nothing, (0, 0, 0, 0))])["mean_IoU"] == 1
    assert score_images([compare(nothing, (0, 0, 0, 0), something, (0, 0, 2, 2))])["overall_IoU"] == 0
    assert box_iou((0, 0, 0, 0), (0, 0, 0, 0)) == 0 and box_iou((0, 0, 2, 2), (0, 0, 2, 2)) == 1
    with pytest.raises(ValueError, match="the predicted mask is"):
        compare(nothing, (0, 0, 1, 1), np.zeros((3, 2), bool), (0, 0, 1, 1))
    with pytest.raises(ValueError, match="no sentences"):
        score_images([])
