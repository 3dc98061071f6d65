from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.attention import MultiHeadAttention, WordAttention
from tests.small_model import disturb


def _with_same_weights(attention: MultiHeadAttention) -> nn.MultiheadAttention:
    """PyTorch's attention; loading is strict, so names and shapes are the same too."""
    theirs = nn.MultiheadAttention(attention.dim, attention.num_heads, batch_first=True)
    theirs.load_state_dict(attention.state_dict())
    return theirs


def _compare(output: Tensor, expected: Tensor, ours: nn.Module, theirs: nn.Module, inputs: list[Tensor]) -> None:
    """Outputs, and gradients of the inputs and of all weights."""
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-4)
    direction = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    names = [name for name, _ in ours.named_parameters()]
    parameters = [dict(module.named_parameters()) for module in (ours, theirs)]
    ours_grad = torch.autograd.grad(output, inputs + [parameters[0][n] for n in names], direction)
    theirs_grad = torch.autograd.grad(expected, inputs + [parameters[1][n] for n in names], direction)
    for a, b in zip(ours_grad, theirs_grad, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("padded", [False, True])
def test_multi_head_attention_equals_that_of_pytorch(padded: bool) -> None:
    torch.manual_seed(0)
    ours = disturb(MultiHeadAttention(24, num_heads=3))
    theirs = _with_same_weights(ours)
    query, key, value = (torch.randn(2, n, 24, requires_grad=True) for n in (4, 6, 6))
    mask = torch.arange(6) >= torch.tensor([[6], [2]]) if padded else None
    expected = theirs(query, key, value, key_padding_mask=mask)[0]
    _compare(ours(query, key, value, mask), expected, ours, theirs, [query, key, value])


@pytest.mark.parametrize("positioned", [False, True])
def test_word_attention_equals_that_of_pytorch(positioned: bool) -> None:
    torch.manual_seed(0)
    b, t, p, s, c = 2, 3, 5, 6, 24
    ours = disturb(WordAttention(c, num_heads=3))
    theirs = _with_same_weights(ours)
    visual = torch.randn(b, t, p, c, requires_grad=True)
    words, word_position = torch.randn(b, s, c, requires_grad=True), torch.randn(b, s, c)
    visual_position = torch.randn(b, p, c) if positioned else None
    mask = torch.arange(s) >= torch.tensor([[6], [3]])

    query = visual if visual_position is None else visual + visual_position[:, None]
    expected = theirs(query.flatten(1, 2), words + word_position, words, key_padding_mask=mask)[0].view(b, t, p, c)
    output = ours(visual, words, word_position, mask, visual_position)
    _compare(output, expected, ours, theirs, [visual, words])


def test_word_attention_does_not_see_padded_words() -> None:
    torch.manual_seed(0)
    attention = disturb(WordAttention(8, num_heads=2))
    visual, words, position = torch.randn(1, 1, 4, 8), torch.randn(1, 5, 8), torch.randn(1, 5, 8)
    mask = torch.tensor([[False, False, False, True, True]])
    changed = words.clone()
    changed[:, 3:] = 100
    output = attention(visual, words, position, mask)
    assert torch.equal(attention(visual, changed, position, mask), output)
    torch.testing.assert_close(attention(visual, words[:, :3], position[:, :3], mask[:, :3]), output)


@pytest.mark.parametrize("kind", [MultiHeadAttention, WordAttention])
def test_dropout_acts_in_training_only(kind: type[MultiHeadAttention]) -> None:
    torch.manual_seed(0)
    attention = kind(8, num_heads=2, dropout=0.5)
    x, words = torch.randn(1, 1, 6, 8), torch.randn(1, 5, 8)
    mask = torch.zeros(1, 5, dtype=torch.bool)
    inputs = (x, words, words, mask) if kind is WordAttention else (x[0], words, words)
    assert not torch.equal(attention(*inputs), attention(*inputs))
    attention.eval()
    assert torch.equal(attention(*inputs), attention(*inputs))


@pytest.mark.parametrize("padded", [False, True])
def test_attention_weights_are_dropped_before_the_values(padded: bool) -> None:
    """With values that are unit vectors the result is the weights: what stays is scaled, the rest is gone."""
    torch.manual_seed(0)
    attention = disturb(MultiHeadAttention(8, num_heads=1, dropout=0.5)).double()
    with torch.no_grad():
        attention.in_proj_weight[16:].copy_(torch.eye(8))
        attention.in_proj_bias[16:].zero_()
        attention.out_proj.weight.copy_(torch.eye(8))
        attention.out_proj.bias.zero_()
    x = torch.randn(1, 300, 8, dtype=torch.float64)
    key, value = torch.randn(1, 8, 8, dtype=torch.float64), torch.eye(8, dtype=torch.float64)[None]
    mask = torch.arange(8)[None] >= 6 if padded else None
    weights = attention.eval()(x, key, value, mask)
    dropped = attention.train()(x, key, value, mask)
    kept = dropped != 0
    torch.testing.assert_close(dropped, torch.where(kept, 2 * weights, 0.0))
    assert 0.45 < kept[..., :6].double().mean() < 0.55
    assert kept[..., 6:].any() != padded
