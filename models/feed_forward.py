"""Perceptrons: the transformer's feed-forward network and the heads' MLP.

C channels, F hidden width, P tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from models.dropout import Dropout, keep_mask
from models.inplace import add_into

# Tokens whose hidden activations (tokens x 2048 numbers) stay in a CPU's cache between the two products; a GPU wants
# larger pieces, to be busy.
CHUNK_TOKENS_CPU, CHUNK_TOKENS_GPU = 1024, 65536


class FeedForward(nn.Module):
    """norm(x + dropout(linear2(dropout(relu(linear1(x)))))), on (..., C).

    The hidden activations are eight times as large as the tokens. They are made in chunks of tokens, and the backward
    pass makes them again instead of keeping them: a sixth more arithmetic, and none of their way to memory and back.
    """

    def __init__(self, dim: int, hidden_dim: int, dropout: float):
        super().__init__()
        self.linear1 = nn.Linear(dim, hidden_dim)
        self.linear2 = nn.Linear(hidden_dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, x: Tensor) -> Tensor:
        perceived = self._perceive(x.reshape(-1, x.shape[-1])).view(x.shape)
        return self.norm(add_into(self.dropout(perceived), x))

    def _perceive(self, tokens: Tensor) -> Tensor:
        """linear2(dropout(relu(linear1(tokens)))), (P, C) -> (P, C)."""
        inputs = [tokens, self.linear1.weight, self.linear1.bias, self.linear2.weight, self.linear2.bias]
        device = tokens.device.type
        if torch.is_autocast_enabled(device):
            inputs = [x.to(torch.get_autocast_dtype(device)) for x in inputs]
        return _Perceptron.apply(*inputs, self.dropout.p if self.training else 0.0)


def chunk_tokens(x: Tensor) -> int:
    """Tokens that are computed at a time on the device of `x`."""
    return CHUNK_TOKENS_CPU if x.device.type == "cpu" else CHUNK_TOKENS_GPU


class _Perceptron(torch.autograd.Function):
    """dropout(relu(x W1' + b1)) W2' + b2 on (P, C), which keeps x alone for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor, probability: float
    ) -> Tensor:
        ctx.probability = probability
        # Of the default generator, so that a resumed run draws the same; the masks are drawn again from it.
        ctx.seed = int(torch.randint(2**62, ())) if probability else None
        ctx.save_for_backward(x, weight1, bias1, weight2)
        output = torch.empty_like(x)
        weight2 = weight2.t() if not probability else weight2.t() / (1 - probability)
        for rows, hidden in _hidden_chunks(ctx, x, weight1, bias1):
            torch.addmm(bias2, hidden, weight2, out=output[rows])
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight1, bias1, weight2 = ctx.saved_tensors
        weight2 = weight2 / (1 - ctx.probability)
        wide = torch.promote_types(x.dtype, torch.float32)  # what sums over all tokens are held in
        grad_x = torch.empty_like(x)
        grad_weight1, grad_weight2 = (torch.zeros_like(w, dtype=wide) for w in (weight1, weight2))
        grad_bias1, grad_bias2 = torch.zeros_like(bias1, dtype=wide), grad.sum(0, dtype=wide)
        for rows, hidden in _hidden_chunks(ctx, x, weight1, bias1):
            grad_rows = grad[rows]
            _add_product(grad_weight2, grad_rows.t(), hidden)
            grad_hidden = grad_rows @ weight2
            # What was dropped is 0, as what the ReLU stopped.
            torch.ops.aten.threshold_backward.grad_input(grad_hidden, hidden, 0, grad_input=grad_hidden)
            _add_product(grad_weight1, grad_hidden.t(), x[rows])
            grad_bias1 += grad_hidden.sum(0)
            torch.mm(grad_hidden, weight1, out=grad_x[rows])
        grad_weight2 /= 1 - ctx.probability
        grads = (grad_weight1, grad_bias1, grad_weight2, grad_bias2)
        return grad_x, *(g.to(x.dtype) for g in grads), None


def _hidden_chunks(ctx: Any, x: Tensor, weight1: Tensor, bias1: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Rows of x and their hidden activations, which are unscaled by dropout and overwritten by the next ones."""
    generator = None
    if ctx.seed is not None:
        generator = torch.Generator(x.device)
        generator.manual_seed(ctx.seed)
    size = min(chunk_tokens(x), len(x))
    buffer = x.new_empty(size, len(weight1))
    for start in range(0, len(x), max(size, 1)):
        rows = slice(start, min(start + size, len(x)))
        hidden = buffer[: rows.stop - start]
        torch.addmm(bias1, x[rows], weight1.t(), out=hidden).relu_()
        if generator is not None:
            hidden.mul_(keep_mask(hidden.shape, ctx.probability, x.device, generator))
        yield rows, hidden


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a b, where the total may be wider than the factors."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b


class MLP(nn.Module):
    """`num_layers` linear layers with ReLU between them, (..., C) -> (..., out_dim)."""

    def __init__(self, dim: int, hidden_dim: int, out_dim: int, num_layers: int):
        super().__init__()
        dims = [dim] + [hidden_dim] * (num_layers - 1)
        self.layers = nn.ModuleList(
            nn.Linear(d_in, d_out) for d_in, d_out in zip(dims, [*dims[1:], out_dim], strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x), inplace=True)
        return self.layers[-1](x)
