"""J and F of Ref-DAVIS17 by the unsupervised DAVIS 2017 protocol: each annotator, and the mean of the four.

    python scripts/eval_davis.py --results results --data_root data/ref-davis

Reads `anno_<k>/<video>/<frame>.png` and the layout that scripts/prepare_davis.py writes. Prints a table, writes
`davis_global.csv`, `davis_objects.csv` and `davis_expressions.csv`, and ends with a line of JSON. All results are read
and scored anew each time.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datasets.davis_release import ANNOTATORS
from datasets.targets import read_targets
from util.davis_metrics import MAX_RESULTS, Statistics, VideoScorer, VideoScores, count_objects, statistics
from util.disk import make_folder
from util.expression_scores import Target
from util.failures import told_in_one_line
from util.masks import read_object_ids
from util.submission import Fault, SubmissionError
from util.tables import write_csv
from util.workers import map_unordered

TABLES = ("davis_global.csv", "davis_objects.csv", "davis_expressions.csv")
MEASURES = ("J&F", "J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay")


@dataclass(frozen=True)
class ObjectScore:
    """An annotated object of a video and the result object that was assigned to it.

    Attributes:
        annotator: from 0.
        video: name of the video.
        object_id: in the annotation.
        result_id: in the result; one that the result does not have is an empty mask.
        j, f: over the frames.
    """

    annotator: int
    video: str
    object_id: int
    result_id: int
    j: Statistics
    f: Statistics

    def measures(self) -> dict[str, float]:
        """By the names of `MEASURES`."""
        j, f = self.j, self.f
        return dict(
            zip(MEASURES, ((j.mean + f.mean) / 2, j.mean, j.recall, j.decay, f.mean, f.recall, f.decay), strict=True)
        )


@dataclass(frozen=True)
class ExpressionScore:
    """Mean J and F of an expression: its result object against the object it is about, without an assignment."""

    target: Target
    j: float
    f: float


def annotator_of(target: Target) -> int:
    """Number of the annotator, from 0; expressions are numbered object by object, four an object."""
    if not target.expression_id.isdecimal():
        raise ValueError(f"expression {target.expression_id!r} of video {target.video} has no number for a name")
    return int(target.expression_id) % len(ANNOTATORS)


def evaluate(
    targets: Sequence[Target], results: Path, annotations: Path, *, allow_missing: bool = False, num_workers: int = 2
) -> tuple[list[ObjectScore], list[ExpressionScore]]:
    """Score all videos.

    Args:
        targets: expressions of the videos.
        results: folder of `anno_<k>/<video>/<frame>.png`.
        annotations: folder of `<video>/<frame>.png`.
        allow_missing: a missing result is an empty mask rather than an error.
        num_workers: processes; 0 stays in this one.

    Returns:
        scores per annotator and object, in the order of annotators and videos, and per expression.

    Raises:
        SubmissionError: results are missing or malformed.
        FileNotFoundError, ValueError: an annotation is.
    """
    for folder in (results, annotations):
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder")
    if strange := next((target for target in targets if not target.obj_id), None):
        raise ValueError(
            f"expression {strange.expression_id} of video {strange.video} is about no object (obj_id); "
            "Ref-DAVIS17 has an object for each, prepare the data with scripts/prepare_davis.py"
        )
    by_video: dict[str, list[Target]] = {}
    for target in targets:
        by_video.setdefault(target.video, []).append(target)
    score = functools.partial(_score_video, results=results, annotations=annotations, allow_missing=allow_missing)
    objects: list[ObjectScore] = []
    expressions: list[ExpressionScore] = []
    faults: list[Fault] = []
    with tqdm(total=len(by_video), desc="scoring", unit="video") as bar:
        for of_objects, of_expressions, found in map_unordered(score, by_video.values(), num_workers):
            objects += of_objects
            expressions += of_expressions
            faults += found
            bar.update()
    if faults:
        faults.sort(key=lambda fault: fault.message)
        cure = "complete the result; --allow_missing counts missing files as empty masks"
        raise SubmissionError(results, faults, cure)
    place = {video: i for i, video in enumerate(by_video)}
    objects.sort(key=lambda score: (score.annotator, place[score.video], score.object_id))
    order = {(target.video, target.expression_id): i for i, target in enumerate(targets)}
    expressions.sort(key=lambda score: order[score.target.video, score.target.expression_id])
    return objects, expressions


def _score_video(
    targets: list[Target], results: Path, annotations: Path, allow_missing: bool
) -> tuple[list[ObjectScore], list[ExpressionScore], list[Fault]]:
    """Scores of one video, whose annotation is read and prepared once for all annotators."""
    video, frames = targets[0].video, targets[0].frames
    truths = [read_object_ids(annotations / video / f"{frame}.png") for frame in frames]
    num_objects = count_objects(truths[0])
    if num_objects == 0:
        raise ValueError(f"{annotations / video / frames[0]}.png: no object in the first frame, which decides them")
    found, faults = _read_results(results, video, frames, truths, allow_missing)
    if faults:
        return [], [], faults
    num_results = [max(int(ids.max()) for ids in pictures) for pictures in found]
    # objects that the first frame does not show have no part in the protocol, but expressions may be about them
    scorer = VideoScorer(max(num_objects, *(target.obj_id for target in targets)), num_results)
    for truth, pictures in zip(truths, zip(*found, strict=True), strict=True):
        scorer.add(truth, list(pictures))
    scores = scorer.finish()
    objects = []
    for annotator, (of_pairs, count) in enumerate(zip(scores, num_results, strict=True)):
        rows = max(count, num_objects)
        pairs = VideoScores(of_pairs.j[:rows, :num_objects], of_pairs.f[:rows, :num_objects])
        objects += _object_scores(pairs, annotator, video)
    expressions = []
    for target in targets:
        of_pairs, i = scores[annotator_of(target)], target.obj_id - 1
        expressions.append(ExpressionScore(target, float(of_pairs.j[i, i].mean()), float(of_pairs.f[i, i].mean())))
    return objects, expressions, []


def _read_results(
    results: Path, video: str, frames: Sequence[str], truths: Sequence[NDArray[np.uint8]], allow_missing: bool
) -> tuple[list[list[NDArray[np.uint8]]], list[Fault]]:
    """Object ids of each annotator and frame, and what is wrong with them."""
    faults: list[Fault] = []
    found = []
    for annotator in range(len(ANNOTATORS)):
        ids = []
        for frame, truth in zip(frames, truths, strict=True):
            path = results / f"anno_{annotator}" / video / f"{frame}.png"
            try:
                ids.append(read_object_ids(path, truth.shape))
                if ids[-1].max() > MAX_RESULTS:
                    faults.append(Fault(video, f"{path}: has the object {ids[-1].max()}; {MAX_RESULTS} are allowed"))
            except FileNotFoundError:
                if not allow_missing:
                    faults.append(Fault(video, f"{path}: missing"))
                ids.append(np.zeros_like(truth))
            except ValueError as error:
                faults.append(Fault(video, str(error)))
        found.append(ids)
    return found, faults


def _object_scores(pairs: VideoScores, annotator: int, video: str) -> list[ObjectScore]:
    return [
        ObjectScore(annotator, video, i + 1, int(r) + 1, statistics(pairs.j[r, i]), statistics(pairs.f[r, i]))
        for i, r in enumerate(pairs.assign())
    ]


def summarize(objects: Sequence[ObjectScore], expressions: Sequence[ExpressionScore]) -> dict[str, Any]:
    """`MEASURES` as means over objects: of each annotator, and `mean`, that of the four; `expressions` is theirs."""
    summary: dict[str, Any] = {}
    for annotator in range(len(ANNOTATORS)):
        rows = [score.measures() for score in objects if score.annotator == annotator]
        summary[f"anno_{annotator}"] = {name: float(np.mean([row[name] for row in rows])) for name in MEASURES}
    summary["mean"] = {name: float(np.mean([row[name] for row in summary.values()])) for name in MEASURES}
    j, f = (float(np.mean([getattr(score, name) for score in expressions])) for name in ("j", "f"))
    summary["expressions"] = {"J&F": (j + f) / 2, "J": j, "F": f, "num_expressions": len(expressions)}
    return summary


def format_table(summary: dict[str, Any]) -> str:
    """The summary for people, in percent."""
    lines = [f"{'':8}" + "".join(f"{name:>10}" for name in MEASURES)]
    for name, row in summary.items():
        if name != "expressions":
            lines.append(f"{name:8}" + "".join(f"{100 * row[measure]:10.1f}" for measure in MEASURES))
    row = summary["expressions"]
    numbers = " ".join(f"{name} {100 * row[name]:.1f}" for name in ("J&F", "J", "F"))
    return "\n".join([*lines, f"per expression, without assignment: {numbers} ({row['num_expressions']} expressions)"])


def write_tables(
    folder: Path, summary: dict[str, Any], objects: Sequence[ObjectScore], expressions: Sequence[ExpressionScore]
) -> None:
    """Write `TABLES`."""
    rows = [[name, *row.values()] for name, row in summary.items() if name != "expressions"]
    write_csv(folder / TABLES[0], ["annotator", *MEASURES], rows)
    rows = [[f"anno_{s.annotator}", s.video, s.object_id, s.result_id, *s.measures().values()] for s in objects]
    write_csv(folder / TABLES[1], ["annotator", "video", "object", "result_object", *MEASURES], rows)
    names = ["annotator", "video", "expression_id", "expression", "object", "J&F", "J", "F"]
    rows = []
    for s in expressions:
        t, scores = s.target, [(s.j + s.f) / 2, s.j, s.f]
        rows.append([f"anno_{annotator_of(t)}", t.video, t.expression_id, t.caption, t.obj_id, *scores])
    write_csv(folder / TABLES[2], names, rows)


def _without_nan(summary: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no NaN, which the decay of a long video is (see `statistics`)."""
    return {
        name: {measure: None if math.isnan(value) else value for measure, value in row.items()}
        for name, row in summary.items()
    }


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", required=True, type=Path, help="folder of anno_<k>/<video>/<frame>.png")
    parser.add_argument("--data_root", type=Path, default=Path("data/ref-davis"), help="as prepare_davis.py wrote it")
    parser.add_argument("--split", default="valid")
    parser.add_argument("--output_dir", type=Path, help="of the CSV files (default: the folder of results)")
    parser.add_argument("--num_workers", type=int, default=2, help="processes; 0 stays in this one")
    parser.add_argument("--allow_missing", action="store_true", help="count missing results as empty masks")
    args = parser.parse_args(argv)
    folder = args.output_dir or args.results
    for name in TABLES:  # a table of older results must not pass for one of these
        (folder / name).unlink(missing_ok=True)
    targets = read_targets(args.data_root / "meta_expressions" / args.split / "meta_expressions.json")
    objects, expressions = evaluate(
        targets,
        args.results,
        args.data_root / args.split / "Annotations",
        allow_missing=args.allow_missing,
        num_workers=args.num_workers,
    )
    summary = summarize(objects, expressions)
    make_folder(folder)
    write_tables(folder, summary, objects, expressions)
    print(format_table(summary))
    print(f"tables: {', '.join(str(folder / name) for name in TABLES)}")
    print(json.dumps(_without_nan(summary), allow_nan=False))
    return summary


if __name__ == "__main__":
    with told_in_one_line():
        main()
