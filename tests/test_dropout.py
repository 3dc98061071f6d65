from __future__ import annotations

import pytest
import torch
from torch import nn

from models.dropout import Dropout, dropout, keep_mask


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.97, 2**-16])
def test_elements_are_dropped_as_often_as_asked(probability: float) -> None:
    generator = torch.Generator().manual_seed(0)
    dropped = ~keep_mask(torch.Size((1001, 997)), probability, torch.device("cpu"), generator)
    spread = (probability * (1 - probability) / dropped.numel()) ** 0.5
    assert abs(dropped.double().mean() - probability) < 4 * spread + 2**-17


def test_neighbours_are_dropped_independently() -> None:
    """Four elements share a random number; so do the lanes of all others of the same remainder."""
    generator = torch.Generator().manual_seed(0)
    kept = keep_mask(torch.Size((200_000, 4)), 0.3, torch.device("cpu"), generator).double()
    correlation = torch.corrcoef(kept.t())
    assert (correlation - torch.eye(4)).abs().max() < 0.01
    assert (kept.mean(0) - 0.7).abs().max() < 0.005


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 5, 7)])
def test_any_shape(shape: tuple[int, ...]) -> None:
    assert keep_mask(torch.Size(shape), 0.5, torch.device("cpu")).shape == shape


def test_what_stays_is_scaled_and_so_is_its_gradient() -> None:
    torch.manual_seed(0)
    x = torch.randn(50, 40, dtype=torch.float64, requires_grad=True)
    y = dropout(x, 0.25, training=True)
    kept = y != 0
    torch.testing.assert_close(y, torch.where(kept, x / 0.75, 0.0))
    direction = torch.randn_like(x)
    (gradient,) = torch.autograd.grad(y, x, direction)
    torch.testing.assert_close(gradient, torch.where(kept, direction / 0.75, 0.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_types_stay(dtype: torch.dtype) -> None:
    assert dropout(torch.ones(8, dtype=dtype), 0.5, training=True).dtype == dtype


def test_nothing_is_dropped_in_evaluation_and_everything_at_one() -> None:
    layer = Dropout(0.5)
    assert isinstance(layer, nn.Dropout)
    x = torch.randn(100)
    assert torch.equal(layer.eval()(x), x)
    assert torch.equal(dropout(x, 0.0, training=True), x)
    assert torch.equal(dropout(x, 1.0, training=True), torch.zeros(100))


def test_the_default_generator_decides() -> None:
    results = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        results.append(dropout(torch.ones(1000), 0.5, training=True))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
