"""Multi-scale deformable attention in plain PyTorch: the definition every kernel is held to, and the fallback.

Legend: N batch, S positions of all maps together, Lq queries, d channels of a head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ops.library import accumulate_dtype

# Beyond these bounds a location is outside a map of any size, so moving it there changes nothing; unbounded ones
# would overflow when PyTorch turns them into pixel indices.
FAR_OUTSIDE = (-2.0, 3.0)


def ms_deform_attn_reference(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Multi-scale deformable attention by `grid_sample`, differentiable any number of times.

    Args:
        value: (N, S, heads, d).
        spatial_shapes: (h, w) of each level, which together hold S positions.
        sampling_locations: (N, Lq, heads, levels, points, 2), x then y in [0, 1]; what lies outside samples zeros,
            and so does a location that is not a number.
        attention_weights: (N, Lq, heads, levels, points).

    Returns:
        (N, Lq, heads * d) in the type of `value`.
    """
    batch, _, num_heads, channels = value.shape
    num_queries, num_points = sampling_locations.shape[1], sampling_locations.shape[4]
    dtype = accumulate_dtype(value.dtype)
    if value.numel() == 0 or attention_weights.numel() == 0:  # grid_sample takes no empty maps
        nothing = value.sum() + sampling_locations.sum() + attention_weights.sum()  # keeps the graph; the sum may be 0
        return value.new_zeros(batch, num_queries, num_heads * channels) + 0 * nothing.to(value.dtype)

    with torch.autocast(value.device.type, enabled=False):
        maps = value.to(dtype).split([h * w for h, w in spatial_shapes], dim=1)
        low, high = FAR_OUTSIDE
        grid = sampling_locations.to(dtype).nan_to_num(nan=low, posinf=high, neginf=low).clamp(low, high) * 2 - 1
        output = value.new_zeros((), dtype=dtype)  # (N * heads, d, Lq), level by level to hold one level's samples
        for level, (height, width) in enumerate(spatial_shapes):
            # (N, h * w, heads, d) -> (N * heads, d, h, w)
            level_map = maps[level].permute(0, 2, 3, 1).reshape(batch * num_heads, channels, height, width)
            # (N, Lq, heads, points, 2) -> (N * heads, Lq, points, 2)
            level_grid = grid[:, :, :, level].transpose(1, 2).reshape(batch * num_heads, num_queries, num_points, 2)
            # (N, Lq, heads, points) -> (N * heads, 1, Lq, points)
            weights = attention_weights[:, :, :, level].to(dtype).transpose(1, 2)
            weights = weights.reshape(batch * num_heads, 1, num_queries, num_points)
            sampled = F.grid_sample(level_map, level_grid, mode="bilinear", align_corners=False)
            output = output + (sampled * weights).sum(-1)
    output = output.view(batch, num_heads * channels, num_queries).transpose(1, 2)
    return output.to(value.dtype).contiguous()
