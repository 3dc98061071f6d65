"""Random inputs for deformable attention, and how far a backend is from plain PyTorch in float64 on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ops.dispatch import ms_deform_attn

# Largest error of outputs and gradients, as a share of the largest number (at least 1). Half precision rounds results.
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}


@dataclass(frozen=True, kw_only=True)
class Case:
    """Sizes of one call.

    Attributes:
        batch: N.
        queries: Lq.
        heads: heads.
        channels: channels d of a head.
        points: points per head and level.
        spatial_shapes: (h, w) of each level.
    """

    batch: int = 2
    queries: int = 19
    heads: int = 4
    channels: int = 32
    points: int = 4
    spatial_shapes: Sequence[tuple[int, int]] = field(default=((9, 14), (5, 7), (1, 2)))


CASES = (
    Case(),
    Case(channels=8, heads=8, points=3),
    Case(channels=20, heads=3, points=1, batch=1),  # blocks of 16 and of 4 channels
    Case(channels=67, heads=1, points=9),  # of 32 and of 1, and registers half full of points
    Case(queries=2, batch=3, heads=2, spatial_shapes=((33, 40),)),  # most values have no gradient
    Case(queries=0),
    Case(batch=0),
)


def random_inputs(
    case: Case,
    dtype: torch.dtype,
    device: str | torch.device = "cpu",
    location_dtype: torch.dtype | None = None,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Values, locations and weights that ask for gradients.

    Points fall on the maps and up to three pixels beside them, but never where four pixel centres meet or on the lines
    between: there the gradient jumps, and rounding decides which side counts.

    Returns:
        value (N, S, heads, d), sampling_locations (N, Lq, heads, levels, points, 2), attention_weights without the 2.
    """
    generator = torch.Generator().manual_seed(seed)
    positions = sum(height * width for height, width in case.spatial_shapes)
    levels = len(case.spatial_shapes)
    value = torch.randn(case.batch, positions, case.heads, case.channels, generator=generator, dtype=torch.float64)
    shape = (case.batch, case.queries, case.heads, levels, case.points)
    sizes_wh = torch.tensor([(width, height) for height, width in case.spatial_shapes], dtype=torch.float64)
    cells = torch.rand(*shape, 2, generator=generator, dtype=torch.float64) * (sizes_wh[:, None] + 6) - 3.5
    within = torch.rand(*shape, 2, generator=generator, dtype=torch.float64) * 0.8 + 0.1
    locations = (cells.floor() + within + 0.5) / sizes_wh[:, None]
    weights = torch.rand(*shape[:3], levels * case.points, generator=generator, dtype=torch.float64).softmax(-1)
    weights = weights.view(shape)
    location_dtype = location_dtype or dtype
    return (
        value.to(device, dtype).requires_grad_(),
        locations.to(device, location_dtype).requires_grad_(),
        weights.to(device, location_dtype).requires_grad_(),
    )


def differences(
    case: Case,
    dtype: torch.dtype,
    device: str | torch.device = "cpu",
    location_dtype: torch.dtype | None = None,
    backend: str = "compiled",
    seed: int = 0,
) -> dict[str, float]:
    """Errors of the output and of the three gradients against plain PyTorch in float64, as TOLERANCES counts them."""
    inputs = random_inputs(case, dtype, device, location_dtype, seed)
    exact_inputs = tuple(tensor.detach().double().requires_grad_() for tensor in inputs)
    output = ms_deform_attn(inputs[0], case.spatial_shapes, *inputs[1:], backend=backend)
    exact = ms_deform_attn(exact_inputs[0], case.spatial_shapes, *exact_inputs[1:], backend="torch")
    grad_output = torch.randn(exact.shape, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    grad_output = grad_output.to(device, dtype)
    results = (output, *torch.autograd.grad(output, inputs, grad_output))
    exact_results = (exact, *torch.autograd.grad(exact, exact_inputs, grad_output.double()))
    names = ("output", "grad_value", "grad_locations", "grad_weights")
    return {
        name: relative_error(result, expected)
        for name, result, expected in zip(names, results, exact_results, strict=True)
    }


def relative_error(result: Tensor, expected: Tensor) -> float:
    """Largest absolute difference, as a share of the largest expected number where that is above 1."""
    if expected.numel() == 0:
        return 0.0
    scale = max(1.0, expected.abs().max().item())
    return (result.double() - expected).abs().max().item() / scale
