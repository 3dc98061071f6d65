"""The settings of the network; `util/config.py` has those of all else."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from util.config_checks import not_negative, positive, within


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network.

    Args:
        architecture: `baseline` is the one without queries of the paper's table 4: pixels and words through a plain
            transformer encoder, then a pyramid. It has neither decoder nor mask head, and ignores their settings.
        backbone: `resnet50`, `resnet101`, `swin_{t,s,b,l}_p4w7`, `video_swin_{t,s,b}_p4w7`, or `timm/<name>` for any
            timm network with four stages.
        backbone_options: further arguments of a `timm/` network, as `{channels: [32, 64, 128, 256]}`.
        backbone_weights: where an untrained model's backbone starts: `imagenet` (Video-Swin: `kinetics`), a file of
            weights, or null (random).
        temporal_shift: share of a 2D residual backbone's channels that each block exchanges with the frame before and
            the frame after; 0 keeps frames apart, as the published models do.
        position_in_content: amplitude of sine positions added to the features before the words are fused in. A deep
            backbone knows where in the frame a pixel is, a small one does not and cannot tell left from right; 0, as
            published, adds none.
        hidden_dim: channels C of the transformer.
        num_queries: conditional queries N.
        num_heads: attention heads, in every attention.
        num_encoder_layers: deformable encoder layers.
        num_decoder_layers: deformable decoder layers L.
        num_feature_levels: maps that enter the transformer: strides 8, 16, 32, then twice the stride for each more.
        num_points: sampling points per head and level.
        feedforward_dim: hidden width of every feed-forward network.
        dropout: dropout of the transformer, the resizer and the pixel decoder.
        drop_path: stochastic depth of a Swin or timm backbone; null takes its own.
        box_refine: each decoder layer refines the boxes of the one before (`--with_box_refine`).
        num_classes: 1 for class-agnostic heads (`--binary`), else 65 (Ref-YouTube-VOS), 78 (Ref-DAVIS17), 91 (COCO).
        relative_coordinates: the mask head sees each pixel's offset from the query's box (`--rel_coord`).
        fpn_fusion: the pyramid attends to other frames and to the words; false is a plain feature pyramid network.
        mask_dim: channels of the mask features.
        mask_head_channels: channels of the dynamic mask head.
        text_encoder: hub name or folder of a transformers encoder with its tokenizer.
        text_encoder_pretrained: load the encoder's weights; false starts it at random from its configuration.
        freeze_text_encoder: keep the text encoder's weights, and keep it in evaluation mode.
        max_tokens: longer captions are cut, with a warning.
        activation_checkpointing: recompute activations in the backward pass to save memory.
    """

    architecture: Literal["referformer", "baseline"] = "referformer"
    backbone: str = "resnet50"
    backbone_options: dict[str, Any] = field(default_factory=dict)
    backbone_weights: str | None = None
    temporal_shift: float = 0.0
    position_in_content: float = 0.0
    hidden_dim: int = 256
    num_queries: int = 5
    num_heads: int = 8
    num_encoder_layers: int = 4
    num_decoder_layers: int = 4
    num_feature_levels: int = 4
    num_points: int = 4
    feedforward_dim: int = 2048
    dropout: float = 0.1
    drop_path: float | None = None
    box_refine: bool = True
    num_classes: int = 1
    relative_coordinates: bool = True
    fpn_fusion: bool = True
    mask_dim: int = 256
    mask_head_channels: int = 8
    text_encoder: str = "roberta-base"
    text_encoder_pretrained: bool = True
    freeze_text_encoder: bool = True
    max_tokens: int = 128
    activation_checkpointing: bool = False

    def __post_init__(self) -> None:
        positive(self, "hidden_dim", "num_queries", "num_heads", "num_encoder_layers", "num_decoder_layers")
        positive(self, "num_points", "feedforward_dim", "num_classes", "mask_dim", "mask_head_channels", "max_tokens")
        within(self, 0, 1, "dropout", "temporal_shift")
        not_negative(self, "position_in_content")
        if self.drop_path is not None:
            within(self, 0, 1, "drop_path")
        if self.architecture not in ("referformer", "baseline"):
            raise ValueError(f"model.architecture is {self.architecture!r}; it must be referformer or baseline")
        if self.architecture == "baseline" and self.num_classes != 1:
            raise ValueError(f"model.num_classes is {self.num_classes}; the baseline has no classes, it must be 1")
        if self.num_feature_levels < 3:
            raise ValueError(f"model.num_feature_levels is {self.num_feature_levels}; it must be 3 or more")
        if self.hidden_dim % self.num_heads or self.hidden_dim % 32:
            raise ValueError(
                f"model.hidden_dim is {self.hidden_dim}; not a multiple of num_heads ({self.num_heads}) and of 32"
            )
