"""Cross-modal feature pyramid network, CM-FPN (section 3.3 of the paper).

B clips, T frames, h x w a map, S words, C channels. Maps are channels-last, (B, T, h, w, C).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.attention import MultiHeadAttention, WordAttention
from models.dropout import Dropout
from models.feed_forward import FeedForward
from models.inplace import add_into
from models.text_encoder import TextFeatures


def to_convolution(x: Tensor) -> Tensor:
    """(B, T, h, w, C) -> (B T, C, h, w) in channels-last memory: a view."""
    return x.flatten(0, 1).permute(0, 3, 1, 2)


def from_convolution(x: Tensor, num_frames: int) -> Tensor:
    """(B T, C, h, w) -> (B, T, h, w, C)."""
    return x.permute(0, 2, 3, 1).unflatten(0, (-1, num_frames))


class VisionLanguageBlock(nn.Module):
    """The dashed box of figure 4: attention among the pixels of all frames, attention to the words, feed-forward.

    Args:
        dim: channels C.
        num_heads: attention heads.
        ffn_dim: hidden width of the feed-forward network.
        dropout: dropout.
        reduction: the self-attention's maps are smaller by this factor (1, 2, 4, 8 for strides 32, 16, 8, 4).
    """

    def __init__(self, dim: int, num_heads: int, ffn_dim: int, dropout: float, reduction: int):
        super().__init__()
        self.self_attn = MultiHeadAttention(dim, num_heads, dropout)
        self.self_norm = nn.LayerNorm(dim)
        self.word_attn = WordAttention(dim, num_heads, dropout)
        self.word_norm = nn.LayerNorm(dim)
        self.ffn = FeedForward(dim, ffn_dim, dropout)
        self.dropout = Dropout(dropout)
        self.reduction = reduction

    def attend_frames(self, x: Tensor, position: Tensor, mask: Tensor | None) -> Tensor:
        """Self-attention over all frames' tokens together; needs no text.

        Args:
            x: (B, T, h, w, C).
            position: (B, h, w, C).
            mask: (B, h, w) True on padding, or None.
        """
        b, t, h, w, _ = x.shape
        size = (max(h // self.reduction, 1), max(w // self.reduction, 1))
        small = from_convolution(F.interpolate(to_convolution(x), size=size), t)
        small_position = F.interpolate(position.permute(0, 3, 1, 2), size=size).permute(0, 2, 3, 1)
        query = (small + small_position[:, None].to(small.dtype)).flatten(1, 3)
        if mask is not None:
            mask = F.interpolate(mask[:, None].float(), size=size).bool()  # (B, 1, h', w')
            mask = mask.expand(-1, t, -1, -1).flatten(1)
        attended = self.self_attn(query, query, small.flatten(1, 3), mask)
        attended = to_convolution(attended.view(b, t, *size, -1))
        if size != (h, w):
            attended = F.interpolate(attended, size=(h, w), mode="bilinear", align_corners=False)
        return self.self_norm(add_into(self.dropout(from_convolution(attended, t)), x))

    def attend_words(self, x: Tensor, position: Tensor, text: TextFeatures) -> Tensor:
        """Cross-attention to the words (equation 2) and feed-forward network; shapes as above."""
        attended = self.word_attn(
            x.flatten(2, 3), text.words, text.position, text.padding_mask, visual_position=position.flatten(1, 2)
        )
        return self.ffn(self.word_norm(add_into(self.dropout(attended.view(x.shape)), x)))


class PyramidLevel(nn.Module):
    """One level: lateral 1x1 convolution, vision-language block, the coarser level added, 3x3 convolution.

    Without `fusion` there is no vision-language block: a level of a plain feature pyramid network.
    """

    def __init__(
        self, in_dim: int, dim: int, num_heads: int, ffn_dim: int, dropout: float, reduction: int, fusion: bool = True
    ):
        super().__init__()
        self.lateral = nn.Conv2d(in_dim, dim, 1, bias=False)
        self.lateral_norm = nn.GroupNorm(8, dim)
        self.fusion = VisionLanguageBlock(dim, num_heads, ffn_dim, dropout, reduction) if fusion else None
        self.output = nn.Conv2d(dim, dim, 3, padding=1, bias=False)
        self.output_norm = nn.GroupNorm(8, dim)
        for conv in (self.lateral, self.output):
            nn.init.kaiming_uniform_(conv.weight, a=1)

    def look(self, x: Tensor, position: Tensor, mask: Tensor | None) -> Tensor:
        """The part that needs no text: (B, T, h, w, in_dim) -> (B, T, h, w, C)."""
        lateral = from_convolution(self.lateral_norm(self.lateral(to_convolution(x))), x.shape[1])
        return lateral if self.fusion is None else self.fusion.attend_frames(lateral, position, mask)

    def read(self, x: Tensor, position: Tensor, text: TextFeatures, coarser: Tensor | None) -> Tensor:
        """The part that needs the text: `look`'s result and the coarser level -> (B, T, h, w, C)."""
        t = x.shape[1]
        # `add_into` changes its first argument, and what `look` gave is shared by all captions of a video
        x = to_convolution(x.clone() if self.fusion is None else self.fusion.attend_words(x, position, text))
        if coarser is not None:
            x = add_into(x, F.interpolate(to_convolution(coarser), size=x.shape[-2:], mode="nearest"))
        return from_convolution(F.relu(self.output_norm(self.output(x)), inplace=True), t)


class PixelDecoder(nn.Module):
    """Four levels top-down, then the mask-feature convolution.

    Args:
        backbone_dim: channels of the backbone's stride-4 map.
        dim: channels C of the memory and of every level.
        mask_dim: channels of the mask features.
        num_heads, ffn_dim, dropout: of the vision-language blocks.
        recompute: recompute each level in the backward pass.
        fusion: vision-language blocks; without them this is a plain feature pyramid network.
    """

    REDUCTIONS = (8, 4, 2, 1)  # for strides 4, 8, 16, 32

    def __init__(
        self,
        backbone_dim: int,
        dim: int,
        mask_dim: int,
        num_heads: int,
        ffn_dim: int,
        dropout: float,
        recompute: bool = False,
        fusion: bool = True,
    ):
        super().__init__()
        self.levels = nn.ModuleList(
            PyramidLevel(backbone_dim if i == 0 else dim, dim, num_heads, ffn_dim, dropout, reduction, fusion)
            for i, reduction in enumerate(self.REDUCTIONS)
        )
        self.mask_features = nn.Conv2d(dim, mask_dim, 3, padding=1)
        self.recompute = recompute
        nn.init.kaiming_uniform_(self.mask_features.weight, a=1)
        nn.init.zeros_(self.mask_features.bias)

    def look_finest(self, stride4: Tensor, position: Tensor, mask: Tensor | None) -> Tensor:
        """What the finest level does before it reads the text; shared by all captions of a video."""
        return self.levels[0].look(stride4, position, mask)

    def forward(
        self,
        finest: Tensor,
        memory: list[Tensor],
        positions: list[Tensor],
        masks: list[Tensor] | None,
        text: TextFeatures,
    ) -> Tensor:
        """The pyramid without its last convolution, which the mask head can compose with its own first layer.

        Args:
            finest: `look_finest`'s result, (B, T, H/4, W/4, C).
            memory: (B, T, h, w, C) of strides 8, 16, 32.
            positions: (B, h, w, C) of strides 4, 8, 16, 32.
            masks: (B, h, w) of strides 4, 8, 16, 32, True on padding, or None.
            text: encoded captions.

        Returns:
            (B T, C, H/4, W/4).
        """
        coarser = None
        for i in (3, 2, 1, 0):
            mask = None if masks is None else masks[i]
            x = finest if i == 0 else self._run(self.levels[i].look, memory[i - 1], positions[i], mask)
            coarser = self._run(self.levels[i].read, x, positions[i], text, coarser)
        return to_convolution(coarser)

    def _run(self, part, *inputs) -> Tensor:
        if self.recompute and self.training:
            return checkpoint(part, *inputs, use_reentrant=False)
        return part(*inputs)
