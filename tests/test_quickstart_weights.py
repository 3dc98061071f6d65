"""The weights that come with the repository: small, loadable, and the same masks in half precision."""

from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.shapes_absent import NO_OBJECT, SIMILAR, write_absent_expressions
from datasets.shapes_scene import VideoSettings
from datasets.shapes_video import generate_video
from models.predictor import Predictor

WEIGHTS = Path(__file__).parents[1] / "configs" / "quickstart_weights.pth"


@pytest.fixture(scope="module")
def videos():
    """Three generated videos that no training has seen."""
    return [generate_video(np.random.default_rng((777, i)), VideoSettings(num_frames=4), i) for i in range(3)]


def predict(videos, precision: str) -> list[torch.Tensor]:
    """(T, h, w) masks of every expression of every video."""
    predictor = Predictor.from_checkpoint(WEIGHTS, device="cpu", precision=precision)
    masks = []
    for video in videos:
        features = predictor.encode(video.frames)
        masks += [p.masks for p in predictor.predict(features, [e.sentence for e in video.expressions])]
    return masks


def test_weights_are_small():
    assert WEIGHTS.stat().st_size <= 12e6


def test_bfloat16_masks_overlap_float32_ones(videos):
    full, half = predict(videos, "float32"), predict(videos, "bfloat16")
    assert sum(mask.any() for mask in full) >= len(full) / 2  # the model does find objects
    intersection = sum((a & b).sum() for a, b in zip(full, half, strict=True))
    union = sum((a | b).sum() for a, b in zip(full, half, strict=True))
    assert intersection / union >= 0.98


def test_sentences_without_an_object_are_told_from_those_with_one():
    predictor = Predictor.from_checkpoint(WEIGHTS, device="cpu")
    settings = VideoSettings(num_frames=1)
    found: dict[bool, list[bool]] = {True: [], False: []}
    for i in range(20):
        rng = np.random.default_rng((778, i))
        image = generate_video(rng, settings, i)
        absent = [e for e in write_absent_expressions(rng, image.scene, 4) if e.kind == SIMILAR]
        expressions = [*image.expressions, *absent]
        predictions = predictor.predict(predictor.encode(image.frames), [e.sentence for e in expressions])
        for expression, prediction in zip(expressions, predictions, strict=True):
            there = predictor.presence.in_frames(np.asarray(prediction.scores))
            found[expression.object_id != NO_OBJECT].append(bool(there.any()))
    assert len(found[False]) >= 20
    assert np.mean(found[True]) >= 0.85
    assert np.mean(found[False]) <= 0.5  # shape and colour are both there, so that both words must be read
