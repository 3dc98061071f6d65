"""Linear layers over many tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_FEWEST_TOKENS = 4096  # with fewer, the two ways take the same time


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`F.linear`: (..., C) by (C', C) and (C',) -> (..., C').

    Without gradients many tokens on a CPU pass as the pixels of a 1x1 convolution, which adds the bias while it writes
    the result: two thirds of the time of a product over a copied bias.
    """
    tokens = x.numel() // max(x.shape[-1], 1)
    if x.device.type != "cpu" or x.dtype == torch.float64 or torch.is_grad_enabled() or tokens < _FEWEST_TOKENS:
        return F.linear(x, weight, bias)
    pixels = x.reshape(1, tokens, 1, -1).permute(0, 3, 1, 2)
    result = F.conv2d(pixels, weight[..., None, None], bias)
    return result.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)
