"""Arithmetic in the memory of an operand, where no gradient is recorded.

A map of stride 4 is larger than what an allocator keeps, so each new one is fetched from the system page by page, which
takes longer than the sum itself.
"""

from __future__ import annotations

import torch
from torch import Tensor


def add_into(total: Tensor, x: Tensor) -> Tensor:
    """total + x, over `total` where no gradient is recorded: it must be fresh, and of the result's shape and type."""
    if torch.is_grad_enabled() or total.dtype != torch.result_type(total, x):
        return total + x
    return total.add_(x)


def multiply_into(product: Tensor, x: Tensor) -> Tensor:
    """product * x, over `product` as in `add_into`."""
    if torch.is_grad_enabled() or product.dtype != torch.result_type(product, x):
        return product * x
    return product.mul_(x)
