"""Visual backbones behind one contract: frames -> four maps of strides 4, 8, 16, 32.

B clips, T frames, H x W the frame.
"""

from __future__ import annotations

import logging
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models import ResNet, resnet
from torchvision.ops import FrozenBatchNorm2d

from util.checkpoint_io import read_tensors

logger = logging.getLogger(__name__)

STRIDES = (4, 8, 16, 32)
RESNET_LAYERS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}


class Backbone(nn.Module):
    """The contract: (B, T, 3, H, W) normalised frames -> four maps (B T, channels[i], H / strides[i], W / strides[i]).

    Attributes:
        channels: of the four maps.
        strides: of the four maps, always 4, 8, 16, 32.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...] = STRIDES

    def forward(self, frames: Tensor) -> list[Tensor]:
        raise NotImplementedError


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


class TimmBackbone(Backbone):
    """Any timm network that has maps of strides 4, 8, 16 and 32.

    Args:
        name: timm's name, without the `timm/` in front.
        pretrained: take timm's weights.
        options: further arguments of the network.
        temporal_shift: see `TemporalShift`; only for residual networks with `conv1` in their blocks.
        recompute: recompute activations in the backward pass.
    """

    def __init__(
        self,
        name: str,
        pretrained: bool = False,
        options: dict[str, Any] | None = None,
        temporal_shift: float = 0.0,
        recompute: bool = False,
    ):
        super().__init__()
        options = dict(options or {})
        probe = _create_timm(name, **options)
        reductions = probe.feature_info.reduction()
        if missing := sorted(set(STRIDES) - set(reductions)):
            raise ValueError(f"model.backbone 'timm/{name}' has maps of strides {reductions}; it lacks {missing}")
        indices = [len(reductions) - 1 - reductions[::-1].index(stride) for stride in STRIDES]
        if any(hasattr(module, "strict_img_size") for module in probe.modules()):
            options.setdefault("strict_img_size", False)  # window transformers take any frame size if they are told to
        self.body = _create_timm(name, pretrained=pretrained, out_indices=indices, **options)
        self.channels = tuple(self.body.feature_info.channels())
        self.channels_last = getattr(self.body, "output_fmt", "NCHW") == "NHWC"
        if recompute:
            self.body.set_grad_checkpointing(True)
        self.shift = TemporalShift(self.body, temporal_shift) if temporal_shift > 0 else None

    def forward(self, frames: Tensor) -> list[Tensor]:
        if self.shift is not None:
            self.shift.num_frames = frames.shape[1]
        # Networks that cut frames into patches refuse, or ignore, what does not fill the last one.
        x = F.pad(frames.flatten(0, 1), (0, -frames.shape[-1] % STRIDES[0], 0, -frames.shape[-2] % STRIDES[0]))
        maps = self.body(x.contiguous(memory_format=torch.channels_last))
        return [m.permute(0, 3, 1, 2) for m in maps] if self.channels_last else maps


def _create_timm(name: str, pretrained: bool = False, **options: Any) -> nn.Module:
    try:
        return timm.create_model(name, features_only=True, pretrained=pretrained, **options)
    except OSError as error:
        raise FileNotFoundError(
            f"the weights of timm/{name} could not be downloaded ({str(error).splitlines()[0]}); fetch them elsewhere "
            "into the cache of the Hugging Face hub, or set model.backbone_weights to null"
        ) from error
    except (RuntimeError, TypeError, AttributeError) as error:  # an unknown name, an unknown option, no maps
        raise ValueError(
            f"model.backbone 'timm/{name}' with model.backbone_options {options}: {error}; timm.list_models() lists "
            "the names"
        ) from error


class TemporalShift:
    """Lets a 2D residual network see motion: before the first convolution of every residual block, a share of the
    channels comes from the frame before and as large a share from the frame after. It has no parameters, and a clip of
    one frame passes unchanged, so weights pretrained on images fit.
    """

    def __init__(self, body: nn.Module, share: float):
        self.num_frames, self.share = 1, share
        blocks = [m for m in body.modules() if isinstance(getattr(m, "conv1", None), nn.Conv2d) and m is not body]
        if not blocks:
            raise ValueError(
                "model.temporal_shift needs a residual network whose blocks have a conv1, as timm/resnet18"
            )
        for block in blocks:
            block.conv1.register_forward_pre_hook(self._shift)

    def _shift(self, conv: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        if self.num_frames == 1:
            return inputs[0]
        x = inputs[0].unflatten(0, (-1, self.num_frames))  # (B, T, c, h, w)
        folded = int(x.shape[2] * self.share)
        before = torch.cat((x[:, :1, :folded], x[:, :-1, :folded]), dim=1)
        after = torch.cat((x[:, 1:, folded : 2 * folded], x[:, -1:, folded : 2 * folded]), dim=1)
        shifted = torch.cat((before, after, x[:, :, 2 * folded :]), dim=2)
        return shifted.flatten(0, 1).contiguous(memory_format=torch.channels_last)


def build_backbone(
    name: str,
    *,
    options: dict[str, Any] | None = None,
    weights: str | None = None,
    temporal_shift: float = 0.0,
    drop_path: float | None = None,
    recompute: bool = False,
) -> Backbone:
    """A backbone by name: `resnet50`, `resnet101` or `timm/<name>`.

    Args:
        options: further arguments of a timm network.
        weights: `imagenet`, a file with torchvision's ResNet weights, or None for random ones.
        temporal_shift: share of channels that frames exchange in a 2D residual network of timm.
        drop_path: stochastic depth of a timm network; None takes its own.
        recompute: recompute activations in the backward pass.

    Raises:
        ValueError: the name is unknown, or an option or the weights do not fit it.
        FileNotFoundError: the weights are not there, or not to be downloaded.
    """
    if name.startswith("timm/"):
        if weights not in (None, "imagenet"):
            raise ValueError(f"model.backbone_weights {weights!r}: a timm network takes 'imagenet' or null")
        if drop_path is not None:
            options = {**(options or {}), "drop_path_rate": drop_path}
        return TimmBackbone(name.removeprefix("timm/"), weights == "imagenet", options, temporal_shift, recompute)
    if name not in RESNET_LAYERS:
        known = ", ".join(RESNET_LAYERS)
        raise ValueError(f"model.backbone is {name!r}; known are {known} and timm/<name>, as timm/resnet18")
    if options or temporal_shift or drop_path:
        raise ValueError(
            f"model.backbone_options, temporal_shift and drop_path are for timm/ networks; {name} has none of them"
        )
    backbone = FrozenResNet(name, recompute)
    if weights is not None:
        _load_resnet_weights(backbone, name, weights)
    return backbone


def _load_resnet_weights(backbone: FrozenResNet, name: str, weights: str) -> None:
    if weights == "imagenet":
        try:
            state = timm.models.load_state_dict_from_hf(f"timm/{name}.tv_in1k")
        except Exception as error:  # a network failure has many types
            raise FileNotFoundError(
                f"the ImageNet weights of {name} could not be downloaded ({error}); download torchvision's {name} file "
                "elsewhere and name it in model.backbone_weights"
            ) from error
    else:
        state = read_tensors(weights)
        if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
            raise ValueError(
                f"{weights} is not a dictionary of weights; model.backbone_weights takes torchvision's file"
            )
    state = {k: v for k, v in state.items() if not k.startswith("fc.") and not k.endswith("num_batches_tracked")}
    shapes = {k: v.shape for k, v in state.items()}
    own = {k: v.shape for k, v in backbone.body.state_dict().items()}
    if differ := sorted(k for k in own.keys() | shapes.keys() if own.get(k) != shapes.get(k)):
        raise ValueError(f"{weights} does not hold the weights of {name}; keys that differ: {', '.join(differ[:5])}")
    backbone.body.load_state_dict(state)
