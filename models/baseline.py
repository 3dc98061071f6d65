"""The baseline without queries of table 4: words and all frames' pixels through a plain encoder, then an FPN.

B clips, T frames, S words, P = T h w pixels of stride 32, C channels, H x W the padded frame.
Maps are channels-last, (B, T, h, w, C); padding masks are True on padding; sizes are (h, w).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.attention import MultiHeadAttention
from models.backbones import Backbone
from models.dropout import Dropout
from models.feed_forward import FeedForward
from models.outputs import BestQuery, LayerOutput
from models.pixel_decoder import PixelDecoder
from models.text_encoder import TextEncoder, TextFeatures, Tokens
from models.visual_features import VisualFeatures, input_projections, look
from util.boxes import box_xyxy_to_cxcywh, masks_to_boxes

STRIDE = 4


class PlainEncoderLayer(nn.Module):
    """Self-attention among all tokens and feed-forward network, post-norm."""

    def __init__(self, dim: int, num_heads: int, ffn_dim: int, dropout: float):
        super().__init__()
        self.self_attn = MultiHeadAttention(dim, num_heads, dropout)
        self.norm = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)
        self.ffn = FeedForward(dim, ffn_dim, dropout)

    def forward(self, tokens: Tensor, position: Tensor, padding_mask: Tensor) -> Tensor:
        """tokens and position (B, P + S, C), padding_mask (B, P + S) -> (B, P + S, C)."""
        query = tokens + position.to(tokens.dtype)
        return self.ffn(self.norm(tokens + self.dropout(self.self_attn(query, query, tokens, padding_mask))))


class Baseline(nn.Module):
    """Bottom-up segmentation without queries (section 4.4, "Component Analysis").

    The pixels of all frames, flattened, and the words are one sequence; a plain transformer encoder relates them, and a
    feature pyramid over its pixels gives one mask. There is neither a box nor a reference probability to learn: the
    box of the output is that of the mask, its score the probability of its surest pixel.

    Args:
        backbone: frames -> four maps of strides 4, 8, 16, 32.
        text_encoder: captions -> word features of `dim` channels.
        pixel_decoder: a pyramid without fusion.
        dim: channels C.
        num_layers: encoder layers.
        num_heads, ffn_dim, dropout: of these.
        mask_dim: mask features of the pyramid.
        recompute: recompute encoder layers in the backward pass.
    """

    def __init__(
        self,
        backbone: Backbone,
        text_encoder: TextEncoder,
        pixel_decoder: PixelDecoder,
        *,
        dim: int = 256,
        num_layers: int = 4,
        num_heads: int = 8,
        ffn_dim: int = 2048,
        dropout: float = 0.1,
        mask_dim: int = 256,
        recompute: bool = False,
    ):
        super().__init__()
        self.backbone, self.text_encoder = backbone, text_encoder
        self.input_proj = input_projections(backbone.channels[1:], dim, num_levels=3)
        self.encoder_layers = nn.ModuleList(
            PlainEncoderLayer(dim, num_heads, ffn_dim, dropout) for _ in range(num_layers)
        )
        self.pixel_decoder = pixel_decoder
        self.mask_output = nn.Conv2d(mask_dim, 1, 1)
        self.recompute = recompute

    def forward(
        self,
        frames: Tensor,
        padding_mask: Tensor | None,
        text: list[str] | Tokens,
        frame_sizes: Tensor,
        annotated_frame: Tensor | None = None,
    ) -> list[LayerOutput]:
        """One output with one query, N = K = 1; arguments as those of `ReferFormer.forward`."""
        visual = self.look(frames, padding_mask, annotated_frame)
        logits = self.segment(visual, self.text_encoder(text))
        with torch.no_grad():
            scores, boxes = describe_masks(logits, frame_sizes)
        return [LayerOutput(scores[..., None, None], boxes[:, :, None], logits[:, :, None], boxes[:, :, None, :2])]

    def look(
        self, frames: Tensor, padding_mask: Tensor | None = None, annotated_frame: Tensor | None = None
    ) -> VisualFeatures:
        """All the work that needs no text, done once per video."""
        return look(self.backbone, self.input_proj, self.pixel_decoder, frames, padding_mask, annotated_frame)

    def segment(self, visual: VisualFeatures, text: TextFeatures) -> Tensor:
        """(B, T, H/4, W/4) mask logits."""
        encoded = self.encode(visual, text)
        masks = None if visual.masks is None else visual.masks[:4]
        pyramid = self.pixel_decoder(visual.finest, [*visual.maps[:2], encoded], visual.positions[:4], masks, text)
        logits = self.mask_output(self.pixel_decoder.mask_features(pyramid))
        return logits[:, 0].unflatten(0, encoded.shape[:2]).float()

    def encode(self, visual: VisualFeatures, text: TextFeatures) -> Tensor:
        """Pixels of stride 32 that have seen each other, in all frames, and the words: (B, T, h, w, C)."""
        pixels, t = visual.maps[2], visual.maps[2].shape[1]
        tokens = torch.cat((pixels.flatten(1, 3), text.words.to(pixels.dtype)), dim=1)
        position = visual.positions[3][:, None].expand(-1, t, -1, -1, -1).flatten(1, 3)
        position = torch.cat((position, text.position), dim=1)
        if visual.masks is None:
            padding = text.padding_mask.new_zeros(pixels.flatten(1, 3).shape[:2])
        else:
            padding = visual.masks[3][:, None].expand(-1, t, -1, -1).flatten(1)
        padding = torch.cat((padding, text.padding_mask), dim=1)
        recompute = self.recompute and torch.is_grad_enabled()
        for layer in self.encoder_layers:
            inputs = (tokens, position, padding)
            tokens = checkpoint(layer, *inputs, use_reentrant=False) if recompute else layer(*inputs)
        return tokens[:, : padding.shape[1] - text.words.shape[1]].view(pixels.shape)

    def answer(
        self, visual: VisualFeatures, text: TextFeatures, size: tuple[int, int], earlier: Tensor | None = None
    ) -> BestQuery:
        """As `ReferFormer.answer`; the one query there is."""
        logits = self.segment(visual, text)
        scores, boxes = describe_masks(logits, torch.tensor([size], device=logits.device))
        return BestQuery(
            query=0,
            scores=scores[0, :, None].sigmoid().cpu(),
            boxes=boxes[0][:, None],
            reference_points=boxes[0][:, None, :2],  # it has none; the middle of the mask
            mask_logits=logits[0][:, None],
        )

    def checkpoint_extras(self) -> dict[str, Any]:
        """What a checkpoint carries beside the weights, so that it needs no other file."""
        return {"text": self.text_encoder.assets()}


def describe_masks(logits: Tensor, frame_sizes: Tensor) -> tuple[Tensor, Tensor]:
    """What a query would say of masks, read off them.

    Args:
        logits: (B, T, H/4, W/4).
        frame_sizes: (B, 2), (h, w) before padding.

    Returns:
        (B, T) logit of the surest pixel, and (B, T, 4) box of the mask, cxcywh as shares of the frame.
    """
    logits = logits.detach()
    boxes = box_xyxy_to_cxcywh(masks_to_boxes(logits.flatten(0, 1) > 0)).unflatten(0, logits.shape[:2]) * STRIDE
    width_height = frame_sizes.flip(-1).to(boxes)
    return logits.amax((-2, -1)), (boxes / width_height.repeat(1, 2)[:, None]).clamp(0, 1)
