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
    """With gradients all tokens go at once, without them in chunks; here the last one is not full."""
    monkeypatch.setattr(feed_forward, "CHUNK_TOKENS_CPU", 7)
    x = torch.randn(2, 3, 5, 8)
    whole = block(x)
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


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recomputing_gives_the_same_gradients(dropout: float) -> None:
    torch.manual_seed(0)
    kept = FeedForward(8, hidden_dim=24, dropout=dropout)
    recomputed = FeedForward(8, hidden_dim=24, dropout=dropout, recompute=True)
    recomputed.load_state_dict(kept.state_dict())
    x, direction = torch.randn(5, 8), torch.randn(5, 8)
    results = []
    for block in (kept, recomputed):
        torch.manual_seed(3)
        inputs = x.clone().requires_grad_()
        (block(inputs) * direction).sum().backward()
        results.append([inputs.grad, *(p.grad for p in block.parameters())])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)
        assert a.abs().sum() > 0


def test_dropout_acts_on_the_hidden_activations_and_on_the_result() -> None:
    torch.manual_seed(0)
    block = disturb(FeedForward(8, hidden_dim=64, dropout=0.5))
    x = torch.randn(20, 8)
    seen = []
    block.linear2.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    block.norm.register_forward_pre_hook(lambda _, inputs: seen.append((inputs[0] - x).detach()))
    block(x)
    hidden = (x @ block.linear1.weight.T + block.linear1.bias).clamp(min=0).detach()
    kept = seen[0] != 0
    assert 0.4 < kept[hidden > 0].float().mean() < 0.6
    torch.testing.assert_close(seen[0][kept], 2 * hidden[kept])
    assert 0.35 < (seen[1] == 0).float().mean() < 0.65
    block.eval()(x)
    torch.testing.assert_close(seen[2], hidden)
    assert (seen[3] != 0).all()


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
