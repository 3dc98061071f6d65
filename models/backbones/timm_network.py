"""Any four-stage network of timm.

B clips, T frames, H x W the frame.
"""

from __future__ import annotations

from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbones.contract import STRIDES, Backbone


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
