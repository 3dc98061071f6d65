"""Names of weights in published checkpoints and ours; the rules are read in both directions."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

# (published, ours); each {} stands for a number, the same on both sides, and each pair is a prefix of a key. The first
# that fits is taken.
_RENAMES = (
    ("backbone.0.body.patch_embed.", "backbone.patch_embed."),
    ("backbone.0.body.layers.{}.blocks.{}.mlp.fc1.", "backbone.stages.{}.{}.mlp.0."),
    ("backbone.0.body.layers.{}.blocks.{}.mlp.fc2.", "backbone.stages.{}.{}.mlp.3."),
    ("backbone.0.body.layers.{}.blocks.{}.", "backbone.stages.{}.{}."),
    ("backbone.0.body.layers.{}.downsample.", "backbone.mergings.{}."),  # Swin
    ("backbone.0.body.downsamples.{}.", "backbone.downsamples.{}."),  # Video-Swin
    ("backbone.0.body.norm{}.", "backbone.norms.{}."),
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


def _rename(key: str, rules: Iterable[tuple[str, str]]) -> str:
    for source, target in rules:
        if match := _pattern(source).match(key):
            return target.replace("{}", "%s") % match.groups() + key[match.end() :]
    return key


@cache
def _pattern(prefix: str) -> re.Pattern[str]:
    return re.compile(re.escape(prefix).replace(r"\{\}", r"(\d+)"))
