"""Weights under our names and under those of published checkpoints, loaded strictly.

Published checkpoints keep a key for every layer's heads even where the layers share them, and name the box heads
twice when boxes are refined (`transformer.decoder.bbox_embed`). The rules below are read in both directions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import Tensor, nn

# (published, ours); {} stands for a number, and each pair is a prefix of a key. The first that fits is taken.
_RENAMES = (
    ("backbone.0.body.", "backbone.body."),
    ("text_encoder.", "text_encoder.encoder."),
    ("resizer.fc.", "text_encoder.resizer.linear."),
    ("resizer.layer_norm.", "text_encoder.resizer.norm."),
    ("fusion_module.multihead_attn.", "fusion.attention."),
    ("transformer.encoder.layers.{}.norm1.", "transformer.encoder_layers.{}.norm."),
    ("transformer.encoder.layers.{}.norm2.", "transformer.encoder_layers.{}.ffn.norm."),
    ("transformer.encoder.layers.{}.linear", "transformer.encoder_layers.{}.ffn.linear"),
    ("transformer.encoder.layers.{}.", "transformer.encoder_layers.{}."),
    ("transformer.decoder.layers.{}.norm1.", "transformer.decoder_layers.{}.cross_norm."),
    ("transformer.decoder.layers.{}.norm2.", "transformer.decoder_layers.{}.self_norm."),
    ("transformer.decoder.layers.{}.norm3.", "transformer.decoder_layers.{}.ffn.norm."),
    ("transformer.decoder.layers.{}.linear", "transformer.decoder_layers.{}.ffn.linear"),
    ("transformer.decoder.layers.{}.", "transformer.decoder_layers.{}."),
    ("class_embed.{}.", "class_heads.{}."),
    ("bbox_embed.{}.", "box_heads.{}."),
    ("controller.", "mask_head.controller."),
)
# The pixel decoder numbers its stages from 1 where ours count from 0; within a stage:
_STAGE_RENAMES = (
    ("adapter_{}.norm.", "lateral_norm."),
    ("adapter_{}.", "lateral."),
    ("layer_{}.norm.", "output_norm."),
    ("layer_{}.", "output."),
    ("cross_attn_{}.self_attn.", "fusion.self_attn."),
    ("cross_attn_{}.multihead_attn.", "fusion.word_attn."),
    ("cross_attn_{}.norm1.", "fusion.self_norm."),
    ("cross_attn_{}.norm2.", "fusion.word_norm."),
    ("cross_attn_{}.norm3.", "fusion.ffn.norm."),
    ("cross_attn_{}.linear", "fusion.ffn.linear"),
)
_BOX_ALIAS = "transformer.decoder.bbox_embed."
_OLD_BUFFERS = ("text_encoder.embeddings.position_ids",)
_HEAD = re.compile(r"(class_heads|box_heads)\.(\d+)\.(.+)")


def is_published(state: dict[str, Tensor]) -> bool:
    """Whether a state dict has the key names of a published checkpoint."""
    return any(key.startswith(("backbone.0.", "class_embed.")) for key in state)


def to_published_name(key: str) -> str:
    """Our key -> the published one."""
    if match := re.match(r"pixel_decoder\.levels\.(\d+)\.", key):
        stage = str(int(match[1]) + 1)
        for published, ours in _STAGE_RENAMES:
            if key.startswith(ours, match.end()):
                return f"pixel_decoder.{published.replace('{}', stage)}{key[match.end() + len(ours) :]}"
    return _rename(key, [(ours, published) for published, ours in _RENAMES])


def from_published_name(key: str) -> str:
    """A published key -> ours."""
    for published, ours in _STAGE_RENAMES:
        if match := re.match(r"pixel_decoder\." + re.escape(published).replace(r"\{\}", r"(\d+)"), key):
            return f"pixel_decoder.levels.{int(match[1]) - 1}.{ours}{key[match.end() :]}"
    return _rename(key, _RENAMES)


def from_published(state: dict[str, Tensor], num_head_copies: int) -> dict[str, Tensor]:
    """A published state dict under our names.

    Args:
        state: `model` of a published checkpoint.
        num_head_copies: heads that our model has: one per decoder layer with box refinement, else one. Shared heads
            come from the last copy, which is what a published model ends up with when it loads them one by one.
    """
    renamed = {}
    for key, value in state.items():
        if key.startswith(_BOX_ALIAS) or key in _OLD_BUFFERS:
            continue
        name = from_published_name(key)
        if num_head_copies == 1 and (match := _HEAD.match(name)):
            name = f"{match[1]}.0.{match[3]}"
        renamed[name] = value
    return renamed


def to_published(state: dict[str, Tensor], num_decoder_layers: int) -> dict[str, Tensor]:
    """Our state dict with the keys of a published checkpoint: head copies and second names included."""
    refined = any(key.startswith("class_heads.1.") for key in state) or num_decoder_layers == 1
    published = {}
    for key, value in state.items():
        match = _HEAD.match(key)
        copies = range(num_decoder_layers) if match and not refined else [int(match[2])] if match else [None]
        for copy in copies:
            name = to_published_name(f"{match[1]}.{copy}.{match[3]}" if match else key)
            published[name] = value
            if refined and name.startswith("bbox_embed."):
                published[f"transformer.decoder.{name}"] = value
    return published


def load_model_state(model: nn.Module, state: dict[str, Tensor], *, drop_class_heads: bool = False) -> None:
    """Load weights of ours or of a published checkpoint into a model, strictly.

    Args:
        model: a ReferFormer.
        state: its weights under our names or the published ones.
        drop_class_heads: leave the class heads as they are, on purpose, when finetuning.

    Raises:
        ValueError: a key is missing, left over, or of another shape; the message lists them. Or a published checkpoint
            is of a model that refines boxes and ours does not, or the other way round, which the shapes do not show.
    """
    if is_published(state):
        _check_refinement(state, len(model.class_heads))
        state = from_published(state, len(model.class_heads))
    own = model.state_dict()
    if drop_class_heads:
        state = {k: v for k, v in state.items() if not k.startswith("class_heads.")}
        state |= {k: v for k, v in own.items() if k.startswith("class_heads.")}
    problems = [f"missing {key}" for key in own if key not in state]
    problems += [f"left over {key}" for key in state if key not in own]
    problems += [
        f"{key} is {tuple(value.shape)}, the model's {tuple(own[key].shape)}"
        for key, value in state.items()
        if key in own and value.shape != own[key].shape
    ]
    if problems:
        raise ValueError(
            f"the weights are of another model ({len(problems)} keys differ): {'; '.join(problems[:10])}"
            + ("; ..." if len(problems) > 10 else "")
            + ". Check model.backbone, model.text_encoder, model.num_classes, model.num_queries and model.box_refine; "
            "to finetune with other classes set train.drop_class_heads"
        )
    model.load_state_dict(state)


def _check_refinement(published: dict[str, Tensor], num_head_copies: int) -> None:
    """Only models that refine boxes name their box heads twice. With one decoder layer it makes no difference."""
    refined = any(key.startswith(_BOX_ALIAS) and not key.startswith(f"{_BOX_ALIAS}0.") for key in published)
    if refined != (num_head_copies > 1):
        told = "with" if refined else "without"
        raise ValueError(f"the weights are of a model {told} box refinement; set model.box_refine to {refined}")


def _rename(key: str, rules: Iterable[tuple[str, str]]) -> str:
    for source, target in rules:
        pattern = re.escape(source).replace(r"\{\}", r"(\d+)")
        if match := re.match(pattern, key):
            return target.replace("{}", match[1] if match.groups() else "") + key[match.end() :]
    return key
