"""The same numbers as the published model: computes every array of a parity case with this project's model.

`tests/data/*.npz` hold what the published model gave for seeded weights and inputs (on a CPU, in float32):

| array | shape |
|---|---|
| `backbone0..3` | strides 4..32, first 6 channels, (B T, 6, h, w) |
| `text_words`, `text_sentence` | after the resizer, (B, S, C), (B, C) |
| `memory0..2` | encoder output at strides 8, 16, 32, first 6 channels |
| `hs` | decoder layers' outputs, (L, B T, N, C) |
| `mask_features` | first 6 channels, (B T, 6, H/4, W/4) |
| `pred_logits`, `pred_boxes`, `pred_masks`, `reference_points` | (B, T, N, K | 4 | H/4, W/4 | 2) |
| `match_query` | matched query of each clip |
| `loss/<name>`, `loss_total` | unweighted losses (`_0`.. = earlier decoder layers), weighted sum |
| `gradnorm/<parameter>`, `grad_total` | gradient norms under published parameter names |
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import torch
from torch import Tensor, nn
from transformers import RobertaConfig

from models.build import build_criterion, build_model
from models.checkpoint import load_model_state, to_published, to_published_name
from models.criterion import mask_target
from models.outputs import LayerOutput
from models.referformer import ReferFormer
from models.text_encoder import Tokens
from tests import parity_rules
from util.batch import ClipTargets
from util.config import LossConfig, ModelConfig

LOSS_NAMES = {"class": "loss_ce", "l1": "loss_bbox", "giou": "loss_giou", "mask": "loss_mask", "dice": "loss_dice"}
_TOKENIZER = '{"version":"1.0","model":{"type":"WordLevel","vocab":{"<unk>":0},"unk_token":"<unk>"}}'


def build_case_model(case: dict) -> ReferFormer:
    """The model of a case, its weights made by the rules; no dropout, text encoder frozen."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--no_rel_coord", action="store_true")
    parser.add_argument("--num_queries", type=int, default=5)
    flags = case.get("flags", "")
    flags = parser.parse_args((flags if isinstance(flags, str) else " ".join(flags)).split())
    config = ModelConfig(
        backbone=case["backbone"],
        num_classes=1 if case.get("binary", True) else 65,
        num_queries=flags.num_queries,
        relative_coordinates=not flags.no_rel_coord,
        box_refine=case.get("box_refine", True),
        dropout=0.0,
        drop_path=0.0,
    )
    roberta = RobertaConfig(
        vocab_size=50265,
        max_position_embeddings=514,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    assets = {
        "config": json.dumps(roberta.to_dict()),
        "tokenizer": _TOKENIZER,
        "special_tokens": {"pad_token": "<unk>"},
    }
    model = build_model(config, text_assets=assets, weights_follow=True)
    keys = to_published(model.state_dict(), config.num_decoder_layers)
    state = {
        key: torch.from_numpy(parity_rules.weight(key, tuple(value.shape))) if value.is_floating_point() else value
        for key, value in keys.items()
    }
    load_model_state(model, state)
    return model


def build_batch(case: dict, multiple: int) -> dict[str, Tensor]:
    """Frames padded bottom-right to the largest size and a multiple, padding mask, sizes and annotated frames."""
    clips = [torch.from_numpy(clip) for clip in parity_rules.frames(case)]
    height, width = (-(-max(sizes) // multiple) * multiple for sizes in zip(*case["sizes"], strict=True))
    frames = torch.zeros(len(clips), case["T"], 3, height, width)
    padding_mask = torch.ones(len(clips), case["T"], height, width, dtype=torch.bool)
    for i, clip in enumerate(clips):
        h, w = clip.shape[-2:]
        frames[i, ..., :h, :w] = clip
        padding_mask[i, :, :h, :w] = False
    annotated = case.get("valid_index")
    if annotated is not None:
        annotated = torch.as_tensor(annotated).expand(len(clips)).clone()
    return {
        "frames": frames,
        "padding_mask": padding_mask,
        "frame_sizes": torch.tensor(case["sizes"]),
        "annotated_frame": annotated,
    }


def build_tokens(case: dict) -> Tokens:
    captions = parity_rules.token_ids(case)
    longest = max(map(len, captions))
    ids = torch.tensor([caption + [1] * (longest - len(caption)) for caption in captions])
    return Tokens(ids, torch.tensor([[i >= len(caption) for i in range(longest)] for caption in captions]))


def build_targets(case: dict) -> list[ClipTargets]:
    return [
        ClipTargets(
            torch.from_numpy(target["masks"]) > 0,
            torch.from_numpy(target["boxes"]),
            torch.from_numpy(target["visible"]) > 0,
            torch.from_numpy(target["labels"]),
        )
        for target in parity_rules.targets(case)
    ]


def compute(case: dict) -> dict[str, np.ndarray]:
    """Every array of the table above that the case asks for."""
    model = build_case_model(case).eval()
    arrays = _compute_outputs(model, case)
    if case.get("loss"):
        arrays |= _compute_losses(model, case)
    return {name: np.asarray(value) for name, value in arrays.items()}


@torch.no_grad()
def _compute_outputs(model: ReferFormer, case: dict) -> dict[str, Tensor]:
    batch = build_batch(case, case.get("div", 1))
    text = model.text_encoder(build_tokens(case))
    visual = model.look(batch["frames"], batch["padding_mask"], batch["annotated_frame"])
    memory, states = model.locate(visual, text)
    mask_features = model.pixel_decoder.mask_features(model.build_pyramid(visual, memory, text))
    last = model.predict(states, mask_features, batch["frame_sizes"])[-1]
    arrays = {f"backbone{i}": m[:, :6] for i, m in enumerate(model.backbone(batch["frames"]))}
    for i in range(3):
        arrays[f"memory{i}"] = memory.level(i).flatten(0, 1)[..., :6].permute(0, 3, 1, 2)
    return arrays | {
        "text_words": text.words,
        "text_sentence": text.sentence,
        "hs": torch.stack([state.queries for state in states]),
        "mask_features": mask_features[:, :6],
        "pred_logits": last.class_logits,
        "pred_boxes": last.boxes,
        "pred_masks": last.mask_logits,
        "reference_points": last.reference_points,
    }


def _compute_losses(model: ReferFormer, case: dict) -> dict[str, Tensor]:
    batch, targets = build_batch(case, 32), build_targets(case)
    outputs = model(text=build_tokens(case), **batch)
    criterion = build_criterion(LossConfig())
    losses = criterion(outputs, targets)
    total = sum(losses.values())
    total.backward()

    arrays: dict[str, Tensor] = {"match_query": match(criterion, outputs[-1], targets), "loss_total": total.detach()}
    for name, value in losses.items():
        kind, _, layer = name.partition("_")
        arrays["loss/" + "_".join(filter(None, (LOSS_NAMES[kind], layer)))] = value.detach() / criterion.weights[kind]
    gradients = {_published_parameter(model, name): p.grad for name, p in model.named_parameters() if p.requires_grad}
    for name, gradient in gradients.items():
        if any(part in name for part in case.get("grads", [])):
            arrays[f"gradnorm/{name}"] = gradient.norm()
    arrays["grad_total"] = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    return arrays


def match(criterion: nn.Module, output: LayerOutput, targets: list[ClipTargets]) -> Tensor:
    """(B,) matched query of each clip."""
    masks = torch.stack([mask_target(t.masks, *output.mask_logits.shape[-2:]) for t in targets])
    stacked = [torch.stack([getattr(t, name) for t in targets]) for name in ("boxes", "visible", "labels")]
    return criterion.matcher(output, masks, *stacked)


def _published_parameter(model: ReferFormer, name: str) -> str:
    """A parameter's name in the published model, which registers refined box heads under the decoder first."""
    published = to_published_name(name)
    return f"transformer.decoder.{published}" if model.box_refine and published.startswith("bbox_embed") else published
