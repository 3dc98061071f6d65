"""What results are compared with, from a meta file alone: neither frames nor annotations have to be there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from datasets.files import member
from datasets.ytvos import frame_names, object_id, videos_of
from util.expression_scores import Target
from util.submission import check_name


def read_targets(meta: str | os.PathLike[str]) -> list[Target]:
    """All expressions of a meta_expressions.json; of `valid` those whose video a `test` meta beside it does not list.

    Raises:
        FileNotFoundError, ValueError: the file is missing, damaged, or withholds the objects.
    """
    meta = Path(meta).resolve()
    videos, test = videos_of(meta), meta.parent.parent / "test" / "meta_expressions.json"
    elsewhere = videos_of(test) if meta.parent.name == "valid" and test.is_file() else {}
    targets = []
    for video, entry in videos.items():
        if video in elsewhere:
            continue
        where = f"{meta}: video {video}"
        check_name(video, f"{meta}: video")
        frames = frame_names(entry, where)
        for expression_id, expression in member(entry, "expressions", dict, where).items():
            check_name(expression_id, f"{where}, expression")
            targets.append(_target(video, expression_id, expression, frames, f"{where}, expression {expression_id},"))
    if not targets:
        raise ValueError(f"{meta}: lists no expressions")
    return targets


def _target(video: str, expression_id: str, expression: Any, frames: tuple[str, ...], where: str) -> Target:
    caption, kind = member(expression, "exp", str, where), expression.get("kind")
    if expression.get("anno_id"):
        ids = tuple(str(number) for number in member(expression, "anno_id", list, where))
        return Target(video, expression_id, caption, 0, None, frames, ids)
    if expression.get("obj_id") is None:
        raise ValueError(
            f"{where} has no obj_id; a split whose objects are withheld can only be scored by the benchmark's server"
        )
    number = object_id(expression["obj_id"], where, or_no_object=True)
    return Target(video, expression_id, caption, number, None if kind is None else str(kind), frames)
