"""ResNet-50 and -101 of torchvision with frozen norms.

B clips, T frames, H x W the frame.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models import ResNet, resnet
from torchvision.ops import FrozenBatchNorm2d

from models.backbones.contract import Backbone

RESNET_LAYERS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}


def _conv_frozen_norm(x: Tensor, conv: nn.Conv2d, norm: FrozenBatchNorm2d) -> Tensor:
    """Convolution and frozen BatchNorm as one convolution: the norm's scale goes into the weight, so a map is written
    once and not three times. The gradient of the weight is the same."""
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    shift = norm.bias - norm.running_mean * scale
    weight = conv.weight * scale[:, None, None, None]
    return F.conv2d(x, weight, shift, conv.stride, conv.padding, conv.dilation, conv.groups)


class FrozenBottleneck(resnet.Bottleneck):
    """torchvision's bottleneck, its frozen norms folded into the convolutions."""

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(_conv_frozen_norm(x, self.conv1, self.bn1), inplace=True)
        out = F.relu(_conv_frozen_norm(out, self.conv2, self.bn2), inplace=True)
        out = _conv_frozen_norm(out, self.conv3, self.bn3)
        identity = x if self.downsample is None else _conv_frozen_norm(x, *self.downsample)
        return F.relu(out.add_(identity), inplace=True)


class FrozenResNet(Backbone):
    """ResNet-50 or -101 of torchvision with frozen BatchNorm (eps 1e-5); stem and `layer1` never train."""

    channels = (256, 512, 1024, 2048)

    def __init__(self, name: str, recompute: bool = False):
        super().__init__()
        self.body = ResNet(FrozenBottleneck, RESNET_LAYERS[name], norm_layer=FrozenBatchNorm2d)
        del self.body.fc
        self.recompute = recompute
        for part in (self.body.conv1, self.body.layer1):
            part.requires_grad_(False)

    def forward(self, frames: Tensor) -> list[Tensor]:
        body = self.body
        x = frames.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        x = body.maxpool(F.relu(_conv_frozen_norm(x, body.conv1, body.bn1), inplace=True))
        maps = []
        for stage in (body.layer1, body.layer2, body.layer3, body.layer4):
            for block in stage:
                recompute = self.recompute and torch.is_grad_enabled() and block.conv1.weight.requires_grad
                x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
            maps.append(x)
        return maps
