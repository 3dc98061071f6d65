"""What every visual backbone is to the rest of the model.

B clips, T frames, H x W the frame.
"""

from __future__ import annotations

from torch import Tensor, nn

STRIDES = (4, 8, 16, 32)


class Backbone(nn.Module):
    """The contract: (B, T, 3, H, W) normalised frames -> four maps (B T, channels[i], H / strides[i], W / strides[i]).

    Sizes are rounded up.

    Attributes:
        channels: of the four maps.
        strides: of the four maps, always 4, 8, 16, 32.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...] = STRIDES

    def forward(self, frames: Tensor) -> list[Tensor]:
        raise NotImplementedError
