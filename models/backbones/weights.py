"""Where an untrained model's backbone starts: ImageNet or Kinetics weights by name, or a file, loaded strictly.

Files keep the same weights under different names: torchvision's, timm's, those of the Swin and Video-Swin authors
(`{"model": ...}` and `{"state_dict": {"backbone....": ...}}`), and those of published ReferFormer checkpoints.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from safetensors.torch import load_file
from torch import Tensor
from torchvision.models import WeightsEnum
from torchvision.models.video import Swin3D_B_Weights, Swin3D_S_Weights, Swin3D_T_Weights

from models.backbones.contract import Backbone
from models.published_names import from_published_name
from util.checkpoint_contents import differing_keys
from util.checkpoint_io import read_tensors


@dataclass(frozen=True)
class Source:
    """Weights that can be had by name.

    Attributes:
        name: value of `model.backbone_weights`.
        download: returns them; repeated calls read a local cache.
        by_hand: what to download where there is no network.
    """

    name: str
    download: Callable[[], dict[str, Tensor]]
    by_hand: str


def _timm(architecture: str, also: str) -> Source:
    def download() -> dict[str, Tensor]:
        return timm.models.load_state_dict_from_hf(f"timm/{architecture}", weights_only=True)

    return Source("imagenet", download, f"model.safetensors of huggingface.co/timm/{architecture} (or {also})")


def _torchvision(weights: WeightsEnum, also: str) -> Source:
    def download() -> dict[str, Tensor]:
        return weights.get_state_dict(progress=False, check_hash=True, weights_only=True)

    return Source("kinetics", download, f"{weights.url} (or {also} of the authors of Video-Swin)")


SOURCES = {
    "resnet50": _timm("resnet50.tv_in1k", "torchvision's resnet50-0676ba61.pth"),
    "resnet101": _timm("resnet101.tv_in1k", "torchvision's resnet101-63fe2227.pth"),
    "swin_t_p4w7": _timm("swin_tiny_patch4_window7_224.ms_in1k", "the authors' swin_tiny_patch4_window7_224.pth"),
    "swin_s_p4w7": _timm("swin_small_patch4_window7_224.ms_in1k", "the authors' swin_small_patch4_window7_224.pth"),
    "swin_b_p4w7": _timm("swin_base_patch4_window7_224.ms_in22k", "the authors' swin_base_patch4_window7_224_22k.pth"),
    "swin_l_p4w7": _timm(
        "swin_large_patch4_window7_224.ms_in22k", "the authors' swin_large_patch4_window7_224_22k.pth"
    ),
    "video_swin_t_p4w7": _torchvision(
        Swin3D_T_Weights.KINETICS400_V1, "swin_tiny_patch244_window877_kinetics400_1k.pth"
    ),
    "video_swin_s_p4w7": _torchvision(
        Swin3D_S_Weights.KINETICS400_V1, "swin_small_patch244_window877_kinetics400_1k.pth"
    ),
    "video_swin_b_p4w7": _torchvision(
        Swin3D_B_Weights.KINETICS400_IMAGENET22K_V1, "swin_base_patch244_window877_kinetics400_22k.pth"
    ),
}
# Classifiers, and buffers that follow from the architecture.
_NOT_WANTED = re.compile(r"(fc|head|norm|cls_head)\.|.*(attn_mask|relative_position_index|num_batches_tracked)$")
# What no starting weights have: the norm of every stage's output begins as the identity.
_BEGIN_FRESH = re.compile(r"norms\.|.*relative_position_index$")


def load_starting_weights(backbone: Backbone, name: str, weights: str) -> None:
    """Load `weights`, by name or from a file, into a backbone.

    Args:
        backbone: a fresh one.
        name: of the backbone.
        weights: `imagenet`, `kinetics`, or a file.

    Raises:
        FileNotFoundError: no such file, or the weights cannot be downloaded; the message says what to put where.
        ValueError: the weights are of another network.
    """
    state = _download(name) if weights == SOURCES[name].name else _read(name, weights)
    own = backbone.state_dict()
    state = {
        key: _fold_time(value, own.get(key))
        for key, value in _our_names(state, own).items()
        if not _NOT_WANTED.match(key)
    }
    wanted = {key: value for key, value in own.items() if not _BEGIN_FRESH.match(key)}
    if differing := differing_keys(state, wanted):
        raise ValueError(f"model.backbone_weights {weights!r} does not hold the weights of {name}: {differing}")
    backbone.load_state_dict(own | state)


def _download(name: str) -> dict[str, Tensor]:
    source = SOURCES[name]
    try:
        return source.download()
    except Exception as error:  # a network failure has many types
        raise FileNotFoundError(
            f"the starting weights of {name} (model.backbone_weights {source.name!r}) could not be downloaded "
            f"({(str(error).splitlines() or [type(error).__name__])[0]}); download {source.by_hand} elsewhere, copy it "
            "here, and name the file in model.backbone_weights"
        ) from error


def _read(name: str, weights: str) -> dict[str, Tensor]:
    """The weights in a file, whatever they are wrapped in."""
    if weights in ("imagenet", "kinetics"):
        raise ValueError(
            f"model.backbone_weights is {weights!r}; {name} takes {SOURCES[name].name!r}, a file of weights, or null"
        )
    is_safe = Path(weights).suffix == ".safetensors" and Path(weights).is_file()
    state: Any = load_file(weights) if is_safe else read_tensors(weights)
    for wrapper in ("model", "state_dict"):
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(
            f"{weights} is not a dictionary of weights; for {name}, model.backbone_weights takes "
            f"{SOURCES[name].by_hand}, by its path"
        )
    inner = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
    return inner or dict(state)


def _our_names(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same weights under the names of our backbone, whose state is `own`."""
    if "body.conv1.weight" in own:  # ResNets are called alike everywhere
        return {key if _NOT_WANTED.match(key) else f"body.{key}": value for key, value in state.items()}
    is_video = "downsamples.0.norm.weight" in own
    if any(key.startswith("features.") for key in state):
        return {_from_torchvision(key, is_video): value for key, value in state.items()}
    # timm puts a merging at the start of a stage, the authors put it at the end of the one before.
    shift = 1 if "layers.3.downsample.norm.weight" in state else 0
    return {_from_authors(key, is_video, shift): value for key, value in state.items()}


def _from_torchvision(key: str, is_video: bool) -> str:
    """torchvision numbers the stages and the mergings between them together; in 2D, the patches come first."""
    match = re.match(r"features\.(\d+)\.(.+)", key)
    if match is None:
        return key
    place, rest = int(match[1]), match[2]
    if not is_video and place == 0:
        return re.sub(r"^0\.", "patch_embed.proj.", re.sub(r"^2\.", "patch_embed.norm.", rest))
    stage, is_merging = divmod(place - (not is_video), 2)
    part = ("downsamples" if is_video else "mergings") if is_merging else "stages"
    return f"{part}.{stage}.{rest}"


def _from_authors(key: str, is_video: bool, shift: int) -> str:
    if _NOT_WANTED.match(key):
        return key
    if match := re.match(r"layers\.(\d+)\.downsample\.(.+)", key):
        place = int(match[1]) - shift
        key = f"downsamples.{place}.{match[2]}" if is_video else f"layers.{place}.downsample.{match[2]}"
    return from_published_name(f"backbone.0.body.{key}").removeprefix("backbone.")


def _fold_time(value: Tensor, own: Tensor | None) -> Tensor:
    """A patch of two frames becomes one of a single frame, which then stands for both: its weights are added up."""
    if own is not None and value.ndim == own.ndim == 5 and value.shape[2] > own.shape[2] == 1:
        return value.sum(2, keepdim=True)
    return value
