"""The published formulation, operation by operation, on the same weights.

Slower and larger than the model's own formulation, and plain to read next to the paper: tests hold the two against
each other, and the benchmarks measure one beside the other. What differs: convolution and frozen norm apart, in
channels-first memory; attention with materialised weights; feed-forward networks in one piece; a copy of the mask
features per query; masks of all layers and queries at inference.

B clips, T frames, N queries, S words, C channels, D mask features, c channels of the mask head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet

from models.attention import MultiHeadAttention, WordAttention
from models.backbones.resnet import FrozenBottleneck, FrozenResNet
from models.dropout import Dropout
from models.feed_forward import FeedForward
from models.mask_head import DynamicMaskHead, pixel_grid
from models.pixel_decoder import PyramidLevel, VisionLanguageBlock, from_convolution, to_convolution
from models.text_encoder import TextFeatures
from ops.module import MSDeformAttn


def to_reference(model: nn.Module) -> nn.Module:
    """Switch a model's modules to the published formulation, in place; its weights stay."""
    switch = {
        FrozenResNet: ReferenceResNet,
        FrozenBottleneck: resnet.Bottleneck,
        MultiHeadAttention: ReferenceAttention,
        WordAttention: ReferenceWordAttention,
        Dropout: nn.Dropout,
        FeedForward: ReferenceFeedForward,
        PyramidLevel: ReferencePyramidLevel,
        DynamicMaskHead: ReferenceMaskHead,
    }
    for module in model.modules():
        if type(module) in switch:
            module.__class__ = switch[type(module)]
        if hasattr(module, "recompute"):
            module.recompute = False
        if isinstance(module, MSDeformAttn):
            module.backend = "torch"  # bilinear sampling by grid_sample
    return model


class ReferenceResNet(FrozenResNet):
    """Convolutions in channels-first memory, norms of their own."""

    def forward(self, frames: Tensor) -> list[Tensor]:
        body = self.body
        x = body.maxpool(body.relu(body.bn1(body.conv1(frames.flatten(0, 1)))))
        maps = []
        for stage in (body.layer1, body.layer2, body.layer3, body.layer4):
            x = stage(x)
            maps.append(x)
        return maps


class ReferenceAttention(MultiHeadAttention):
    """Attention whose weights are materialised."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None = None) -> Tensor:
        attended, _ = F.multi_head_attention_forward(
            *(x.transpose(0, 1) for x in (query, key, value)),
            self.dim,
            self.num_heads,
            self.in_proj_weight,
            self.in_proj_bias,
            None,
            None,
            False,
            self.dropout,
            self.out_proj.weight,
            self.out_proj.bias,
            training=self.training,
            key_padding_mask=key_padding_mask,
        )
        return attended.transpose(0, 1)


class ReferenceWordAttention(WordAttention):
    """Queries and attended values of every visual token."""

    def forward(
        self,
        visual: Tensor,
        words: Tensor,
        word_position: Tensor,
        word_padding_mask: Tensor,
        visual_position: Tensor | None = None,
    ) -> Tensor:
        query = visual if visual_position is None else visual + visual_position[:, None]
        attended = ReferenceAttention.forward(
            self, query.flatten(1, 2), words + word_position, words, key_padding_mask=word_padding_mask
        )
        return attended.view(visual.shape)


class ReferenceFeedForward(FeedForward):
    """All tokens at once."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.dropout(F.relu(self.linear1(x)))
        return self.norm(x + self.dropout(self.linear2(hidden)))


class ReferencePyramidLevel(PyramidLevel):
    """Convolutions in channels-first memory."""

    def look(self, x: Tensor, position: Tensor, mask: Tensor | None) -> Tensor:
        lateral = self.lateral_norm(self.lateral(to_convolution(x).contiguous()))
        return self.fusion.attend_frames(from_convolution(lateral, x.shape[1]).contiguous(), position, mask)

    def read(self, x: Tensor, position: Tensor, text: TextFeatures, coarser: Tensor | None) -> Tensor:
        t = x.shape[1]
        x = to_convolution(VisionLanguageBlock.attend_words(self.fusion, x, position, text)).contiguous()
        if coarser is not None:
            x = x + F.interpolate(to_convolution(coarser), size=x.shape[-2:], mode="nearest")
        return from_convolution(F.relu(self.output_norm(self.output(x))), t)


class ReferenceMaskHead(DynamicMaskHead):
    """Features and coordinates copied for each query, then grouped convolutions."""

    def forward(self, features: Tensor, queries: Tensor, references: Tensor, frame_sizes: Tensor) -> Tensor:
        frames, n = queries.shape[:2]
        h, w = features.shape[-2:]
        kernels = self._kernels(queries)
        x = features[:, None].expand(-1, n, -1, -1, -1)  # (B T, N, D, h, w)
        if self.relative_coordinates:
            centre = references * frame_sizes.flip(-1)[:, None]  # (B T, N, 2) xy in pixels
            offsets = centre[..., None] - pixel_grid(h, w, features.device)
            x = torch.cat((x, offsets.view(frames, n, 2, h, w).to(x.dtype)), dim=2)
        x = x.reshape(1, -1, h, w)
        for i in range(3):
            weight = kernels[i].flatten(0, 2)[..., None, None]
            x = F.conv2d(x, weight, kernels[3 + i].flatten(), groups=frames * n)
            x = F.relu(x) if i < 2 else x
        return x.view(frames, n, h, w)
