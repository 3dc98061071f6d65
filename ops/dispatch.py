"""The one entrance to multi-scale deformable attention: it checks the inputs and chooses who computes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ops.reference import ms_deform_attn_reference

BACKENDS = ("auto", "torch")


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
    backend: str = "auto",
) -> Tensor:
    """Weighted sum of values sampled bilinearly at given points of several maps.

    Args:
        value: (N, S, heads, d), the maps' positions one level after the other, row by row.
        spatial_shapes: (h, w) of each level, which together hold S positions.
        sampling_locations: (N, Lq, heads, levels, points, 2), x then y as shares of the map's (w, h), with pixel
            centres at half integers; points outside sample zeros.
        attention_weights: (N, Lq, heads, levels, points).
        backend: `torch` for plain PyTorch, `auto` for the best one there is.

    Returns:
        (N, Lq, heads * d) in the type of `value`.

    Raises:
        ValueError: shapes do not fit together, or the backend is unknown.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}; choose one of {', '.join(BACKENDS)}")
    check_shapes(value, spatial_shapes, sampling_locations, attention_weights)
    return ms_deform_attn_reference(value, spatial_shapes, sampling_locations, attention_weights)


def check_shapes(
    value: Tensor, spatial_shapes: Sequence[tuple[int, int]], sampling_locations: Tensor, attention_weights: Tensor
) -> None:
    """ValueError unless the four inputs of `ms_deform_attn` belong together."""
    if value.dim() != 4:
        raise ValueError(f"value has shape {tuple(value.shape)}; expected (N, S, heads, d)")
    batch, num_positions, num_heads, _ = value.shape
    expected = (batch, num_heads, len(spatial_shapes), 2)
    shape = tuple(sampling_locations.shape)
    if len(shape) != 6 or (shape[0], shape[2], shape[3], shape[5]) != expected:
        raise ValueError(
            f"sampling_locations has shape {shape}; expected (N, Lq, heads, levels, points, 2) with N = {batch}, "
            f"heads = {num_heads}, levels = {len(spatial_shapes)}"
        )
    if tuple(attention_weights.shape) != shape[:-1]:
        raise ValueError(f"attention_weights has shape {tuple(attention_weights.shape)}; expected {shape[:-1]}")
    total = sum(height * width for height, width in spatial_shapes)
    if total != num_positions:
        raise ValueError(f"spatial_shapes {list(spatial_shapes)} hold {total} positions, value holds {num_positions}")
