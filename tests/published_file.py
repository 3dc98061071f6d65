"""A file as the published program writes it, of a small model: ResNet-50 under a narrow transformer."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from models.checkpoint import to_published
from models.referformer import ReferFormer
from tests.small_model import small_config, small_model

TEXT_ENCODER = "configs/text_encoder_small"


def small_published_model(seed: int = 0, **changes: Any) -> ReferFormer:
    """The small model on a backbone that published checkpoints have."""
    return small_model(seed, **({"backbone": "resnet50", "backbone_options": {}} | changes))


def write_published(path: Path, model: ReferFormer, args: dict[str, Any] | None = None, **changes: Any) -> Path:
    """Everything that the published program saves: optimizer, milestones, epoch and arguments too.

    Args:
        path: file to write.
        model: a small model.
        args: in place of, or beside, the published arguments that the file states.
        changes: settings of `model`.
    """
    config = small_config(backbone="resnet50", backbone_options={}, **changes)
    weights = to_published(model.state_dict(), config.num_decoder_layers, config.box_refine)
    weights["text_encoder.embeddings.position_ids"] = torch.arange(130)[None]
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(3))])
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5])
    stated = {"lr": 1e-4, "lr_drop": [3, 5], "backbone": "resnet50", "binary": config.num_classes == 1, "nheads": 4}
    stated |= {"with_box_refine": config.box_refine, "num_frames": 5, "dropout": 0.0, "dilation": False}
    state = {
        "model": weights,
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": schedule.state_dict(),
        "epoch": 5,
        "args": argparse.Namespace(**(stated | (args or {}))),
    }
    torch.save(state, path)
    return path
