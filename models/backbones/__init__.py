"""Visual backbones behind one contract: frames -> four maps of strides 4, 8, 16, 32."""

from __future__ import annotations

from typing import Any

from models.backbones.contract import STRIDES, Backbone
from models.backbones.resnet import RESNET_LAYERS, FrozenResNet
from models.backbones.swin import SWIN_SIZES, SwinBackbone
from models.backbones.timm_network import TimmBackbone
from models.backbones.video_swin import VIDEO_SWIN_SIZES, VideoSwinBackbone
from models.backbones.weights import load_starting_weights

__all__ = ["BACKBONES", "STRIDES", "Backbone", "build_backbone"]

BACKBONES = (*RESNET_LAYERS, *SWIN_SIZES, *VIDEO_SWIN_SIZES)


def build_backbone(
    name: str,
    *,
    options: dict[str, Any] | None = None,
    weights: str | None = None,
    temporal_shift: float = 0.0,
    drop_path: float | None = None,
    recompute: bool = False,
) -> Backbone:
    """A backbone by name: one of `BACKBONES`, or `timm/<name>`.

    Args:
        options: further arguments of a timm network.
        weights: `imagenet` (Video-Swin: `kinetics`), a file of weights, or None for random ones.
        temporal_shift: share of channels that frames exchange in a 2D residual network of timm.
        drop_path: stochastic depth of a Swin or of a timm network; None takes its own.
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
    if name not in BACKBONES:
        known = ", ".join(BACKBONES)
        raise ValueError(f"model.backbone is {name!r}; known are {known} and timm/<name>, as timm/resnet18")
    if options or temporal_shift:
        raise ValueError(f"model.backbone_options and temporal_shift are for timm/ networks; {name} has none of them")
    if name in RESNET_LAYERS and drop_path:
        raise ValueError(f"model.drop_path is for Swin and timm/ networks; {name} has no stochastic depth")
    backbone: Backbone
    if name in RESNET_LAYERS:
        backbone = FrozenResNet(name, recompute)
    elif name in SWIN_SIZES:
        backbone = SwinBackbone(SWIN_SIZES[name], drop_path, recompute)
    else:
        backbone = VideoSwinBackbone(VIDEO_SWIN_SIZES[name], drop_path, recompute)
    if weights is not None:
        load_starting_weights(backbone, name, weights)
    return backbone
