"""Deformable attention as a layer (Deformable DETR, Zhu et al. 2021, equation 3).

Legend: N batch, S positions of all maps together, Lq queries, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ops.dispatch import ms_deform_attn
from ops.linear import linear


class MSDeformAttn(nn.Module):
    """Each query attends to a few points around its reference on every map.

    Args:
        hidden_dim: channels C.
        num_levels: maps.
        num_heads: heads, which share the channels.
        num_points: points per head and level.
        backend: of `ms_deform_attn`.

    Raises:
        ValueError: the heads do not divide the channels.
    """

    def __init__(
        self, hidden_dim: int, num_levels: int, num_heads: int, num_points: int, backend: str = "auto"
    ) -> None:
        super().__init__()
        if hidden_dim % num_heads:
            raise ValueError(f"hidden_dim is {hidden_dim}; not a multiple of num_heads ({num_heads})")
        self.num_levels = num_levels
        self.num_heads = num_heads
        self.num_points = num_points
        self.backend = backend
        self.sampling_offsets = nn.Linear(hidden_dim, num_heads * num_levels * num_points * 2)
        self.attention_weights = nn.Linear(hidden_dim, num_heads * num_levels * num_points)
        self.value_proj = nn.Linear(hidden_dim, hidden_dim)
        self.output_proj = nn.Linear(hidden_dim, hidden_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start with every head looking its own way, one pixel further per point, all points weighted alike."""
        angles = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
        directions = directions / directions.abs().amax(dim=-1, keepdim=True)  # onto the unit square
        steps = torch.arange(1, self.num_points + 1)
        bias = directions[:, None, None, :] * steps[:, None]  # (heads, 1, points, 2)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(bias.expand(-1, self.num_levels, -1, -1).flatten())
        nn.init.zeros_(self.sampling_offsets.weight)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self,
        query: Tensor,
        reference_points: Tensor,
        memory: Tensor,
        spatial_shapes: Sequence[tuple[int, int]],
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Attend from the queries to the memory.

        Args:
            query: (N, Lq, C).
            reference_points: (N, Lq, levels, 2) points or (N, Lq, levels, 4) boxes cxcywh, as shares of each map.
            memory: (N, S, C), the maps' positions one level after the other.
            spatial_shapes: (h, w) of each level.
            padding_mask: (N, S) bool, True on padding, which is read as zeros.

        Returns:
            (N, Lq, C).

        Raises:
            ValueError: reference points with neither 2 nor 4 numbers.
        """
        value = linear(memory, self.value_proj.weight, self.value_proj.bias)
        if padding_mask is not None:
            value = value.masked_fill(padding_mask[..., None], 0)
        value = value.unflatten(-1, (self.num_heads, -1))
        locations = self.sampling_locations(query, reference_points, spatial_shapes)
        weights = self.sampling_weights(query)
        attended = ms_deform_attn(value, spatial_shapes, locations, weights, backend=self.backend)
        return linear(attended, self.output_proj.weight, self.output_proj.bias)

    def sampling_locations(
        self, query: Tensor, references: Tensor, spatial_shapes: Sequence[tuple[int, int]]
    ) -> Tensor:
        """(N, Lq, heads, levels, points, 2) sampling locations, float32 or wider.

        With bfloat16's eight bits a location on a map 80 wide would be a third of a pixel off.
        """
        weight, bias = self.sampling_offsets.weight, self.sampling_offsets.bias
        if references.shape[-1] == 2:  # offsets are in pixels; their few weights are divided by the sizes, not they
            scale = 1 / weight.new_tensor([(width, height) for height, width in spatial_shapes])[:, None]
            scale = scale.expand(self.num_heads, -1, self.num_points, -1).flatten()
            weight, bias = weight * scale[:, None], bias * scale
        offsets = linear(query, weight, bias).unflatten(-1, (self.num_heads, self.num_levels, self.num_points, 2))
        dtype = torch.promote_types(offsets.dtype, torch.float32)
        offsets, references = offsets.to(dtype), references.to(dtype)[:, :, None, :, None, :]
        if references.shape[-1] == 2:
            # Written out for every point first: a sum along rows of all levels and points is vectorised, one along two
            # numbers is not, and takes six times as long.
            references = references.expand(-1, -1, -1, -1, self.num_points, -1).flatten(3)
            offsets = offsets.flatten(3)
            locations = offsets + references if torch.is_grad_enabled() else offsets.add_(references)
            return locations.unflatten(3, (self.num_levels, self.num_points, 2))
        if references.shape[-1] == 4:
            return references[..., :2] + offsets * (references[..., 2:] * (0.5 / self.num_points))
        raise ValueError(f"reference_points hold {references.shape[-1]} numbers each; expected 2 (x, y) or 4 (cxcywh)")

    def sampling_weights(self, query: Tensor) -> Tensor:
        """(N, Lq, heads, levels, points) attention weights that sum to 1 over levels and points, float32 or wider."""
        logits = linear(query, self.attention_weights.weight, self.attention_weights.bias).unflatten(
            -1, (self.num_heads, self.num_levels * self.num_points)
        )
        weights = logits.softmax(dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))
        return weights.unflatten(-1, (self.num_levels, self.num_points))
