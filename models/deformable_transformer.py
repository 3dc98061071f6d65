"""Deformable transformer with conditional queries (section 3.2 of the paper).

B clips, T frames, N queries, L decoder layers, P visual tokens of all levels, C channels. Every frame is an item of
the batch of its own: the encoder works on (B T, P, C), the decoder on (B T, N, C).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.attention import MultiHeadAttention
from models.dropout import Dropout
from models.feed_forward import MLP, FeedForward
from models.inplace import add_into
from models.precision import full_precision
from ops.module import MSDeformAttn


@dataclass(frozen=True)
class Memory:
    """Encoded visual tokens of all levels.

    Attributes:
        tokens: (B T, P, C).
        padding_mask: (B T, P) True on padding, or None when nothing is padded.
        shapes: (h, w) of each level.
        valid_ratios: (B T, levels, 2), share of (w, h) of each level that is not padding.
        num_frames: T.
    """

    tokens: Tensor
    padding_mask: Tensor | None
    shapes: list[tuple[int, int]]
    valid_ratios: Tensor
    num_frames: int

    def level(self, index: int) -> Tensor:
        """(B, T, h, w, C) tokens of one level."""
        sizes = [h * w for h, w in self.shapes]
        tokens = self.tokens[:, sum(sizes[:index]) : sum(sizes[: index + 1])]
        return tokens.unflatten(1, self.shapes[index]).unflatten(0, (-1, self.num_frames))


@dataclass(frozen=True)
class DecoderState:
    """What one decoder layer gives.

    Attributes:
        queries: (B T, N, C).
        references: (B T, N, 2 or 4), the detached references that entered the layer (not detached at the first).
        boxes: (B T, N, 4) cxcywh in [0, 1].
    """

    queries: Tensor
    references: Tensor
    boxes: Tensor

    def mask_reference(self, box_refine: bool) -> Tensor:
        """(B T, N, 2) xy that the mask head's coordinates are relative to: the refined centre, or the reference."""
        return self.boxes[..., :2].detach() if box_refine else self.references[..., :2]


class EncoderLayer(nn.Module):
    """Deformable self-attention and feed-forward network, post-norm."""

    def __init__(self, dim: int, num_heads: int, num_levels: int, num_points: int, ffn_dim: int, dropout: float):
        super().__init__()
        self.self_attn = MSDeformAttn(dim, num_levels, num_heads, num_points)
        self.norm = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)
        self.ffn = FeedForward(dim, ffn_dim, dropout)

    def forward(self, memory: Memory, position: Tensor, reference_points: Tensor, tokens: Tensor) -> Tensor:
        """position (B, P, C), reference_points (B T, P, levels, 2), tokens (B T, P, C) -> (B T, P, C)."""
        query = (tokens.unflatten(0, (-1, memory.num_frames)) + position[:, None]).flatten(0, 1)
        attended = self.self_attn(query, reference_points, tokens, memory.shapes, memory.padding_mask)
        return self.ffn(self.norm(add_into(self.dropout(attended), tokens)))


class DecoderLayer(nn.Module):
    """Self-attention among the queries of a frame, deformable attention to the memory, feed-forward; post-norm."""

    def __init__(self, dim: int, num_heads: int, num_levels: int, num_points: int, ffn_dim: int, dropout: float):
        super().__init__()
        self.self_attn = MultiHeadAttention(dim, num_heads, dropout)
        self.self_norm = nn.LayerNorm(dim)
        self.cross_attn = MSDeformAttn(dim, num_levels, num_heads, num_points)
        self.cross_norm = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)
        self.ffn = FeedForward(dim, ffn_dim, dropout)

    def forward(self, queries: Tensor, position: Tensor, references: Tensor, memory: Memory) -> Tensor:
        """queries and position (B T, N, C), references (B T, N, 2 or 4) -> (B T, N, C)."""
        positioned = queries + position
        queries = self.self_norm(queries + self.dropout(self.self_attn(positioned, positioned, queries)))
        ratios = memory.valid_ratios  # padding lies at the right and bottom, so a box shrinks with its centre
        if references.shape[-1] == 4:
            ratios = torch.cat((ratios, ratios), dim=-1)
        scaled = references[:, :, None] * ratios[:, None]
        attended = self.cross_attn(queries + position, scaled, memory.tokens, memory.shapes, memory.padding_mask)
        return self.ffn(self.cross_norm(queries + self.dropout(attended)))


class DeformableTransformer(nn.Module):
    """Encoder over the pixels of each frame, decoder of the N conditional queries that all frames share.

    Args:
        dim: channels C.
        num_heads: attention heads.
        num_encoder_layers: encoder layers.
        num_decoder_layers: decoder layers L.
        num_levels: maps.
        num_points: sampling points per head and level.
        ffn_dim: hidden width of the feed-forward networks.
        dropout: dropout.
        recompute: recompute encoder layers in the backward pass.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        num_encoder_layers: int,
        num_decoder_layers: int,
        num_levels: int,
        num_points: int,
        ffn_dim: int,
        dropout: float,
        recompute: bool = False,
    ):
        super().__init__()
        sizes = (dim, num_heads, num_levels, num_points, ffn_dim, dropout)
        self.encoder_layers = nn.ModuleList(EncoderLayer(*sizes) for _ in range(num_encoder_layers))
        self.decoder_layers = nn.ModuleList(DecoderLayer(*sizes) for _ in range(num_decoder_layers))
        self.level_embed = nn.Parameter(torch.randn(num_levels, dim))
        self.reference_points = nn.Linear(dim, 2)
        self.recompute = recompute
        nn.init.xavier_uniform_(self.reference_points.weight)
        nn.init.zeros_(self.reference_points.bias)

    def encode(self, maps: list[Tensor], masks: list[Tensor] | None, positions: list[Tensor]) -> Memory:
        """Encode the pixels of every frame.

        Args:
            maps: (B, T, h, w, C) per level.
            masks: (B, h, w) per level, True on padding, the same for all frames of a clip; None without padding.
            positions: (B, h, w, C) per level.
        """
        b, t = maps[0].shape[:2]
        shapes = [tuple(m.shape[2:4]) for m in maps]
        tokens = torch.cat([m.flatten(2, 3).flatten(0, 1) for m in maps], dim=1)
        position = torch.cat(
            [p.flatten(1, 2) + embed for p, embed in zip(positions, self.level_embed, strict=True)], dim=1
        )
        padding_mask, ratios = None, tokens.new_ones(b, len(maps), 2, dtype=torch.float32)
        if masks is not None:
            padding_mask = torch.cat([m.flatten(1) for m in masks], dim=1).repeat_interleave(t, 0)
            ratios = torch.stack([valid_ratio(m) for m in masks], dim=1)
        references = encoder_reference_points(shapes, ratios).repeat_interleave(t, 0)
        memory = Memory(tokens, padding_mask, shapes, ratios.repeat_interleave(t, 0), t)
        for layer in self.encoder_layers:
            inputs = (memory, position, references, tokens)
            recompute = self.recompute and torch.is_grad_enabled()
            tokens = checkpoint(layer, *inputs, use_reentrant=False) if recompute else layer(*inputs)
        return Memory(tokens, padding_mask, shapes, memory.valid_ratios, t)

    def decode(
        self, memory: Memory, sentence: Tensor, query_position: Tensor, box_heads: nn.ModuleList, box_refine: bool
    ) -> list[DecoderState]:
        """Find the referred object with N conditional queries.

        The sentence feature is the content of every query, the learned embedding its position. With box refinement
        each layer moves the boxes of the one before.

        Args:
            memory: of `encode`.
            sentence: (B, C).
            query_position: (N, C) learned query embeddings.
            box_heads: one MLP per layer, or one for all.
            box_refine: refine boxes layer by layer.
        """
        frames = memory.tokens.shape[0]
        queries = sentence.repeat_interleave(memory.num_frames, 0)[:, None].expand(-1, len(query_position), -1)
        position = query_position.expand(frames, -1, -1)
        with full_precision(query_position):
            references = self.reference_points(query_position).sigmoid().expand(frames, -1, -1)
        states = []
        for i, layer in enumerate(self.decoder_layers):
            queries = layer(queries, position, references, memory)
            boxes = predict_boxes(box_heads[i % len(box_heads)], queries, references)
            states.append(DecoderState(queries, references, boxes))
            if box_refine:
                references = boxes.detach()
        return states


def predict_boxes(head: MLP, queries: Tensor, references: Tensor) -> Tensor:
    """sigmoid(MLP(queries) + inverse sigmoid of the references), (..., 4); a 2-d reference moves the centre only."""
    with full_precision(queries):
        delta = head(queries.float())
        logits = inverse_sigmoid(references)
        if references.shape[-1] == 2:
            logits = torch.cat((logits, torch.zeros_like(logits)), dim=-1)
        return (delta + logits).sigmoid()


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """log(x / (1 - x)) of x clamped to [0, 1], both terms from below by `eps`."""
    x = x.clamp(0, 1)
    return (x.clamp(min=eps) / (1 - x).clamp(min=eps)).log()


def valid_ratio(mask: Tensor) -> Tensor:
    """(B, h, w) padding mask, True on padding -> (B, 2) shares of (w, h) that are not padding."""
    h, w = mask.shape[1:]
    return torch.stack(((~mask[:, 0, :]).sum(1) / w, (~mask[:, :, 0]).sum(1) / h), dim=-1)


def encoder_reference_points(shapes: list[tuple[int, int]], valid_ratios: Tensor) -> Tensor:
    """Centres of all pixels as shares of the valid size, then seen from every level.

    Args:
        shapes: (h, w) of each level.
        valid_ratios: (B, levels, 2), as (w, h).

    Returns:
        (B, P, levels, 2) xy.
    """
    points = []
    for level, (h, w) in enumerate(shapes):
        y = torch.linspace(0.5, h - 0.5, h, device=valid_ratios.device)
        x = torch.linspace(0.5, w - 0.5, w, device=valid_ratios.device)
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1)  # (h w, 2)
        points.append(grid / (valid_ratios[:, None, level] * grid.new_tensor((w, h))))
    return torch.cat(points, dim=1)[:, :, None] * valid_ratios[:, None]
