# ruff: noqa: T201
"""Tells what a checkpoint, ours or a published one, holds and what it costs on this machine.

python -m models --checkpoint ytvos_swin_large.pth
python -m models --checkpoint runs/default/checkpoint.pth --num_frames 36 --size 360 640 --precision bfloat16
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
from pathlib import Path

import torch

from models.build import build_from_checkpoint
from models.checkpoint import is_published
from models.predictor import Predictor
from models.summary import count_parameters, measure_clip
from util.checkpoint_io import CheckpointError, load_checkpoint
from util.failures import told_in_one_line


def main() -> None:
    args = _parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    if args.num_threads:
        torch.set_num_threads(args.num_threads)
    checkpoint = load_checkpoint(args.checkpoint)
    layout = "published" if is_published(checkpoint["model"]) else "ours"
    epoch = f", epoch {checkpoint['epoch']}" if isinstance(checkpoint.get("epoch"), int) else ""
    print(f"{args.checkpoint}: {args.checkpoint.stat().st_size / 1e6:.0f} MB, layout: {layout}{epoch}")
    try:
        model, config = build_from_checkpoint(checkpoint, args.text_encoder)
    except ValueError as error:
        raise CheckpointError(f"{args.checkpoint}: {error}") from error
    del checkpoint

    print("\nconfiguration (what differs from the defaults is marked *)")
    defaults = type(config.model)()
    for field in dataclasses.fields(defaults):
        value = getattr(config.model, field.name)
        mark = "*" if value != getattr(defaults, field.name) else " "
        print(f"{mark} model.{field.name:26s} {value}")

    print(f"\n{'parameters, millions':28s}{'trained':>10s}{'frozen':>10s}{'all':>10s}")
    for part in count_parameters(model):
        trained, frozen = part.trained / 1e6, part.frozen / 1e6
        print(f"  {part.name:26s}{trained:10.2f}{frozen:10.2f}{trained + frozen:10.2f}")

    predictor = Predictor(model, short_side=min(args.size), precision=args.precision, device=args.device)
    cost = measure_clip(predictor, args.num_frames, tuple(args.size), args.repeats)
    where = f"{predictor.device}, {torch.get_num_threads()} threads" if predictor.device.type == "cpu" else "GPU"
    print(
        f"\na sentence about {args.num_frames} x {args.size[0]} x {args.size[1]}, {args.precision}, {where}: "
        f"{cost.gflop:.0f} GFLOP, {cost.peak_gb:.2f} GB above the model, {cost.seconds:.2f} s "
        f"({args.num_frames / cost.seconds:.2f} frames a second)"
    )


def _parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m models", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--text_encoder", default="roberta-base", help="of a published checkpoint: hub name or folder")
    parser.add_argument("--num_frames", type=int, default=5)
    parser.add_argument("--size", type=int, nargs=2, default=(360, 640), metavar=("H", "W"))
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--num_threads", type=int, default=0, help="CPU threads, 0 for PyTorch's choice")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    args = parser.parse_args()
    if min(args.num_frames, args.repeats, *args.size) < 1:
        parser.error("--num_frames, --size and --repeats must be positive")
    return args


if __name__ == "__main__":
    with told_in_one_line():
        main()
