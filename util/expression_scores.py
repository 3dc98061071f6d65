"""J and F of expressions: what each is compared with, the means over them, and their tables.

Free of torch, so that worker processes start quickly.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from util.metrics import summarize_scores
from util.tables import write_csv

COLUMNS = ("video", "expression_id", "expression", "obj_id", "kind", "num_frames", "J", "F", "J&F")


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


def write_table(scores: Sequence[Score], path: str | os.PathLike[str]) -> None:
    """A CSV file with one line per expression, under `COLUMNS`; an older file is replaced."""
    rows = []
    for score in scores:
        t = score.target
        objects = "+".join(t.annotation_ids) or t.obj_id
        row = [t.video, t.expression_id, t.caption, objects, t.kind or "", len(t.frames)]
        rows.append([*row, score.j, score.f, (score.j + score.f) / 2])
    write_csv(path, COLUMNS, rows)
