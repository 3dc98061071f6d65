"""The weights that come with the repository: small, loadable, and the same masks in half precision."""

from pathlib import Path

import numpy as np
import pytest
import torch

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
