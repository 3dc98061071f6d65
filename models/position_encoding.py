"""Sine position encodings of pixels and of words.

B clips, h x w a map, S words, C channels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sine_position_2d(padding_mask: Tensor, dim: int, temperature: float = 10000.0) -> Tensor:
    """Position of every pixel among the pixels that are not padding.

    Args:
        padding_mask: (B, h, w) bool, True on padding.
        dim: channels C of the result; half of them encode y, then half x.

    Returns:
        (B, h, w, C) float32.
    """
    valid = (~padding_mask).to(torch.float32)
    y, x = valid.cumsum(1), valid.cumsum(2)
    y = (y - 0.5) / (y[:, -1:, :] + 1e-6) * (2 * math.pi)
    x = (x - 0.5) / (x[:, :, -1:] + 1e-6) * (2 * math.pi)
    return torch.cat((_sine_features(y, dim // 2, temperature), _sine_features(x, dim // 2, temperature)), dim=-1)


def sine_position_1d(padding_mask: Tensor, dim: int, temperature: float = 10000.0) -> Tensor:
    """Position of every word among the words that are not padding.

    Args:
        padding_mask: (B, S) bool, True on padding.
        dim: channels C of the result.

    Returns:
        (B, S, C) float32.
    """
    x = (~padding_mask).to(torch.float32).cumsum(1)
    return _sine_features(x / (x[:, -1:] + 1e-6) * (2 * math.pi), dim, temperature)


def _sine_features(position: Tensor, dim: int, temperature: float) -> Tensor:
    """(...) positions in radians -> (..., dim): sines on even features, cosines on odd ones, wavelengths in pairs."""
    pair = torch.arange(dim, dtype=torch.float32, device=position.device) // 2
    angles = position[..., None] / temperature ** (2 * pair / dim)
    return torch.stack((angles[..., 0::2].sin(), angles[..., 1::2].cos()), dim=-1).flatten(-2)
