"""ReferFormer: language as queries for referring video object segmentation.

B clips, T frames, N queries, L decoder layers, S words, C channels, K classes, H x W the padded frame.
Maps are channels-last, (B, T, h, w, C); padding masks are True on padding; sizes are (h, w).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbones import Backbone
from models.deformable_transformer import DecoderState, DeformableTransformer, Memory
from models.feed_forward import MLP
from models.fusion import EarlyFusion
from models.mask_head import DynamicMaskHead
from models.outputs import LayerOutput
from models.pixel_decoder import PixelDecoder, from_convolution
from models.position_encoding import sine_position_2d
from models.text_encoder import TextEncoder, TextFeatures, Tokens

# Wavelengths of one to twenty frames, so that every channel tells places apart; with the 10,000 of the attention's
# positions most channels are constant over a frame.
CONTENT_TEMPERATURE = 20.0


@dataclass(frozen=True)
class VisualFeatures:
    """What the model knows of a clip before it reads a sentence.

    Attributes:
        maps: (B, T, h, w, C) of strides 8, 16, 32, 64, projected.
        finest: (B, T, H/4, W/4, C), the pyramid's finest level up to where it reads the text.
        positions: (B, h, w, C) sine positions of strides 4, 8, 16, 32, 64.
        masks: (B, h, w) padding masks of the same strides, or None when nothing is padded.
    """

    maps: list[Tensor]
    finest: Tensor
    positions: list[Tensor]
    masks: list[Tensor] | None


class ReferFormer(nn.Module):
    """The model of figure 2.

    Args:
        backbone: frames -> four maps of strides 4, 8, 16, 32.
        text_encoder: captions -> word and sentence features of `dim` channels.
        transformer: deformable encoder and decoder.
        pixel_decoder: CM-FPN.
        mask_head: dynamic convolution.
        dim: channels C.
        num_queries: conditional queries N.
        num_classes: classes K; 1 is class-agnostic.
        num_feature_levels: maps that enter the transformer.
        box_refine: every decoder layer has heads of its own and refines the boxes of the one before.
        num_heads: heads of the early fusion's attention.
        position_in_content: amplitude of sine positions that are added to the projected maps, before the fusion.
    """

    def __init__(
        self,
        backbone: Backbone,
        text_encoder: TextEncoder,
        transformer: DeformableTransformer,
        pixel_decoder: PixelDecoder,
        mask_head: DynamicMaskHead,
        *,
        dim: int = 256,
        num_queries: int = 5,
        num_classes: int = 1,
        num_feature_levels: int = 4,
        box_refine: bool = True,
        num_heads: int = 8,
        position_in_content: float = 0.0,
    ):
        super().__init__()
        self.backbone, self.text_encoder = backbone, text_encoder
        self.input_proj = _input_projections(backbone.channels[1:], dim, num_feature_levels)
        self.fusion = EarlyFusion(dim, num_heads)
        self.transformer = transformer
        self.query_embed = nn.Embedding(num_queries, dim)
        num_heads_made = len(transformer.decoder_layers) if box_refine else 1
        self.class_heads = nn.ModuleList(nn.Linear(dim, num_classes) for _ in range(num_heads_made))
        self.box_heads = nn.ModuleList(MLP(dim, dim, 4, num_layers=3) for _ in range(num_heads_made))
        self.pixel_decoder, self.mask_head = pixel_decoder, mask_head
        self.box_refine, self.num_queries, self.position_in_content = box_refine, num_queries, position_in_content
        for head in self.class_heads:
            nn.init.constant_(head.bias, -math.log(99))  # a prior probability of 0.01
        for i, head in enumerate(self.box_heads):
            nn.init.zeros_(head.layers[-1].weight)
            nn.init.zeros_(head.layers[-1].bias)
            if i == 0:
                nn.init.constant_(head.layers[-1].bias[2:], -2.0)  # boxes begin small

    def forward(
        self,
        frames: Tensor,
        padding_mask: Tensor | None,
        text: list[str] | Tokens,
        frame_sizes: Tensor,
        annotated_frame: Tensor | None = None,
    ) -> list[LayerOutput]:
        """Predict boxes, masks and reference probabilities of N instance sequences.

        Args:
            frames: (B, T, 3, H, W), normalised with ImageNet's mean and std.
            padding_mask: (B, T, H, W) True on padding, or None when nothing is padded.
            text: B captions, or their tokens.
            frame_sizes: (B, 2), (h, w) of each clip before padding.
            annotated_frame: (B,), only that frame of each clip goes on after the backbone, and T becomes 1.

        Returns:
            One output per decoder layer; the last is the prediction.
        """
        visual = self.look(frames, padding_mask, annotated_frame)
        words = self.text_encoder(text)
        memory, states = self.locate(visual, words)
        pyramid = self.build_pyramid(visual, memory, words)
        return self.predict(states, self.pixel_decoder.mask_features(pyramid), frame_sizes)

    def look(
        self, frames: Tensor, padding_mask: Tensor | None = None, annotated_frame: Tensor | None = None
    ) -> VisualFeatures:
        """All the work that needs no text, done once per video."""
        b, t = frames.shape[:2]
        if padding_mask is not None:
            # The frames of a clip are of one size, so one mask a clip does; a CPU sees for free whether any is needed.
            padding_mask = padding_mask[:, 0]
            if padding_mask.device.type == "cpu" and not padding_mask.any():
                padding_mask = None
        maps = self.backbone(frames)
        if annotated_frame is not None:
            kept = annotated_frame + torch.arange(b, device=frames.device) * t
            maps, t = [m[kept] for m in maps], 1
        projected = []
        for i, projection in enumerate(self.input_proj):
            source = maps[i + 1] if i < 3 else maps[3] if i == 3 else projected[-1]
            projected.append(projection(source))

        sizes = [tuple(m.shape[-2:]) for m in (maps[0], *projected)]
        masks = [frames.new_zeros((1, *size), dtype=torch.bool) for size in sizes]
        if padding_mask is not None:
            masks = [F.interpolate(padding_mask[:, None].float(), size=size)[:, 0].bool() for size in sizes]
        dim = self.query_embed.embedding_dim
        positions = [sine_position_2d(mask, dim).expand(b, -1, -1, -1) for mask in masks]
        projected = [from_convolution(m, t) for m in projected]
        if self.position_in_content:
            for i, mask in enumerate(masks[1:]):
                position = self.position_in_content * sine_position_2d(mask, dim, CONTENT_TEMPERATURE)
                projected[i] = projected[i] + position[:, None].to(projected[i].dtype)
        masks = None if padding_mask is None else masks
        finest = self.pixel_decoder.look_finest(
            from_convolution(maps[0], t), positions[0], None if masks is None else masks[0]
        )
        return VisualFeatures(projected, finest, positions, masks)

    def locate(self, visual: VisualFeatures, text: TextFeatures) -> tuple[Memory, list[DecoderState]]:
        """Fuse words into the maps, encode them, and let the conditional queries find the object."""
        fused = [self.fusion(m, text) for m in visual.maps]
        masks = None if visual.masks is None else visual.masks[1:]
        memory = self.transformer.encode(fused, masks, visual.positions[1:])
        states = self.transformer.decode(
            memory, text.sentence, self.query_embed.weight, self.box_heads, self.box_refine
        )
        return memory, states

    def build_pyramid(self, visual: VisualFeatures, memory: Memory, text: TextFeatures) -> Tensor:
        """CM-FPN up to the mask-feature convolution, (B T, C, H/4, W/4)."""
        levels = [memory.level(i) for i in range(3)]
        masks = None if visual.masks is None else visual.masks[:4]
        return self.pixel_decoder(visual.finest, levels, visual.positions[:4], masks, text)

    def classify(self, state: DecoderState, layer: int) -> Tensor:
        """(B T, N, K) class logits of a decoder layer."""
        return self.class_heads[layer % len(self.class_heads)](state.queries).float()

    def predict(self, states: list[DecoderState], mask_features: Tensor, frame_sizes: Tensor) -> list[LayerOutput]:
        """Heads of all decoder layers; the masks of all of them come from one pass over the mask features."""
        b, n = len(frame_sizes), self.num_queries
        t = len(mask_features) // b
        masks = self.mask_head(
            mask_features,
            torch.cat([state.queries for state in states], dim=1),
            torch.cat([state.mask_reference(self.box_refine) for state in states], dim=1),
            frame_sizes.repeat_interleave(t, 0),
        )
        return [
            LayerOutput(
                class_logits=self.classify(state, i).unflatten(0, (b, t)),
                boxes=state.boxes.unflatten(0, (b, t)),
                mask_logits=layer_masks.unflatten(0, (b, t)),
                reference_points=state.references[..., :2].unflatten(0, (b, t)),
            )
            for i, (state, layer_masks) in enumerate(zip(states, masks.split(n, dim=1), strict=True))
        ]

    def checkpoint_extras(self) -> dict[str, Any]:
        """What a checkpoint carries beside the weights, so that it needs no other file."""
        return {"text": self.text_encoder.assets()}


def _input_projections(channels: tuple[int, ...], dim: int, num_levels: int) -> nn.ModuleList:
    """1x1 convolutions for strides 8, 16, 32, then 3x3 ones with stride 2, each with a GroupNorm."""
    projections = [nn.Conv2d(c, dim, 1) for c in channels]
    projections += [nn.Conv2d(channels[-1], dim, 3, stride=2, padding=1)] * (num_levels > 3)
    projections += [nn.Conv2d(dim, dim, 3, stride=2, padding=1) for _ in range(num_levels - 4)]
    for conv in projections:
        nn.init.xavier_uniform_(conv.weight)
        nn.init.zeros_(conv.bias)
    return nn.ModuleList(nn.Sequential(conv, nn.GroupNorm(32, dim)) for conv in projections)
