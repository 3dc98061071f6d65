"""Scores on A2D-Sentences and JHMDB-Sentences: P@K, overall and mean IoU, mAP.

    python eval_a2d.py --checkpoint runs/a2d_finetune/checkpoint.pth --dataset a2d --data_root data/a2d_sentences \
        --output_dir results/a2d
    torchrun --nproc_per_node=8 eval_a2d.py --checkpoint ... --dataset jhmdb --data_root data/jhmdb_sentences
    python eval_a2d.py --predictions results/a2d/predictions.json --dataset a2d --data_root data/a2d_sentences

Prints a table and a line of JSON; with --output_dir also writes `scores.json` and `predictions.json`, the masks of all
queries in COCO's format for results, which --predictions scores again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import math
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from datasets.build import build_eval_windows
from datasets.files import member, read_json
from datasets.frame_clips import FrameWindows
from frame_evaluation import predict_frames
from inference_options import add_test_arguments, add_text_encoder_argument, given_settings, parse_arguments
from models.build import load_model
from models.frame_predictor import FramePredictor
from util.config import Config, DataConfig, TestConfig
from util.disk import make_folder
from util.distributed import ProcessInfo, distributed, is_main_process
from util.failures import told_in_one_line
from util.frame_metrics import FrameResult, score_frames
from util.logs import set_up_logging
from util.masks import write_bytes
from util.rle import RLE, check_rle

logger = logging.getLogger(__name__)

LONG_SIDE = 640  # of the published evaluation, where the checkpoint does not say


def run_model(args: Namespace, process: ProcessInfo) -> tuple[FrameWindows, list[FrameResult]]:
    """Every sample's result, by the checkpoint of the arguments."""
    model, config = load_model(args.checkpoint, args.text_encoder, in_all_processes=True)
    settings = evaluation_settings(config.test, given_settings(args))
    windows = build_windows(args, settings, args.num_frames or config.data.num_frames)
    predictor = FramePredictor(model, threshold=settings.threshold, precision=settings.precision, device=process.device)
    return windows, predict_frames(predictor, windows, args.num_workers)


def evaluation_settings(stored: TestConfig, overrides: Mapping[str, Any]) -> TestConfig:
    """A checkpoint's test settings with `overrides` in their place, and the published limit of the long side."""
    settings = dataclasses.replace(stored, **overrides)
    if settings.max_long_side is None and "max_long_side" not in overrides:
        settings = dataclasses.replace(settings, max_long_side=max(LONG_SIDE, settings.short_side))
    return settings


def build_windows(args: Namespace, settings: TestConfig, num_frames: int) -> FrameWindows:
    """The samples of the arguments' data set."""
    data = DataConfig(
        dataset=args.dataset, root=str(args.data_root), eval_split="test", num_frames=num_frames, num_workers=0
    )
    return build_eval_windows(Config(data=data, test=settings))


def read_predictions(path: Path, windows: FrameWindows, allow_missing: bool) -> list[FrameResult]:
    """Results from a file, one for each sample.

    Args:
        path: a list of `image_id`, `segmentation` (RLE) and `score`.
        windows: the samples.
        allow_missing: a sample without any counts as an empty mask.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is malformed, knows other samples, or leaves samples out.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such predictions; eval_a2d.py writes them with --checkpoint and --output_dir"
        )
    content = read_json(path)
    if not isinstance(content, list):
        raise ValueError(f"{path}: not a list of predictions in COCO's format for results")
    names = [sample.image_id for sample in windows.reader.samples]
    sizes = {name: truth.size for name, truth in zip(names, windows.reader.truths, strict=True)}
    found: dict[str, list[tuple[float, RLE]]] = {name: [] for name in names}
    for number, entry in enumerate(content):
        where = f"{path}: prediction {number}"
        name = member(entry, "image_id", str, where)
        score = entry.get("score")
        if name not in found or isinstance(score, bool) or not isinstance(score, int | float):
            raise ValueError(f"{where}: of an unknown sample, or without a score ({name}, {score!r})")
        if not -math.inf < score < math.inf:
            raise ValueError(f"{where}: the score of {name} is {score}, not a number that can be ranked")
        mask = check_rle(member(entry, "segmentation", dict, where), where)
        if tuple(mask["size"]) != sizes[name]:
            raise ValueError(f"{where}: the mask of {name} is {mask['size']} (h, w), its frame {list(sizes[name])}")
        found[name].append((float(score), mask))
    if (absent := [name for name in names if not found[name]]) and not allow_missing:
        raise ValueError(
            f"{path}: no prediction for {absent[0]} ({len(absent)} samples without one); complete it, or let them "
            "count as empty masks with --allow_missing"
        )
    return [FrameResult(tuple(s for s, _ in found[name]), tuple(m for _, m in found[name])) for name in names]


def write_predictions(path: Path, windows: FrameWindows, results: Sequence[FrameResult]) -> None:
    """Write all queries of all samples in COCO's format for results."""
    content = [
        {"image_id": sample.image_id, "category_id": 1, "segmentation": mask, "score": score}
        for sample, result in zip(windows.reader.samples, results, strict=True)
        for score, mask in zip(result.scores, result.masks, strict=True)
    ]
    write_bytes(path, json.dumps(content).encode())


def format_table(scores: dict[str, float]) -> str:
    """The scores for people, in percent."""
    shown = {name: value for name, value in scores.items() if name != "num_samples"}
    return "\n".join(["".join(f"{name:>13}" for name in shown), "".join(f"{100 * v:13.1f}" for v in shown.values())])


def build_parser() -> ArgumentParser:
    layout = argparse.RawDescriptionHelpFormatter
    parser = ArgumentParser(description=__doc__, formatter_class=layout, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--checkpoint", type=Path, help="ours or a published one")
    add_text_encoder_argument(parser)
    parser.add_argument("--predictions", type=Path, help="score this file instead of running a checkpoint")
    parser.add_argument("--allow_missing", action="store_true", help="of --predictions: count them as empty masks")
    parser.add_argument("--dataset", type=typing.Literal["a2d", "jhmdb"], default="a2d")
    parser.add_argument("--data_root", type=Path, required=True, help="as prepare_a2d.py or prepare_jhmdb.py left it")
    parser.add_argument("--output_dir", type=Path, help="of scores.json and predictions.json")
    parser.add_argument("--num_frames", type=int, help="frames of a window (default: those of the training clips)")
    parser.add_argument("--num_workers", type=int, default=1, help="loader processes")
    parser.add_argument("--device", type=typing.Literal["auto", "cpu", "cuda"], default="auto")
    add_test_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    args = parse_arguments(build_parser(), argv)
    if (args.checkpoint is None) == (args.predictions is None):
        raise ValueError("give either a --checkpoint or --predictions")
    set_up_logging()
    with distributed(args.device, timeout_minutes=24 * 60) as process:
        set_up_logging(main_process=is_main_process())
        if args.output_dir is not None and is_main_process():  # scores of an older run must not pass for these
            (args.output_dir / "scores.json").unlink(missing_ok=True)
        if args.checkpoint is not None:
            windows, results = run_model(args, process)
        else:
            windows = build_windows(args, TestConfig(), 1)
            results = read_predictions(args.predictions, windows, args.allow_missing)
        scores = score_frames([truth.rle for truth in windows.reader.truths], results)
        if is_main_process():
            if args.output_dir is not None:
                make_folder(args.output_dir)
                write_predictions(args.output_dir / "predictions.json", windows, results)
                write_bytes(args.output_dir / "scores.json", (json.dumps(scores, indent=1) + "\n").encode())
            print(format_table(scores))  # noqa: T201 (the program's own output)
            print(json.dumps(scores))  # noqa: T201
    return scores


if __name__ == "__main__":
    with told_in_one_line():
        main()
