"""From frames to projected maps with their positions and masks: the part of a model that needs no text.

B clips, T frames, C channels, H x W the padded frame. Maps are channels-last, (B, T, h, w, C).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbones import Backbone
from models.pixel_decoder import PixelDecoder, from_convolution
from models.position_encoding import sine_position_2d

# Wavelengths of one to twenty frames, so that every channel tells places apart; with the 10,000 of the attention's
# positions most channels are constant over a frame.
CONTENT_TEMPERATURE = 20.0


@dataclass(frozen=True)
class VisualFeatures:
    """What the model knows of a clip before it reads a sentence.

    Attributes:
        maps: (B, T, h, w, C) of strides 8, 16, 32, 64, projected.
        finest: (B, T, H/4, W/4, C), the pyramid's finest level up to where it reads the text.
        positions: (B, h, w, C) sine positions of strides 4, 8, 16, 32, 64.
        masks: (B, h, w) padding masks of the same strides, or None when nothing is padded.
    """

    maps: list[Tensor]
    finest: Tensor
    positions: list[Tensor]
    masks: list[Tensor] | None


def look(
    backbone: Backbone,
    input_proj: nn.ModuleList,
    pixel_decoder: PixelDecoder,
    frames: Tensor,
    padding_mask: Tensor | None = None,
    annotated_frame: Tensor | None = None,
    position_in_content: float = 0.0,
) -> VisualFeatures:
    """All the work that needs no text, done once per video.

    Args:
        backbone: frames -> four maps.
        input_proj: of `input_projections`, one for each level.
        pixel_decoder: whose finest level looks at the backbone's.
        frames: (B, T, 3, H, W) normalised.
        padding_mask: (B, T, H, W) True on padding, or None.
        annotated_frame: (B,), only that frame of each clip goes on after the backbone, and T becomes 1.
        position_in_content: amplitude of sine positions that are added to the projected maps.
    """
    b, t = frames.shape[:2]
    if padding_mask is not None:
        # The frames of a clip are of one size, so one mask a clip does; a CPU sees for free whether any is needed.
        padding_mask = padding_mask[:, 0]
        if padding_mask.device.type == "cpu" and not padding_mask.any():
            padding_mask = None
    maps = backbone(frames)
    if annotated_frame is not None:
        kept = annotated_frame + torch.arange(b, device=frames.device) * t
        maps, t = [m[kept] for m in maps], 1
    projected = []
    for i, projection in enumerate(input_proj):
        source = maps[i + 1] if i < 3 else maps[3] if i == 3 else projected[-1]
        projected.append(projection(source))

    sizes = [tuple(m.shape[-2:]) for m in (maps[0], *projected)]
    masks = [frames.new_zeros((1, *size), dtype=torch.bool) for size in sizes]
    if padding_mask is not None:
        masks = [F.interpolate(padding_mask[:, None].float(), size=size)[:, 0].bool() for size in sizes]
    dim = projected[0].shape[1]
    positions = [sine_position_2d(mask, dim).expand(b, -1, -1, -1) for mask in masks]
    projected = [from_convolution(m, t) for m in projected]
    if position_in_content:
        for i, mask in enumerate(masks[1:]):
            position = position_in_content * sine_position_2d(mask, dim, CONTENT_TEMPERATURE)
            projected[i] = projected[i] + position[:, None].to(projected[i].dtype)
    masks = None if padding_mask is None else masks
    finest = pixel_decoder.look_finest(from_convolution(maps[0], t), positions[0], None if masks is None else masks[0])
    return VisualFeatures(projected, finest, positions, masks)


def input_projections(channels: tuple[int, ...], dim: int, num_levels: int) -> nn.ModuleList:
    """1x1 convolutions for strides 8, 16, 32, then 3x3 ones with stride 2, each with a GroupNorm."""
    projections = [nn.Conv2d(c, dim, 1) for c in channels]
    projections += [nn.Conv2d(channels[-1], dim, 3, stride=2, padding=1)] * (num_levels > 3)
    projections += [nn.Conv2d(dim, dim, 3, stride=2, padding=1) for _ in range(num_levels - 4)]
    for conv in projections:
        nn.init.xavier_uniform_(conv.weight)
        nn.init.zeros_(conv.bias)
    return nn.ModuleList(nn.Sequential(conv, nn.GroupNorm(32, dim)) for conv in projections)
