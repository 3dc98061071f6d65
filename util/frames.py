"""How a video's frames become the network's input: their size and their normalisation, in training and inference."""

from __future__ import annotations

import torch
import torchvision.transforms.v2.functional as F
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Pixels that a network is given unless a setting says more: a frame of one line would grow to hundreds of thousands.
LARGEST_SIDE = 16384


def resized_size(size: tuple[int, int], short_side: int, max_long_side: int | None) -> tuple[int, int]:
    """The (h, w) of a frame of (h, w) `size` whose short side becomes `short_side`, less if the cap asks for it.

    Raises:
        ValueError: nothing caps the long side of a frame so flat that it would be beyond `LARGEST_SIDE`.
    """
    short, long = min(size), max(size)
    if max_long_side is not None and long * short_side > max_long_side * short:
        short_side = max(1, round(max_long_side * short / long))
    long_side = int(short_side * long / short)
    if max_long_side is not None:
        long_side = min(long_side, max_long_side)  # the rounded short side may have grown by half a pixel
    if max_long_side is None and long_side > LARGEST_SIDE:
        raise ValueError(
            f"frames of {size[0]} x {size[1]} (h x w) would be {long_side} pixels long at a short side of "
            f"{short_side}; crop them, or set a max_long_side"
        )
    return (short_side, long_side) if size[0] <= size[1] else (long_side, short_side)


def normalise(frames: Tensor) -> Tensor:
    """(..., 3, h, w) uint8 RGB -> float32, normalised with ImageNet's mean and standard deviation."""
    return F.normalize(F.to_dtype(frames, torch.float32, scale=True), IMAGENET_MEAN, IMAGENET_STD)
