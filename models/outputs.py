"""What a decoder layer predicts. B clips, T frames, N queries, K classes, H x W the padded frame."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class LayerOutput:
    """Predictions of one decoder layer, N instance sequences a clip (equation 3 of the paper).

    Attributes:
        class_logits: (B, T, N, K) whether the query's instance is the referred object and visible, before the sigmoid.
        boxes: (B, T, N, 4) cxcywh as shares of the unpadded frame's (w, h).
        mask_logits: (B, T, N, ceil(H / 4), ceil(W / 4)) before the sigmoid.
        reference_points: (B, T, N, 2) xy in [0, 1] of the references that entered this layer.
    """

    class_logits: Tensor
    boxes: Tensor
    mask_logits: Tensor
    reference_points: Tensor


@dataclass(frozen=True)
class BestQuery:
    """What the best query of a clip says, after the last layer. T frames, N queries.

    Attributes:
        query: its number.
        scores: (T, N) reference probability of every query, on the CPU.
        boxes: (T, N, 4) cxcywh as shares of the frame's (w, h), of every query.
        reference_points: (T, N, 2) xy as shares of the frame's (w, h), that entered the last layer.
        mask_logits: (T, 1, ceil(h / 4), ceil(w / 4)) of the best query.
    """

    query: int
    scores: Tensor
    boxes: Tensor
    reference_points: Tensor
    mask_logits: Tensor
