"""Dropout whose random numbers cost little on a CPU.

PyTorch's draws a float64 per element there and throws all but one bit away: of a training step it took a fifth. Sixteen
random bits tell well enough whether an element stays.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_BITS = 16


def keep_mask(
    shape: torch.Size, probability: float, device: torch.device, generator: torch.Generator | None = None
) -> Tensor:
    """True where an element stays.

    Args:
        shape: of the mask.
        probability: that an element is dropped, in [0, 1), kept to within 2^-17.
        device: of the mask.
        generator: of the random bits; None takes the device's own.
    """
    count = math.prod(shape)
    bits = torch.empty(-(-count // 4), dtype=torch.int64, device=device).random_(-(2**63), None, generator=generator)
    dropped = min(round(probability * 2**_BITS), 2**_BITS - 1)
    return bits.view(torch.int16)[:count].view(shape) >= dropped - 2 ** (_BITS - 1)


def dropout(x: Tensor, probability: float, training: bool) -> Tensor:
    """Zero elements at random and scale the others by 1 / (1 - probability), when training; as `F.dropout`."""
    if x.device.type == "cpu" and training and 0 < probability < 1:
        return _Drop.apply(x, probability)
    return F.dropout(x, probability, training)


class Dropout(nn.Dropout):
    """`nn.Dropout` by `dropout`."""

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p, self.training)


class _Drop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, probability: float) -> Tensor:
        keep = keep_mask(x.shape, probability, x.device)
        ctx.scale = 1 / (1 - probability)
        ctx.save_for_backward(keep)
        return (x * keep).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (keep,) = ctx.saved_tensors
        return (grad * keep).mul_(ctx.scale), None
