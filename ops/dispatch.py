"""The one entrance to multi-scale deformable attention: it checks the inputs and chooses who computes."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Sequence

import torch
from torch import Tensor

from ops import library
from ops.reference import ms_deform_attn_reference

BACKENDS = ("auto", "compiled", "torch")
BACKEND_VARIABLE = "MS_DEFORM_ATTN_BACKEND"
_BUILD_COMMAND = "python ops/setup.py build_ext --inplace"
_logger = logging.getLogger(__name__)


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
    backend: str = "auto",
) -> Tensor:
    """Weighted sum of values sampled bilinearly at given points of several maps.

    Under autocast, values are read in its type; locations and weights are float32 then. Sums are float32 or wider.

    Args:
        value: (N, S, heads, d), the maps' positions one level after the other, row by row.
        spatial_shapes: (h, w) of each level, which together hold S positions.
        sampling_locations: (N, Lq, heads, levels, points, 2), x then y as shares of the map's (w, h), with pixel
            centres at half integers; points outside, infinite or not a number sample zeros.
        attention_weights: (N, Lq, heads, levels, points).
        backend: `compiled` for the C++ or CUDA kernel of the value's device, `torch` for plain PyTorch, `auto` for the
            former where it is built. The environment variable MS_DEFORM_ATTN_BACKEND says what `auto` means.

    Returns:
        (N, Lq, heads * d) in the type of `value`.

    Raises:
        ValueError: shapes do not fit together, or the backend is unknown.
        RuntimeError: the kernels are asked for but not built.
    """
    check_shapes(value, spatial_shapes, sampling_locations, attention_weights)
    if choose_backend(value.device.type, backend) == "torch":
        inputs = library.autocast_inputs(value, sampling_locations, attention_weights)
        return ms_deform_attn_reference(inputs[0], spatial_shapes, *inputs[1:])
    sampling_locations, attention_weights = _common_types(value, sampling_locations, attention_weights)
    sizes = [size for shape in spatial_shapes for size in shape]
    return torch.ops.ms_deform_attn.forward(value, sizes, sampling_locations, attention_weights)


@torch.compiler.assume_constant_result
def choose_backend(device_type: str, backend: str = "auto") -> str:
    """Who computes on a device: `compiled` or `torch`.

    Raises:
        ValueError: the backend, or the environment variable's, is unknown.
        RuntimeError: the kernels are asked for but not built.
    """
    source = "backend"
    if backend == "auto":
        source, backend = BACKEND_VARIABLE, os.environ.get(BACKEND_VARIABLE, "auto")
    if backend not in BACKENDS:
        raise ValueError(f"{source} is {backend!r}; choose one of {', '.join(BACKENDS)}")
    if backend == "torch" or library.has_kernels(device_type):
        return "torch" if backend == "torch" else "compiled"
    reason = library.LOAD_FAILURE or f"they are built without {device_type}"
    if backend == "compiled":
        raise RuntimeError(f"{source} is 'compiled', but there are no kernels for {device_type}: {reason}. {_cure()}")
    _warn_once(device_type, reason)
    return "torch"


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


def _common_types(value: Tensor, locations: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Locations and weights in one type the kernels take: the value's, or the one its sums are held in."""
    wide = library.accumulate_dtype(value.dtype)
    if locations.dtype == weights.dtype and locations.dtype in (value.dtype, wide):
        return locations, weights
    return locations.to(wide), weights.to(wide)


def _cure() -> str:
    return f"Build them with `{_BUILD_COMMAND}`; `python -m ops` tells what is there"


@functools.cache
def _warn_once(device_type: str, reason: str) -> None:
    _logger.warning(
        "deformable attention on %s falls back to plain PyTorch, which is several times slower: %s. %s",
        device_type,
        reason,
        _cure(),
    )
