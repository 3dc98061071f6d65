"""Writes a checkpoint's weights, configuration and tokenizer alone: what inference and finetuning need.

    python scripts/export_weights.py runs/default/checkpoint.pth model.pth [--half]

Optimizer, schedule and random state stay behind, which makes the file a third as large; `--half` stores the weights
as float16 and halves it again (they are loaded as float32).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from util.checkpoint_io import load_checkpoint, save_checkpoint
from util.failures import told_in_one_line

KEPT = ("config", "extras", "step", "epoch")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--half", action="store_true", help="store float16")
    args = parser.parse_args(argv)
    state = load_checkpoint(args.checkpoint)
    weights = state["model"]
    if args.half:
        weights = {k: v.half() if v.dtype == torch.float32 else v for k, v in weights.items()}
    save_checkpoint(args.output, {"model": weights} | {k: state[k] for k in KEPT if k in state})
    print(f"{args.output}: {len(weights)} tensors, {args.output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    with told_in_one_line():
        main()
