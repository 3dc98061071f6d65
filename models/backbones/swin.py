"""Swin Transformer (`swin_{t,s,b,l}_p4w7`), an adapter around torchvision's blocks.

B clips, T frames, H x W the frame, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models import SwinTransformer

from models.backbones.contract import Backbone

PATCH, WINDOW, NORM_EPS = 4, 7, 1e-5


@dataclass(frozen=True)
class SwinSize:
    """What tells a Swin network from another.

    Attributes:
        dim: channels of the first stage; they double from stage to stage.
        depths: blocks of the four stages.
        num_heads: attention heads of the four stages.
        drop_path: stochastic depth of the last block, the published default; it grows linearly from 0.
    """

    dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    drop_path: float

    @property
    def channels(self) -> tuple[int, ...]:
        """Of the four maps."""
        return tuple(self.dim * 2**i for i in range(4))


SWIN_SIZES = {
    "swin_t_p4w7": SwinSize(96, (2, 2, 6, 2), (3, 6, 12, 24), 0.2),
    "swin_s_p4w7": SwinSize(96, (2, 2, 18, 2), (3, 6, 12, 24), 0.2),
    "swin_b_p4w7": SwinSize(128, (2, 2, 18, 2), (4, 8, 16, 32), 0.3),
    "swin_l_p4w7": SwinSize(192, (2, 2, 18, 2), (6, 12, 24, 48), 0.3),
}


class SwinBackbone(Backbone):
    """torchvision's Swin, taken apart into patches, four stages and the mergings between them; each stage's output has
    a norm of its own.

    Measured to give the published models' numbers bit for bit where the smallest map is larger than a window (frames of
    more than 224 pixels on either side).

    Args:
        size: of the network.
        drop_path: stochastic depth of the last block; None takes the published one.
        recompute: keep only the inputs of blocks, and recompute the rest in the backward pass.
    """

    def __init__(self, size: SwinSize, drop_path: float | None = None, recompute: bool = False):
        super().__init__()
        network = SwinTransformer(
            patch_size=[PATCH, PATCH],
            embed_dim=size.dim,
            depths=list(size.depths),
            num_heads=list(size.num_heads),
            window_size=[WINDOW, WINDOW],
            stochastic_depth_prob=size.drop_path if drop_path is None else drop_path,
            num_classes=1,
        )
        convolution, _, norm = network.features[0]
        self.patch_embed = nn.ModuleDict({"proj": convolution, "norm": norm})
        self.stages = nn.ModuleList(network.features[1::2])
        self.mergings = nn.ModuleList(network.features[2::2])
        self.norms = nn.ModuleList(nn.LayerNorm(c, eps=NORM_EPS) for c in size.channels)
        for block in (block for stage in self.stages for block in stage):
            # As published files have it: (window pixels, window pixels) and not flat, which indexes the same.
            index = block.attn.relative_position_index
            block.attn.relative_position_index = index.unflatten(0, (WINDOW**2, WINDOW**2))
        self.channels, self.recompute = size.channels, recompute

    def forward(self, frames: Tensor) -> list[Tensor]:
        x = F.pad(frames.flatten(0, 1), (0, -frames.shape[-1] % PATCH, 0, -frames.shape[-2] % PATCH))
        x = self.patch_embed["norm"](self.patch_embed["proj"](x).permute(0, 2, 3, 1))  # (B T, H/4, W/4, C)
        outputs = run_stages(x, self.stages, self.mergings, self.recompute)
        return [norm(x).permute(0, 3, 1, 2) for norm, x in zip(self.norms, outputs, strict=True)]


def run_stages(x: Tensor, stages: nn.ModuleList, mergings: nn.ModuleList, recompute: bool) -> Iterator[Tensor]:
    """The output of every stage in turn, before the merging to the next one.

    Args:
        x: embedded patches, channels last.
        stages: of blocks.
        mergings: between the stages, one fewer.
        recompute: keep only the inputs of blocks for the backward pass.
    """
    recompute = recompute and torch.is_grad_enabled()
    for i, stage in enumerate(stages):
        if i > 0:
            x = mergings[i - 1](x)
        for block in stage:
            x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
        yield x
