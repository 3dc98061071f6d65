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
import csv
import dataclasses
import functools
import io
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datasets.files import read_json
from datasets.mevis import union_of
from datasets.ytvos import object_id, select_object
from util.masks import read_mask, read_object_ids, write_bytes
from util.metrics import Silhouette, compare_boundaries, compare_regions, summarize_scores
from util.submission import Fault, SubmissionError, VideoMasks
from util.workers import map_unordered

Missing = Literal["error", "video", "zero", "empty"]
MaskDict = dict[str, list[Any]]  # annotation id -> run lengths or None for each frame


@dataclass(frozen=True)
class Target:
    """What one expression's result is compared with.

    Attributes:
        video: name of the video.
        expression_id: key of the expression within the video.
        caption: the expression.
        obj_id: pixel value of the object in the annotations, 0 where the video has no such object or annotations are
            no pictures.
        kind: what singles the object out, where the meta file says so.
        frames: names of the frames.
        annotation_ids: of the objects whose union is meant, where annotations are a mask_dict.json.
    """

    video: str
    expression_id: str
    caption: str
    obj_id: int
    kind: str | None
    frames: tuple[str, ...]
    annotation_ids: tuple[str, ...] = ()

    @property
    def has_object(self) -> bool:
        """Whether there is something to be found."""
        return bool(self.obj_id or self.annotation_ids)


@dataclass(frozen=True)
class Score:
    """Means over the frames of one expression, and whether any of its masks has a pixel."""

    target: Target
    j: float
    f: float
    found: bool


def read_targets(meta: str | os.PathLike[str]) -> list[Target]:
    """All expressions of a meta_expressions.json; of `valid` those whose video a `test` meta beside it does not list.

    Raises:
        FileNotFoundError, ValueError: the file is missing, damaged, or withholds the objects.
    """
    targets, meta = [], Path(meta).resolve()
    try:
        videos, test = read_json(meta)["videos"], meta.parent.parent / "test" / "meta_expressions.json"
        elsewhere = read_json(test)["videos"] if meta.parent.name == "valid" and test.is_file() else {}
        for video, entry in videos.items():
            if video in elsewhere:
                continue
            frames, expressions = tuple(entry["frames"]), entry["expressions"]
            VideoMasks(video, (1, 1), frames, tuple(expressions))  # checks the names, which become paths
            if not frames or len(set(frames)) != len(frames):
                raise ValueError(f"{meta}: video {video} lists {'a frame twice' if frames else 'no frames'}")
            for expression_id, expression in expressions.items():
                if expression.get("anno_id"):
                    ids = tuple(str(number) for number in expression["anno_id"])
                    targets.append(Target(video, expression_id, expression["exp"], 0, None, frames, ids))
                    continue
                where, kind = f"{meta}: expression {expression_id} of video {video}", expression.get("kind")
                if expression.get("obj_id") is None:
                    raise ValueError(
                        f"{where} has no obj_id; a split whose objects are withheld can only be scored by the "
                        "benchmark's server"
                    )
                number = object_id(expression["obj_id"], where, or_no_object=True)
                kind = None if kind is None else str(kind)
                targets.append(Target(video, expression_id, expression["exp"], number, kind, frames))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{meta}: not a meta_expressions.json ({type(error).__name__}: {error})") from error
    if not targets:
        raise ValueError(f"{meta}: lists no expressions")
    return targets


def permute_captions(targets: Sequence[Target]) -> list[Target]:
    """Each result is compared with the next object of its video instead, the last with the first.

    The scores are then those of a model that was given the captions of another object: a model that does not read the
    caption scores the same as before. Objects without expressions are passed over; a video with a single object
    stays as it is.
    """
    objects: dict[str, set[int]] = {}
    for target in targets:
        objects.setdefault(target.video, set()).add(target.obj_id)
    following: dict[tuple[str, int], int] = {}
    for video, ids in objects.items():
        ordered = sorted(ids)
        following |= {(video, obj_id): ordered[(i + 1) % len(ordered)] for i, obj_id in enumerate(ordered)}
    return [dataclasses.replace(target, obj_id=following[target.video, target.obj_id]) for target in targets]


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


def summarize(scores: Sequence[Score]) -> dict[str, Any]:
    """`util.metrics.summarize_scores` of them."""
    return summarize_scores([(score.target.kind, score.j, score.f) for score in scores])


def summarize_no_target(scores: Sequence[Score]) -> dict[str, Any]:
    """`summarize` of the expressions with an object, and how well the two sorts are told apart.

    `no_target_accuracy` is the share of expressions without an object for which all masks are empty, also per kind;
    `target_accuracy` the share of the others for which one is not: always answering "not there" has 1 and 0.

    Raises:
        ValueError: every expression has an object, or none.
    """
    absent, rest = ([s for s in scores if s.target.has_object == has_object] for has_object in (False, True))
    if not absent or not rest:
        raise ValueError(
            f"{len(absent)} of {len(scores)} expressions have no object (obj_id 0); --no_target needs both sorts "
            "(python -m datasets.shapes ytvos --num_absent 4)"
        )
    kinds = sorted({s.target.kind for s in absent if s.target.kind})
    by_kind = {kind: [not s.found for s in absent if s.target.kind == kind] for kind in kinds}
    return summarize(rest) | {
        "no_target_accuracy": float(np.mean([not s.found for s in absent])),
        "target_accuracy": float(np.mean([s.found for s in rest])),
        "num_no_target": len(absent),
        "no_target_accuracy_per_kind": {kind: float(np.mean(empty)) for kind, empty in by_kind.items()},
    }


def format_table(summary: dict[str, Any]) -> str:
    """The summary for people, in percent."""
    rows = [("all", summary), *summary.get("per_kind", {}).items()]
    width = max(len(name) for name, _ in rows)
    lines = [f"{'':{width}}    J&F      J      F  expressions"]
    for name, row in rows:
        numbers = "".join(f"{100 * row[key]:7.1f}" for key in ("J&F", "J", "F"))
        lines.append(f"{name:{width}}{numbers}{row['num_expressions']:13}")
    if "no_target_accuracy" in summary:
        lines.append(
            f"no mask for {100 * summary['no_target_accuracy']:.1f} % of {summary['num_no_target']} expressions "
            f"without an object, a mask for {100 * summary['target_accuracy']:.1f} % of the others"
        )
    return "\n".join(lines)


def write_csv(scores: Sequence[Score], path: str | os.PathLike[str]) -> None:
    """One line per expression; an older file is replaced."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["video", "expression_id", "expression", "obj_id", "kind", "num_frames", "J", "F", "J&F"])
    for score in scores:
        t = score.target
        objects = "+".join(t.annotation_ids) or t.obj_id
        row = [t.video, t.expression_id, t.caption, objects, t.kind or "", len(t.frames)]
        writer.writerow([*row, f"{score.j:.6f}", f"{score.f:.6f}", f"{(score.j + score.f) / 2:.6f}"])
    write_bytes(path, text.getvalue().encode())


def _jobs(targets: Sequence[Target], annotations: Path) -> list[tuple[list[Target], Path | MaskDict]]:
    """The targets of each video, with the folder of annotations or the masks of their objects."""
    by_video: dict[str, list[Target]] = {}
    for target in targets:
        by_video.setdefault(target.video, []).append(target)
    if annotations.is_dir():
        return [(group, annotations) for group in by_video.values()]
    masks = read_json(annotations)
    wanted = {number for target in targets for number in target.annotation_ids}
    if not isinstance(masks, dict) or (absent := sorted(wanted - masks.keys())):
        what = f"has no annotation {absent[0]}" if isinstance(masks, dict) else "is no mask_dict.json"
        raise ValueError(f"{annotations}: {what}; take it and the meta file from the same release")
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
    size = next((tuple(rle["size"]) for frames in annotations.values() for rle in frames if rle is not None), None)
    if size is None:
        raise ValueError(f"mask_dict.json: no object of video {targets[0].video} is visible in any frame")
    where = f"mask_dict.json: {targets[0].video}"
    meant = {target.annotation_ids for target in targets}
    of_objects = {ids: Silhouette.of(union_of(annotations, ids, t, size, where)) for ids in meant}
    return [of_objects[target.annotation_ids] for target in targets], size


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


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
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
    args = parser.parse_args(argv)
    if args.no_target and args.permute_captions:
        parser.error("--no_target and --permute_captions do not go together")
    if args.num_workers < 0:
        raise ValueError(f"--num_workers is {args.num_workers}; it must be 0 or more")
    targets = read_targets(args.meta)
    if args.permute_captions and any(target.annotation_ids for target in targets):
        raise ValueError(f"{args.meta}: expressions mean several objects; --permute_captions needs one object each")
    if not args.no_target and (absent := [t for t in targets if not t.has_object]):
        print(f"{len(absent)} expressions without an object are left out; --no_target judges them too")
        targets = [t for t in targets if t.has_object]
        if not targets:
            raise ValueError(f"{args.meta}: no expression has an object")
    if args.permute_captions:
        targets = permute_captions(targets)
    missing = args.missing or ("video" if args.annotations.is_file() else "error")
    scores = evaluate(targets, args.results, args.annotations, missing, args.num_workers)
    path = args.csv or args.results.resolve().parent / ("jf_permuted.csv" if args.permute_captions else "jf.csv")
    write_csv(scores, path)
    summary = summarize_no_target(scores) if args.no_target else summarize(scores)
    print(format_table(summary))
    absent = {score.target.video for score in scores if not (args.results / score.target.video).is_dir()}
    if absent:
        print(f"{len(absent)} videos have no results and score 0: {', '.join(sorted(absent)[:5])}")
    print(f"per expression: {path}")
    print(json.dumps(summary, allow_nan=False))
    return summary


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
