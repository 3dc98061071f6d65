"""Perceptrons: the transformer's feed-forward network and the heads' MLP.

C channels, F hidden width, P tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

# Tokens whose hidden activations (tokens x 2048 numbers) stay in a CPU's cache between the two products; a GPU wants
# larger pieces, to be busy.
CHUNK_TOKENS_CPU, CHUNK_TOKENS_GPU = 1024, 65536


class FeedForward(nn.Module):
    """norm(x + dropout(linear2(dropout(relu(linear1(x)))))), on (..., C).

    The hidden activations are eight times as large as the tokens, so at inference they are made in chunks of tokens
    that never leave the cache, and with `recompute` the backward pass makes them again instead of keeping them.
    """

    def __init__(self, dim: int, hidden_dim: int, dropout: float, recompute: bool = False):
        super().__init__()
        self.linear1 = nn.Linear(dim, hidden_dim)
        self.linear2 = nn.Linear(hidden_dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.recompute = recompute
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return checkpoint(self._block, x, use_reentrant=False) if self.recompute else self._block(x)
        tokens = x.reshape(-1, x.shape[-1])
        size = CHUNK_TOKENS_CPU if x.device.type == "cpu" else CHUNK_TOKENS_GPU
        return torch.cat([self._block(chunk) for chunk in tokens.split(size)]).view(x.shape)

    def _block(self, x: Tensor) -> Tensor:
        hidden = self.dropout(F.relu(self.linear1(x), inplace=True))
        return self.norm(x + self.dropout(self.linear2(hidden)))


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
