"""Deformable attention as a layer."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ops import library, ms_deform_attn
from ops.module import MSDeformAttn

SHAPES = [(6, 9), (3, 4), (1, 2)]
POSITIONS = sum(height * width for height, width in SHAPES)
BACKENDS = [
    "torch",
    pytest.param("compiled", marks=pytest.mark.skipif(not library.has_kernels("cpu"), reason="kernels are not built")),
]


def make_layer(backend: str = "auto") -> MSDeformAttn:
    """A layer that has learnt something: no weight is zero."""
    torch.manual_seed(0)
    layer = MSDeformAttn(hidden_dim=32, num_levels=3, num_heads=4, num_points=2, backend=backend)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return layer


def make_inputs(numbers: int) -> tuple[Tensor, Tensor, Tensor]:
    """Query (2, 5, C), references (2, 5, levels, numbers), memory (2, S, C)."""
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(2, 5, 32, generator=generator),
        torch.rand(2, 5, 3, numbers, generator=generator),
        torch.randn(2, POSITIONS, 32, generator=generator),
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("numbers", [2, 4])
def test_is_the_formula(backend: str, numbers: int) -> None:
    """One query, head and level at a time, with the sizes written out."""
    layer = make_layer(backend)
    query, references, memory = make_inputs(numbers)
    output = layer(query, references, memory, SHAPES)
    offsets = layer.sampling_offsets(query).view(2, 5, 4, 3, 2, 2)
    weights = layer.attention_weights(query).view(2, 5, 4, 6).softmax(-1).view(2, 5, 4, 3, 2)
    locations = torch.empty(2, 5, 4, 3, 2, 2)
    for n, q, head, level in torch.cartesian_prod(*map(torch.arange, (2, 5, 4, 3))).tolist():
        height, width = SHAPES[level]
        reference = references[n, q, level]
        unit = torch.tensor([1 / width, 1 / height]) if numbers == 2 else reference[2:] * 0.5 / 2
        locations[n, q, head, level] = reference[:2] + offsets[n, q, head, level].detach() * unit
    value = layer.value_proj(memory).view(2, POSITIONS, 4, 8)
    expected = layer.output_proj(ms_deform_attn(value, SHAPES, locations, weights, backend="torch"))
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-6)


def test_padding_is_read_as_zeros() -> None:
    layer = make_layer()
    query, references, memory = make_inputs(2)
    padding = torch.zeros(2, POSITIONS, dtype=torch.bool)
    padding[0, 20:] = True
    output = layer(query, references, memory, SHAPES, padding)
    other = torch.where(padding[..., None], 1e3 * memory, memory)
    assert torch.equal(layer(query, references, other, SHAPES, padding), output)
    assert not torch.equal(layer(query, references, memory, SHAPES), output)  # zeros even where the bias is not
    assert torch.equal(layer(query, references, memory, SHAPES)[1], output[1])


def test_starts_with_heads_looking_around_and_points_weighted_alike() -> None:
    layer = MSDeformAttn(hidden_dim=32, num_levels=3, num_heads=8, num_points=4)
    query = torch.randn(1, 1, 32)
    offsets = layer.sampling_offsets(query).view(8, 3, 4, 2)
    for head in range(8):
        angle = 2 * math.pi * head / 8
        direction = torch.tensor([math.cos(angle), math.sin(angle)])
        direction = direction / direction.abs().max()
        for point in range(4):
            expected = (direction * (point + 1)).expand(3, 2)
            torch.testing.assert_close(offsets[head, :, point], expected, rtol=0, atol=1e-5)
    assert not layer.attention_weights(query).any()
    assert not layer.value_proj.bias.any() and not layer.output_proj.bias.any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_parameter_and_input_gets_a_gradient(backend: str) -> None:
    layer = make_layer(backend)
    inputs = [tensor.requires_grad_() for tensor in make_inputs(4)]
    layer(*inputs, SHAPES).square().sum().backward()
    for tensor in [*layer.parameters(), *inputs]:
        assert tensor.grad is not None and tensor.grad.isfinite().all() and tensor.grad.any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_keeps_places_in_float32(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def spy(value: Tensor, shapes: list, locations: Tensor, weights: Tensor, backend: str) -> Tensor:
        seen.update(value=value.dtype, locations=locations.dtype, weights=weights.dtype)
        return ms_deform_attn(value, shapes, locations, weights, backend=backend)

    monkeypatch.setattr("ops.module.ms_deform_attn", spy)
    layer = make_layer(backend)
    inputs = make_inputs(2)
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(*inputs, SHAPES)
    assert seen == {"value": torch.bfloat16, "locations": torch.float32, "weights": torch.float32}
    torch.testing.assert_close(output.float(), layer(*inputs, SHAPES), rtol=0.05, atol=0.05)


def test_no_clip_is_no_error() -> None:
    output = make_layer()(torch.zeros(0, 5, 32), torch.zeros(0, 5, 3, 2), torch.zeros(0, POSITIONS, 32), SHAPES)
    assert output.shape == (0, 5, 32)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="hidden_dim is 30"):
        MSDeformAttn(hidden_dim=30, num_levels=1, num_heads=4, num_points=1)
    query, _, memory = make_inputs(2)
    with pytest.raises(ValueError, match="hold 3 numbers"):
        make_layer()(query, torch.zeros(2, 5, 3, 3), memory, SHAPES)
