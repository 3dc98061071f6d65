"""Published checkpoints: what model their weights are of, told by keys, shapes and the arguments that they carry.

Settings are those of `util.config.ModelConfig`, as a dictionary of plain values.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from models.backbones import BACKBONES
from models.backbones.resnet import RESNET_LAYERS
from models.backbones.swin import SWIN_SIZES
from models.backbones.video_swin import VIDEO_SWIN_SIZES
from models.mask_head import mask_head_splits

_BODY = "backbone.0.body."
# Parts that every ReferFormer has and that no other model has together.
_PARTS = ("backbone.0.", "text_encoder.", "fusion_module.", "transformer.", "pixel_decoder.", "controller.", "resizer.")
# Arguments that change what the network computes and that no published checkpoint uses, with the only value known here.
_FIXED = {
    "dilation": False,
    "pre_norm": False,
    "two_stage": False,
    "position_embedding": "sine",
    "controller_layers": 3,
}
# Settings of ours that the published program has no argument for, with what it does.
_ONLY = {"architecture": "referformer", "fpn_fusion": True, "position_in_content": 0, "temporal_shift": 0}
_DATASET_OF_CLASSES = {1: "ytvos", 65: "ytvos", 78: "davis", 91: "coco"}
# Published argument -> setting; what keys and shapes tell is not read from the arguments, only written there.
_ARGUMENTS = {
    "backbone": "backbone",
    "with_box_refine": "box_refine",
    "num_queries": "num_queries",
    "rel_coord": "relative_coordinates",
    "hidden_dim": "hidden_dim",
    "nheads": "num_heads",
    "enc_layers": "num_encoder_layers",
    "dec_layers": "num_decoder_layers",
    "enc_n_points": "num_points",
    "dec_n_points": "num_points",
    "num_feature_levels": "num_feature_levels",
    "dim_feedforward": "feedforward_dim",
    "dropout": "dropout",
    "mask_dim": "mask_dim",
    "dynamic_mask_channels": "mask_head_channels",
    "freeze_text_encoder": "freeze_text_encoder",
}
_READ = ("nheads", "dropout", "freeze_text_encoder")
# Weights whose shapes tell settings, with the number of their dimensions.
_TELLING = {
    "query_embed.weight": 2,
    "transformer.level_embed": 2,
    "transformer.encoder.layers.0.self_attn.sampling_offsets.bias": 1,
    "transformer.encoder.layers.0.linear1.bias": 1,
    "pixel_decoder.mask_features.weight": 4,
    "controller.layers.2.bias": 1,
    "class_embed.0.bias": 1,
}


def describe_published(weights: Mapping[str, Tensor], args: Any = None) -> dict[str, Any]:
    """The settings of the model that published weights are of.

    Args:
        weights: `model` of the checkpoint.
        args: `args` of the checkpoint, a namespace, or None where it has none.

    Raises:
        ValueError: the weights are of another project's model, or of a variant that is not published.
    """
    if absent := [part for part in _PARTS if not any(key.startswith(part) for key in weights)]:
        first = sorted({key.split(".")[0] for key in weights})
        known = ", ".join(first[:8]) + ", ..." * (len(first) > 8) or "nothing"
        raise ValueError(
            f"its weights are of another project: it lacks {', '.join(absent)} of a ReferFormer (it has {known})"
        )
    given = vars(args) if isinstance(args, argparse.Namespace) else {}
    for name, value in _FIXED.items():
        if given.get(name, value) != value:
            raise ValueError(f"a variant that is not published: --{name} is {given[name]}, here it is always {value}")
    if absent := [key for key, ndim in _TELLING.items() if key not in weights or weights[key].ndim != ndim]:
        raise ValueError(f"not a whole checkpoint of a ReferFormer: {', '.join(absent)} missing or of another rank")
    num_heads = given.get("nheads", 8)
    if not isinstance(num_heads, int) or num_heads < 1:
        raise ValueError(f"a damaged checkpoint: its argument --nheads is {num_heads!r}")
    settings = _read_shapes(weights, num_heads)
    return settings | {_ARGUMENTS[name]: given[name] for name in _READ if name in given}


def published_args(settings: Mapping[str, Any]) -> argparse.Namespace:
    """The published program's arguments for a model of ours.

    Raises:
        ValueError: the published program has no such model; the message names the setting.
    """
    if settings["backbone"] not in BACKBONES:
        raise ValueError(f"model.backbone is {settings['backbone']}; the published code has {', '.join(BACKBONES)}")
    for name, value in _ONLY.items():
        if settings[name] != value:
            raise ValueError(f"model.{name} is {settings[name]}; the published code has only {value}")
    if settings["num_classes"] not in _DATASET_OF_CLASSES:
        known = ", ".join(map(str, _DATASET_OF_CLASSES))
        raise ValueError(f"model.num_classes is {settings['num_classes']}; the published code has {known}")
    arguments = {published: settings[ours] for published, ours in _ARGUMENTS.items()}
    classes = {
        "binary": settings["num_classes"] == 1,
        "dataset_file": _DATASET_OF_CLASSES[settings["num_classes"]],
        "masks": True,
    }
    return argparse.Namespace(**arguments, **classes, **_FIXED)


def _read_shapes(weights: Mapping[str, Tensor], num_heads: int) -> dict[str, Any]:
    shapes = {key: tuple(value.shape) for key, value in weights.items()}
    num_queries, dim = shapes["query_embed.weight"]
    num_levels = shapes["transformer.level_embed"][0]
    offsets = shapes["transformer.encoder.layers.0.self_attn.sampling_offsets.bias"][0]
    mask_dim = shapes["pixel_decoder.mask_features.weight"][0]
    relative, channels = _read_mask_head(shapes["controller.layers.2.bias"][0], mask_dim)
    return {
        "backbone": recognise_backbone(shapes),
        "box_refine": any(key.startswith("transformer.decoder.bbox_embed.") for key in shapes),
        "num_classes": shapes["class_embed.0.bias"][0],
        "num_queries": num_queries,
        "hidden_dim": dim,
        "num_heads": num_heads,
        "num_encoder_layers": _count(shapes, r"transformer\.encoder\.layers\.(\d+)\."),
        "num_decoder_layers": _count(shapes, r"transformer\.decoder\.layers\.(\d+)\."),
        "num_feature_levels": num_levels,
        "num_points": offsets // (num_heads * num_levels * 2),
        "feedforward_dim": shapes["transformer.encoder.layers.0.linear1.bias"][0],
        "mask_dim": mask_dim,
        "mask_head_channels": channels,
        "relative_coordinates": relative,
    }


def recognise_backbone(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The name of a published checkpoint's backbone.

    Args:
        shapes: of all weights, under the published names.

    Raises:
        ValueError: it is none of the nine.
    """
    patches = shapes.get(f"{_BODY}patch_embed.proj.weight")
    if patches is None:
        depths = tuple(_count(shapes, rf"{re.escape(_BODY)}layer{i}\.(\d+)\.conv3\.") for i in range(1, 5))
        found, sizes = depths, RESNET_LAYERS
    else:
        depths = tuple(_count(shapes, rf"{re.escape(_BODY)}layers\.{i}\.blocks\.(\d+)\.norm1") for i in range(4))
        found = (patches[0], depths)
        known = VIDEO_SWIN_SIZES if len(patches) == 5 else SWIN_SIZES
        sizes = {name: (size.dim, size.depths) for name, size in known.items()}
    for name, size in sizes.items():
        if size == found:
            return name
    raise ValueError(f"its backbone is none of the published ones (blocks of its stages: {depths})")


def _read_mask_head(num_parameters: int, mask_dim: int) -> tuple[bool, int]:
    """Whether the mask head sees relative coordinates, and its channels, from the number of its parameters."""
    for channels in (8, *range(1, 65)):  # the published width is tried first
        for relative in (True, False):
            if sum(mask_head_splits(mask_dim, channels, relative)) == num_parameters:
                return relative, channels
    raise ValueError(f"its mask head has {num_parameters} parameters, which no width explains")


def _count(shapes: Mapping[str, Any], pattern: str) -> int:
    """How many different numbers stand where the pattern has its group."""
    return len({match[1] for key in shapes if (match := re.match(pattern, key))})
