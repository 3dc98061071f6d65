"""Weights under our names and under those of published checkpoints, loaded strictly.

Published checkpoints keep a key for every layer's heads even where the layers share them, and name the box heads
twice when boxes are refined (`transformer.decoder.bbox_embed`). `models/published_names.py` has the names.
"""

from __future__ import annotations

import re

from torch import Tensor, nn

from models.published_names import from_published_name, to_published_name
from util.checkpoint_contents import differing_keys

_BOX_ALIAS = "transformer.decoder.bbox_embed."
OLD_BUFFERS = ("text_encoder.embeddings.position_ids",)
_HEAD = re.compile(r"(class_heads|box_heads)\.(\d+)\.(.+)")


def is_published(state: dict[str, Tensor]) -> bool:
    """Whether a state dict has the key names of a published checkpoint."""
    return any(key.startswith(("backbone.0.", "class_embed.")) for key in state)


def from_published(state: dict[str, Tensor], num_head_copies: int) -> dict[str, Tensor]:
    """A published state dict under our names.

    Args:
        state: `model` of a published checkpoint.
        num_head_copies: heads that our model has: one per decoder layer with box refinement, else one. Shared heads
            come from the last copy, which is what a published model ends up with when it loads them one by one.
    """
    renamed = {}
    for key, value in state.items():
        if key.startswith(_BOX_ALIAS) or key in OLD_BUFFERS:
            continue
        name = from_published_name(key)
        if num_head_copies == 1 and (match := _HEAD.match(name)):
            name = f"{match[1]}.0.{match[3]}"
        renamed[name] = value
    return renamed


def to_published(
    state: dict[str, Tensor], num_decoder_layers: int, box_refine: bool | None = None
) -> dict[str, Tensor]:
    """Our state dict with the keys of a published checkpoint: head copies and second names included.

    Args:
        state: of our model.
        num_decoder_layers: L.
        box_refine: of the model; None tells it from the heads, which shows nothing where there is one layer.
    """
    refined = box_refine
    if refined is None:
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
    if differing := differing_keys(state, own):
        raise ValueError(
            f"the weights are of another model: {differing}. Check model.backbone, model.text_encoder, "
            "model.num_classes, model.num_queries and model.box_refine; to finetune with other classes set "
            "train.drop_class_heads"
        )
    model.load_state_dict(state)


def _check_refinement(published: dict[str, Tensor], num_head_copies: int) -> None:
    """Only models that refine boxes name their box heads twice. With one decoder layer it makes no difference."""
    refined = any(key.startswith(_BOX_ALIAS) and not key.startswith(f"{_BOX_ALIAS}0.") for key in published)
    if refined != (num_head_copies > 1):
        told = "with" if refined else "without"
        raise ValueError(f"the weights are of a model {told} box refinement; set model.box_refine to {refined}")
