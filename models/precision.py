"""Where half precision stops."""

from __future__ import annotations

import torch
from torch import Tensor


def full_precision(like: Tensor) -> torch.autocast:
    """A context in which autocast is off on the device of `like`, for coordinates and the few numbers that steer them:
    bfloat16 resolves a coordinate near 0.5 to one part in 512 only."""
    return torch.autocast(like.device.type, enabled=False)
