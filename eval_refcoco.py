"""Scores of a checkpoint on RefCOCO, RefCOCO+ and RefCOCOg, on every split but `train`.

    python eval_refcoco.py --checkpoint runs/pretrain_refcoco_r50/checkpoint.pth --data_root data/coco
    torchrun --nproc_per_node=8 eval_refcoco.py --checkpoint ... --sets refcoco refcocog --splits val

Prints a table and a line of JSON, which --output also takes.
"""

from __future__ import annotations

import argparse
import json
import logging
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from datasets.refcoco import RefCOCOReader
from datasets.refcoco_release import MAIN_SETS, REF_SETS, converted_path
from eval_a2d import evaluation_settings
from image_evaluation import evaluate_images
from inference_options import add_test_arguments, add_text_encoder_argument, given_settings, parse_arguments
from models.build import load_model
from models.predictor import build_predictor
from util.disk import make_folder
from util.distributed import distributed, is_main_process
from util.failures import told_in_one_line
from util.logs import set_up_logging
from util.masks import write_bytes

logger = logging.getLogger(__name__)

SPLITS = ("val", "testA", "testB", "test")  # in the order of the table
COLUMNS = {
    "P@0.5": "P@0.5",
    "P@0.6": "P@0.6",
    "P@0.7": "P@0.7",
    "P@0.8": "P@0.8",
    "P@0.9": "P@0.9",
    "overall_IoU": "overall",
    "mean_IoU": "mean",
    "box_P@0.5": "box@0.5",
    "box_P@0.6": "box@0.6",
    "box_P@0.7": "box@0.7",
    "box_P@0.8": "box@0.8",
    "box_P@0.9": "box@0.9",
    "num_samples": "sentences",
}


def find_splits(root: Path, sets: Sequence[str], splits: Sequence[str] | None) -> list[tuple[str, str]]:
    """Pairs of a set and a split.

    Args:
        root: folder of the sets.
        sets: their names.
        splits: those of the splits; None takes all that are there.

    Raises:
        FileNotFoundError: a set has none of the splits, or no set has one of them.
    """
    for split in splits or ():
        if not any(converted_path(root, name, split).is_file() for name in sets):
            path = converted_path(root, sets[0], split)
            raise FileNotFoundError(f"{path}: no such file, and no other of {', '.join(sets)} has the split {split}")
    found = []
    for name in sets:
        there = [split for split in splits or SPLITS if converted_path(root, name, split).is_file()]
        if not there:
            path = converted_path(root, name, (splits or SPLITS)[0])
            raise FileNotFoundError(f"{path}: no such file; make it with scripts/prepare_refcoco.py")
        found += [(name, split) for split in there]
    return found


def format_table(scores: dict[str, dict[str, Any]]) -> str:
    """The scores for people, in percent: a row for each set and split."""
    width = max(len(name) for name in scores)
    lines = [f"{'':{width}}" + "".join(f"{title:>10}" for title in COLUMNS.values())]
    for name, row in scores.items():
        cells = [f"{row[key]:10}" if key == "num_samples" else f"{100 * row[key]:10.1f}" for key in COLUMNS]
        lines.append(f"{name:{width}}" + "".join(cells))
    return "\n".join(lines)


def build_parser() -> ArgumentParser:
    layout = argparse.RawDescriptionHelpFormatter
    parser = ArgumentParser(description=__doc__, formatter_class=layout, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--checkpoint", type=Path, required=True, help="ours or a published one")
    add_text_encoder_argument(parser)
    parser.add_argument("--data_root", type=Path, required=True, help="as prepare_refcoco.py left it")
    parser.add_argument("--sets", nargs="+", choices=list(REF_SETS), default=list(MAIN_SETS))
    parser.add_argument("--splits", nargs="+", help="default: all but train")
    parser.add_argument("--output", type=Path, help="file for the line of JSON")
    parser.add_argument("--device", type=typing.Literal["auto", "cpu", "cuda"], default="auto")
    add_test_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
    args = parse_arguments(build_parser(), argv)
    set_up_logging()
    with distributed(args.device, timeout_minutes=24 * 60) as process:
        set_up_logging(main_process=is_main_process())
        if args.output is not None and is_main_process():  # scores of an older run must not pass for these
            args.output.unlink(missing_ok=True)
        pairs = find_splits(args.data_root, args.sets, args.splits)
        model, config = load_model(args.checkpoint, args.text_encoder, in_all_processes=True)
        predictor = build_predictor(model, evaluation_settings(config.test, given_settings(args)), process.device)
        scores = {}
        for name, split in pairs:
            scores[f"{name} {split}"] = evaluate_images(predictor, RefCOCOReader(args.data_root, split, [name]))
        if is_main_process():
            line = json.dumps(scores)
            if args.output is not None:
                make_folder(args.output.parent)
                write_bytes(args.output, f"{line}\n".encode())
            print(format_table(scores))  # noqa: T201 (the program's own output)
            print(line)  # noqa: T201
    return scores


if __name__ == "__main__":
    with told_in_one_line():
        main()
