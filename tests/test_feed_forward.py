from __future__ import annotations

import pytest
import torch

from models import feed_forward
from models.feed_forward import MLP, FeedForward
from tests.small_model import disturb


@pytest.fixture
def block() -> FeedForward:
    torch.manual_seed(0)
    return disturb(FeedForward(8, hidden_dim=24, dropout=0.0))


def test_chunks_of_tokens_equal_the_whole(block: FeedForward, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the last one is not full."""
    monkeypatch.setattr(feed_forward, "CHUNK_TOKENS_CPU", 7)
    x = torch.randn(2, 3, 5, 8)
    whole = block.norm(x + block.linear2(block.linear1(x).relu()))
    torch.testing.assert_close(block(x), whole)
    with torch.no_grad():
        chunked = block(x)
        views = block(x.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(chunked, whole)
    torch.testing.assert_close(views, whole)


def test_it_is_the_formula(block: FeedForward) -> None:
    x = torch.randn(4, 8)
    hidden = (x @ block.linear1.weight.T + block.linear1.bias).clamp(min=0)
    y = x + hidden @ block.linear2.weight.T + block.linear2.bias
    normed = (y - y.mean(-1, keepdim=True)) / (y.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(block(x), normed * block.norm.weight + block.norm.bias)


def test_chunks_give_the_gradients_of_the_whole(block: FeedForward, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against autograd through the formula in one piece, in float64."""
    monkeypatch.setattr(feed_forward, "CHUNK_TOKENS_CPU", 7)
    block = block.double()
    x = torch.randn(2, 10, 8, dtype=torch.float64, requires_grad=True)
    direction = torch.randn(2, 10, 8, dtype=torch.float64)
    inputs = [x, *block.parameters()]
    expected = block.norm(x + block.linear2(block.linear1(x).relu()))
    for ours, theirs in zip(
        torch.autograd.grad(block(x), inputs, direction), torch.autograd.grad(expected, inputs, direction), strict=True
    ):
        assert theirs.abs().sum() > 0
        torch.testing.assert_close(ours, theirs)


def test_the_hidden_activations_are_dropped_alike_in_both_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The masks are drawn again for the backward pass: with what was dropped seen by hand, autograd agrees."""
    monkeypatch.setattr(feed_forward, "CHUNK_TOKENS_CPU", 7)
    torch.manual_seed(0)
    block = disturb(FeedForward(8, hidden_dim=64, dropout=0.5)).double()
    with torch.no_grad():
        block.linear2.weight.zero_()
        block.linear2.weight[:, :8].copy_(torch.eye(8))  # the result shows eight of the hidden activations
        block.linear2.bias.zero_()
    x = torch.randn(20, 8, dtype=torch.float64, requires_grad=True)
    direction = torch.randn(20, 8, dtype=torch.float64)
    result = block._perceive(x)
    hidden = block.linear1(x).relu()[:, :8]
    kept = (result != 0).detach()
    assert 0.35 < kept[hidden > 0].double().mean() < 0.65
    expected = 2 * hidden * kept
    torch.testing.assert_close(result, expected)
    inputs = [x, block.linear1.weight, block.linear1.bias]
    # Gradients that pass through the hidden activations that are seen: the others' columns of the weight are zero.
    for ours, theirs in zip(
        torch.autograd.grad(result, inputs, direction), torch.autograd.grad(expected, inputs, direction), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_dropout_acts_on_the_result_too_and_in_training_only() -> None:
    torch.manual_seed(0)
    block = disturb(FeedForward(8, hidden_dim=64, dropout=0.5))
    x = torch.randn(20, 8)
    seen = []
    block.norm.register_forward_pre_hook(lambda _, inputs: seen.append((inputs[0] - x).detach()))
    block(x)
    assert 0.35 < (seen[0] == 0).float().mean() < 0.65
    block.eval()(x)
    assert (seen[1] != 0).all()
    torch.testing.assert_close(seen[1], block.linear2(block.linear1(x).relu()).detach(), atol=1e-5, rtol=1e-4)


def test_equal_seeds_drop_alike() -> None:
    """As a run that resumes must."""
    torch.manual_seed(0)
    block = disturb(FeedForward(8, hidden_dim=64, dropout=0.5))
    x = torch.randn(20, 8)
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(block(x))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_bfloat16_sums_weight_gradients_in_float32(block: FeedForward, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over many chunks, sums in bfloat16 would stop growing."""
    monkeypatch.setattr(feed_forward, "CHUNK_TOKENS_CPU", 2)
    x = torch.rand(1, 8).expand(2000, 8).contiguous()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = block._perceive(x)
    assert result.dtype == torch.bfloat16
    result.float().sum().backward()
    gradient = block.linear1.weight.grad.clone()
    block.zero_grad()
    block._perceive(x).sum().backward()
    assert gradient.dtype == torch.float32
    torch.testing.assert_close(gradient, block.linear1.weight.grad, rtol=0.03, atol=1.0)


def test_mlp_has_relu_between_its_layers_only() -> None:
    torch.manual_seed(0)
    mlp = disturb(MLP(4, 6, 2, num_layers=3), scale=1.0)
    x = torch.randn(5, 4)
    expected = x
    for i, layer in enumerate(mlp.layers):
        expected = expected @ layer.weight.T + layer.bias
        expected = expected.clamp(min=0) if i < 2 else expected
    torch.testing.assert_close(mlp(x), expected)
    assert [tuple(layer.weight.shape) for layer in mlp.layers] == [(6, 4), (6, 6), (2, 6)]
    assert (mlp(x) < 0).any()
