"""Converts a checkpoint between the published layout and ours, both ways, without loss.

    python scripts/convert_checkpoint.py ytvos_swin_large.pth ours.pth --to ours
    python scripts/convert_checkpoint.py runs/default/checkpoint.pth published.pth --to published

Ours carries its configuration and its tokenizer, so inference needs no other file; a published one has `model` and
`args`, as the published programs read them with `--resume` or `--pretrained_weights`. Optimizer, schedule and random
state do not go along: they number the weights in the order of one program.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models.build import build_from_checkpoint, read_config
from models.checkpoint import OLD_BUFFERS, is_published, to_published
from models.published import published_args
from util.checkpoint_io import load_checkpoint, save_checkpoint
from util.failures import told_in_one_line

logger = logging.getLogger(__name__)


def to_ours(checkpoint: Mapping[str, Any], text_encoder: str) -> dict[str, Any]:
    """Our checkpoint with the weights of a published one.

    Building the model checks every key and shape, and reads the tokenizer that a published checkpoint does not carry.
    """
    model, config = build_from_checkpoint(checkpoint, text_encoder)
    weights = checkpoint["model"]
    origin = {
        "args": vars(checkpoint["args"]) if "args" in checkpoint else None,
        "buffers": {key: weights[key] for key in OLD_BUFFERS if key in weights},
    }
    extras = model.checkpoint_extras() | {"published": origin}
    converted = {"model": model.state_dict(), "config": config.to_dict(), "extras": extras}
    return converted | {key: checkpoint[key] for key in ("epoch",) if key in checkpoint}


def to_theirs(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """A published checkpoint with the weights of ours."""
    model, config = build_from_checkpoint(checkpoint)
    settings = dataclasses.asdict(config.model)
    args = published_args(settings)
    if model.text_encoder.encoder.config.model_type != "roberta":
        raise ValueError(f"its text encoder is {config.model.text_encoder}; the published code has roberta-base only")
    if model.text_encoder.encoder.config.hidden_size != 768:
        logger.warning("the text encoder is not as large as roberta-base, which is what the published code builds")
    weights = to_published(checkpoint["model"], config.model.num_decoder_layers, config.model.box_refine)
    origin = (checkpoint.get("extras") or {}).get("published") or {"args": {}, "buffers": {}}
    converted: dict[str, Any] = {"model": weights | origin["buffers"]}
    if origin["args"] is not None:
        converted["args"] = argparse.Namespace(**(vars(args) | origin["args"]))
    return converted | {key: checkpoint[key] for key in ("epoch",) if key in checkpoint}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--to", choices=("ours", "published"), required=True)
    parser.add_argument("--text_encoder", default="roberta-base", help="hub name or folder of the tokenizer, for ours")
    args = parser.parse_args()
    logging.basicConfig(format="%(levelname)s: %(message)s")
    checkpoint = load_checkpoint(args.input)
    if is_published(checkpoint["model"]) == (args.to == "published"):
        raise ValueError(f"{args.input} has the layout already that --to {args.to} asks for")
    try:
        converted = to_ours(checkpoint, args.text_encoder) if args.to == "ours" else to_theirs(checkpoint)
        config = read_config(checkpoint).model
    except ValueError as error:
        raise ValueError(f"{args.input}: {error}") from error
    save_checkpoint(args.output, converted)
    print(
        f"{args.output}: {config.backbone}, {len(converted['model'])} tensors, "
        f"{args.output.stat().st_size / 1e6:.0f} MB, layout: {args.to}"
    )


if __name__ == "__main__":
    with told_in_one_line():
        main()
