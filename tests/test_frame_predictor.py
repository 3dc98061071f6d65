"""From a model's output to the masks of all queries in the annotated frame."""

import pytest
import torch
from torch import nn

from models.frame_predictor import FramePredictor
from models.outputs import LayerOutput
from tests.small_model import CAPTIONS, small_model, small_targets
from util.batch import Batch


class Prescribed(nn.Module):
    """Answers with fixed logits, and remembers the question."""

    def __init__(self, class_logits: torch.Tensor, mask_logits: torch.Tensor) -> None:
        super().__init__()
        b, t, n = class_logits.shape[:3]
        self.output = LayerOutput(class_logits, torch.zeros(b, t, n, 4), mask_logits, torch.zeros(b, t, n, 2))

    def forward(self, *arguments: object) -> list[LayerOutput]:
        self.arguments = arguments
        other = LayerOutput(
            *(-getattr(self.output, f) for f in ("class_logits", "boxes", "mask_logits", "reference_points"))
        )
        return [other, self.output]


def make_batch(sizes: list[tuple[int, int]], num_frames: int, padded: tuple[int, int]) -> Batch:
    generator = torch.Generator().manual_seed(0)
    frames = torch.zeros(len(sizes), num_frames, 3, *padded)
    padding_mask = torch.ones(len(sizes), num_frames, *padded, dtype=torch.bool)
    for i, (h, w) in enumerate(sizes):
        frames[i, ..., :h, :w] = torch.randn(num_frames, 3, h, w, generator=generator)
        padding_mask[i, :, :h, :w] = False
    names, annotated = ["x"] * len(sizes), torch.arange(len(sizes)) % num_frames
    return Batch(
        frames, padding_mask, torch.tensor(sizes), CAPTIONS[: len(sizes)], small_targets(sizes), names, annotated
    )


def slow_masks(
    logits: torch.Tensor, size: tuple[int, int], original: tuple[int, int], threshold: float
) -> torch.Tensor:
    """(h, w) logits at stride 4 -> the mask at the original size, pixel by pixel: bilinear by 4, cut, nearest."""
    height, width = logits.shape
    mask = torch.zeros(original, dtype=torch.bool)
    for i in range(original[0]):
        for j in range(original[1]):
            y, x = i * size[0] // original[0], j * size[1] // original[1]
            value = 0.0
            v, u = max((y + 0.5) / 4 - 0.5, 0), max((x + 0.5) / 4 - 0.5, 0)
            for a in (int(v), int(v) + 1):
                for b in (int(u), int(u) + 1):
                    weight = (1 - abs(v - a)) * (1 - abs(u - b))
                    value += weight * float(logits[min(a, height - 1), min(b, width - 1)])
            mask[i, j] = torch.sigmoid(torch.tensor(value)) > threshold
    return mask


@pytest.mark.parametrize("threshold", [0.5, 0.3])
def test_masks_and_scores_by_the_definition(threshold: float) -> None:
    generator = torch.Generator().manual_seed(1)
    sizes, originals = [(28, 50), (32, 40)], [(21, 37), (64, 80)]
    class_logits = torch.randn(2, 1, 3, 2, generator=generator)
    mask_logits = torch.randn(2, 1, 3, 8, 16, generator=generator)
    model = Prescribed(class_logits, mask_logits)
    batch = make_batch(sizes, 4, (32, 64))
    predictions = FramePredictor(model, threshold=threshold).predict(batch, originals)
    assert model.arguments[0] is batch.frames and torch.equal(model.arguments[4], batch.annotated_frame)
    for clip, prediction in enumerate(predictions):
        expected = torch.sigmoid(class_logits[clip, 0]).max(-1).values
        torch.testing.assert_close(prediction.scores, expected)
        assert prediction.masks.shape == (3, *originals[clip])
        for query in range(3):
            slow = slow_masks(mask_logits[clip, 0, query], sizes[clip], originals[clip], threshold)
            assert torch.equal(prediction.masks[query], slow)


def test_only_the_annotated_frame_of_a_frame_by_frame_backbone_counts() -> None:
    predictor = FramePredictor(small_model(), threshold=0.3)
    batch = make_batch([(64, 128)], 3, (64, 128))
    whole = predictor.predict(batch, [(30, 60)])[0]
    alone = Batch(
        batch.frames[:, :1],
        batch.padding_mask[:, :1],
        batch.frame_sizes,
        batch.captions,
        batch.targets,
        batch.names,
        torch.tensor([0]),
    )
    found = predictor.predict(alone, [(30, 60)])[0]
    torch.testing.assert_close(whole.scores, found.scores)
    assert (whole.masks == found.masks).float().mean() > 0.999
    changed = Batch(
        batch.frames.flip(1),
        batch.padding_mask,
        batch.frame_sizes,
        batch.captions,
        batch.targets,
        batch.names,
        batch.annotated_frame,
    )
    assert not torch.allclose(predictor.predict(changed, [(30, 60)])[0].scores, whole.scores)
