"""ReferFormer: language as queries for referring video object segmentation.

B clips, T frames, N queries, L decoder layers, S words, C channels, K classes, H x W the padded frame.
Maps are channels-last, (B, T, h, w, C); padding masks are True on padding; sizes are (h, w).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from models.backbones import Backbone
from models.deformable_transformer import DecoderState, DeformableTransformer, Memory
from models.feed_forward import MLP
from models.fusion import EarlyFusion
from models.mask_head import DynamicMaskHead
from models.outputs import BestQuery, LayerOutput
from models.pixel_decoder import PixelDecoder
from models.text_encoder import TextEncoder, TextFeatures, Tokens
from models.visual_features import VisualFeatures, input_projections, look


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
        self.input_proj = input_projections(backbone.channels[1:], dim, num_feature_levels)
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
        return look(
            self.backbone,
            self.input_proj,
            self.pixel_decoder,
            frames,
            padding_mask,
            annotated_frame,
            position_in_content=self.position_in_content,
        )

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

    def answer(
        self, visual: VisualFeatures, text: TextFeatures, size: tuple[int, int], earlier: Tensor | None = None
    ) -> BestQuery:
        """The query with the best mean score (equation 6), and the last layer's masks of it alone.

        Args:
            visual: of one clip.
            text: of one caption.
            size: (h, w) of the frames.
            earlier: (N,) summed scores of the queries in earlier windows, or None.
        """
        memory, states = self.locate(visual, text)
        last = states[-1]
        scores = self.classify(last, len(states) - 1).sigmoid().amax(-1).cpu()  # (T, N)
        query = int((scores.sum(0) if earlier is None else scores.sum(0) + earlier).argmax())
        logits = self.mask_head.forward_composed(
            self.build_pyramid(visual, memory, text),
            self.pixel_decoder.mask_features,
            last.queries[:, query : query + 1],
            last.mask_reference(self.box_refine)[:, query : query + 1],
            torch.tensor([size], device=last.boxes.device).expand(len(scores), -1),
        )
        return BestQuery(query, scores, last.boxes, last.references[..., :2], logits)

    def checkpoint_extras(self) -> dict[str, Any]:
        """What a checkpoint carries beside the weights, so that it needs no other file."""
        return {"text": self.text_encoder.assets()}
