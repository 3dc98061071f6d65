"""J and F of results in the Ref-YouTube-VOS layout, or that of MeViS.

    python scripts/eval_jf.py --results DIR/Annotations --annotations OUT/valid/Annotations \
        --meta OUT/meta_expressions/valid/meta_expressions.json
    python scripts/eval_jf.py --results DIR/Annotations --annotations OUT/valid_u/mask_dict.json \
        --meta OUT/valid_u/meta_expressions.json

Prints a table, writes a CSV with one line per expression, and ends with a line of JSON. An expression's J and F are
means over all frames that the meta file lists, the overall ones means over expressions. Expressions whose object is not
in the video (`obj_id` "0") are left out; with `--no_target`, it is also told for how many of them no mask was given.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datasets.mevis import read_mask_dict, union_of
from datasets.targets import read_targets
from datasets.ytvos import select_object
from util.expression_scores import (
    Score,
    Target,
    format_table,
    permute_captions,
    summarize,
    summarize_no_target,
    write_table,
)
from util.failures import told_in_one_line
from util.masks import read_mask, read_object_ids
from util.metrics import Silhouette, compare_boundaries, compare_regions
from util.rle import check_rle
from util.submission import Fault, SubmissionError
from util.workers import map_unordered

Missing = Literal["error", "video", "zero", "empty"]
MaskDict = dict[str, list[Any]]  # annotation id -> run lengths or None for each frame


def evaluate(
    targets: Sequence[Target],
    results: str | os.PathLike[str],
    annotations: str | os.PathLike[str],
    missing: Missing = "error",
    num_workers: int = 2,
) -> list[Score]:
    """Score every expression.

    Args:
        targets: what is scored.
        results: folder of `<video>/<expression id>/<frame>.png`.
        annotations: folder of `<video>/<frame>.png`, or a mask_dict.json.
        missing: `zero` lets a missing or malformed mask score 0 in its frame rather than be an error, `video` lets all
            expressions of a video score 0 that has no results at all; `empty` takes a missing mask for an empty one.
        num_workers: processes; 0 stays in this one.

    Returns:
        One score per target, in the order of `targets`.

    Raises:
        SubmissionError: masks are missing or malformed.
        FileNotFoundError, ValueError: an annotation is.
    """
    if not os.path.isdir(results):
        raise FileNotFoundError(f"{results}: no such folder")
    if not os.path.exists(annotations):
        raise FileNotFoundError(f"{annotations}: no such folder or mask_dict.json")
    scored: dict[Target, Score] = {}
    if missing == "video":
        without = [target for target in targets if not os.path.isdir(os.path.join(results, target.video))]
        scored = {target: Score(target, 0.0, 0.0, found=False) for target in without}
    present = [target for target in targets if target not in scored]
    if missing not in ("zero", "empty"):  # found at once, not after minutes of scoring
        _raise_faults(results, [fault for target in present for fault in _absent(Path(results), target)])
    jobs = _jobs(present, Path(annotations))
    faults: list[Fault] = []
    with tqdm(total=len(targets), desc="scoring", unit="expression") as bar:
        bar.update(len(scored))
        score = functools.partial(_score_video, results=Path(results), missing_is_empty=missing == "empty")
        for scores, found in map_unordered(score, jobs, num_workers):
            scored |= {score.target: score for score in scores}
            faults += found
            bar.update(len(scores))
    if missing != "zero":
        _raise_faults(results, sorted(faults, key=lambda fault: fault.message))
    return [scored[target] for target in targets]


def _jobs(targets: Sequence[Target], annotations: Path) -> list[tuple[list[Target], Path | MaskDict]]:
    """The targets of each video, with the folder of annotations or the masks of their objects."""
    by_video: dict[str, list[Target]] = {}
    for target in targets:
        by_video.setdefault(target.video, []).append(target)
    wanted = {number for target in targets for number in target.annotation_ids}
    if annotations.is_dir():
        if wanted:
            raise ValueError(
                f"{annotations}: the meta file's expressions have `anno_id`; their annotations are a mask_dict.json, "
                "name that"
            )
        return [(group, annotations) for group in by_video.values()]
    masks = read_mask_dict(annotations)
    if other := next((target for target in targets if not target.annotation_ids), None):
        raise ValueError(
            f"{annotations}: expression {other.expression_id} of video {other.video} has no `anno_id` in the meta "
            "file; name the folder of annotations"
        )
    if absent := sorted(wanted - masks.keys()):
        raise ValueError(
            f"{annotations}: has no annotation {absent[0]}; take it and the meta file from the same release"
        )
    return [(g, {number: masks[number] for t in g for number in t.annotation_ids}) for g in by_video.values()]


def _truths_of_frame(
    targets: Sequence[Target], annotations: Path | MaskDict, t: int
) -> tuple[list[Silhouette], tuple[int, int]]:
    """What each target means in frame number `t`, and (h, w) of the frame; what several mean is prepared once."""
    if isinstance(annotations, Path):
        ids = read_object_ids(annotations / targets[0].video / f"{targets[0].frames[t]}.png")
        of_object = {
            obj_id: Silhouette.of(select_object(ids, obj_id)) for obj_id in {target.obj_id for target in targets}
        }
        return [of_object[target.obj_id] for target in targets], ids.shape
    size = _mask_size(annotations, targets[0].video)
    where = f"mask_dict.json: {targets[0].video}"
    meant = {target.annotation_ids for target in targets}
    of_objects = {ids: Silhouette.of(union_of(annotations, ids, t, size, where)) for ids in meant}
    return [of_objects[target.annotation_ids] for target in targets], size


def _mask_size(masks: MaskDict, video: str) -> tuple[int, int]:
    """(h, w) of a video's masks, by the first that is there."""
    first = next((rle for frames in masks.values() for rle in frames if rle is not None), None)
    if first is None:
        raise ValueError(f"mask_dict.json: no object of video {video} is visible in any frame")
    h, w = check_rle(first, f"mask_dict.json: {video}")["size"]
    return h, w


def _score_video(
    job: tuple[list[Target], Path | MaskDict], results: Path, missing_is_empty: bool
) -> tuple[list[Score], list[Fault]]:
    """Scores of all expressions of one video, whose annotations are read once. A faulty mask scores 0 in its frame."""
    targets, annotations = job
    video, frames = targets[0].video, targets[0].frames
    j, f = np.zeros((2, len(targets), len(frames)))
    found = np.zeros(len(targets), dtype=bool)
    faults = []
    for t, frame in enumerate(frames):
        truths, size = _truths_of_frame(targets, annotations, t)
        for i, target in enumerate(targets):
            path = results / video / target.expression_id / f"{frame}.png"
            try:
                absent = missing_is_empty and not path.exists()
                result = np.zeros(size, dtype=bool) if absent else read_mask(path, size)
            except (ValueError, OSError) as error:
                faults.append(Fault(video, str(error)))
                continue
            found[i] |= result.any()
            silhouette, truth = Silhouette.of(result), truths[i]
            j[i, t], f[i, t] = compare_regions(silhouette, truth), compare_boundaries(silhouette, truth)
    return [
        Score(target, j[i].mean().item(), f[i].mean().item(), bool(found[i])) for i, target in enumerate(targets)
    ], faults


def _absent(results: Path, target: Target) -> list[Fault]:
    folder = results / target.video / target.expression_id
    present = set(os.listdir(folder)) if folder.is_dir() else set()
    names = [f"{frame}.png" for frame in target.frames]
    return [Fault(target.video, f"{folder / name}: missing") for name in names if name not in present]


def _raise_faults(results: str | os.PathLike[str], faults: list[Fault]) -> None:
    if faults:
        raise SubmissionError(
            results,
            faults,
            "complete the result, let them count 0 with --missing zero, or missing ones as empty with --allow_missing",
        )


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", required=True, type=Path, help="folder of <video>/<expression id>/<frame>.png")
    parser.add_argument(
        "--annotations", required=True, type=Path, help="folder of <video>/<frame>.png, object ids, or mask_dict.json"
    )
    parser.add_argument("--meta", required=True, type=Path, help="meta_expressions.json of the split, with obj_id")
    parser.add_argument("--csv", type=Path, help="default: jf.csv (jf_permuted.csv) beside the folder of results")
    parser.add_argument("--num_workers", type=int, default=2, help="processes; 0 stays in this one")
    parser.add_argument(
        "--missing",
        choices=["error", "video", "zero", "empty"],
        help="zero: what is missing scores 0; video: only videos of which nothing is there do (default: error; for a "
        "mask_dict.json video)",
    )
    parser.add_argument(
        "--allow_missing",
        dest="missing",
        action="store_const",
        const="empty",
        help="count what is missing as empty masks, which are right where the object is not to be seen",
    )
    parser.add_argument(
        "--permute_captions", action="store_true", help="control: compare each result with its video's next object"
    )
    parser.add_argument(
        "--no_target", action="store_true", help="also: how many expressions without an object got no mask"
    )
    return parser


def choose_targets(meta: Path, *, permuted: bool, no_target: bool) -> list[Target]:
    """The expressions that are scored. Raises as `read_targets` does, and ValueError where there would be none."""
    targets = read_targets(meta)
    if permuted and any(target.annotation_ids for target in targets):
        raise ValueError(f"{meta}: expressions mean several objects; --permute_captions needs one object each")
    if not no_target and (absent := [target for target in targets if not target.has_object]):
        print(f"{len(absent)} expressions without an object are left out; --no_target judges them too")
        targets = [target for target in targets if target.has_object]
        if not targets:
            raise ValueError(f"{meta}: no expression has an object")
    return permute_captions(targets) if permuted else targets


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.no_target and args.permute_captions:
        parser.error("--no_target and --permute_captions do not go together")
    path = args.csv or args.results.resolve().parent / ("jf_permuted.csv" if args.permute_captions else "jf.csv")
    path.unlink(missing_ok=True)  # a table of older results must not pass for one of these
    targets = choose_targets(args.meta, permuted=args.permute_captions, no_target=args.no_target)
    missing = args.missing or ("video" if args.annotations.is_file() else "error")
    scores = evaluate(targets, args.results, args.annotations, missing, args.num_workers)
    write_table(scores, path)
    summary = summarize_no_target(scores) if args.no_target else summarize(scores)
    print(format_table(summary))
    absent = {score.target.video for score in scores if not (args.results / score.target.video).is_dir()}
    if absent:
        print(f"{len(absent)} videos have no results and score 0: {', '.join(sorted(absent)[:5])}")
    print(f"per expression: {path}")
    print(json.dumps(summary, allow_nan=False))
    return summary


if __name__ == "__main__":
    with told_in_one_line():
        main()
