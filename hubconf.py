"""Entry points of `torch.hub`: a model from a checkpoint, with its predictor.

predictor = torch.hub.load(repository, "referformer_swin_l", source="local", checkpoint="ytvos_swin_large.pth")
features = predictor.encode(frames)  # (T, h, w, 3) uint8
prediction = predictor.predict(features, ["the person on the left"])[0]  # masks, boxes, scores
network = predictor.model
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models.predictor import Predictor

dependencies = ["torch", "torchvision", "timm", "transformers", "einops", "numpy"]


def referformer(checkpoint: str | Path, **options: Any) -> Predictor:
    """Any checkpoint, ours or a published one; its backbone is told from it.

    Args:
        checkpoint: the file.
        options: of `Predictor.from_checkpoint`: `device`, `text_encoder`, `short_side`, `window`, `precision` ...

    Returns:
        the predictor; `predictor.model` is the network.
    """
    return Predictor.from_checkpoint(checkpoint, **options)


def _of_backbone(checkpoint: str | Path, backbone: str, options: dict[str, Any]) -> Predictor:
    return Predictor.from_checkpoint(checkpoint, backbone=backbone, **options)


def referformer_resnet50(checkpoint: str | Path, **options: Any) -> Predictor:
    """`referformer` with ResNet-50."""
    return _of_backbone(checkpoint, "resnet50", options)


def referformer_resnet101(checkpoint: str | Path, **options: Any) -> Predictor:
    """`referformer` with ResNet-101."""
    return _of_backbone(checkpoint, "resnet101", options)


def referformer_swin_t(checkpoint: str | Path, **options: Any) -> Predictor:
    """`referformer` with Swin-T."""
    return _of_backbone(checkpoint, "swin_t_p4w7", options)


def referformer_swin_s(checkpoint: str | Path, **options: Any) -> Predictor:
    """`referformer` with Swin-S."""
    return _of_backbone(checkpoint, "swin_s_p4w7", options)


def referformer_swin_b(checkpoint: str | Path, **options: Any) -> Predictor:
    """`referformer` with Swin-B."""
    return _of_backbone(checkpoint, "swin_b_p4w7", options)


def referformer_swin_l(checkpoint: str | Path, **options: Any) -> Predictor:
    """`referformer` with Swin-L."""
    return _of_backbone(checkpoint, "swin_l_p4w7", options)


def referformer_video_swin_t(checkpoint: str | Path, **options: Any) -> Predictor:
    """`referformer` with Video-Swin-T."""
    return _of_backbone(checkpoint, "video_swin_t_p4w7", options)


def referformer_video_swin_s(checkpoint: str | Path, **options: Any) -> Predictor:
    """`referformer` with Video-Swin-S."""
    return _of_backbone(checkpoint, "video_swin_s_p4w7", options)


def referformer_video_swin_b(checkpoint: str | Path, **options: Any) -> Predictor:
    """`referformer` with Video-Swin-B."""
    return _of_backbone(checkpoint, "video_swin_b_p4w7", options)
