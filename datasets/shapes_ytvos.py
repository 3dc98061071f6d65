"""The generated benchmark in the layout of Ref-YouTube-VOS."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from datasets.shapes_absent import write_absent_expressions
from datasets.shapes_expressions import Expression
from datasets.shapes_files import (
    choose_counts,
    count_written,
    new_folder,
    video_generator,
    write_jpeg,
    write_json,
    write_videos,
)
from datasets.shapes_scene import VideoSettings
from datasets.shapes_video import GeneratedVideo, generate_video
from util.masks import write_object_ids

FRAME_STEP = 5  # Ref-YouTube-VOS annotates every fifth frame, and names frames so


def write_ytvos(
    root: Path,
    settings: VideoSettings,
    *,
    num_videos: int,
    num_valid_videos: int | None = None,
    seed: int = 0,
    num_workers: int = 2,
    num_absent: int = 0,
    overwrite: bool = False,
) -> dict[str, int]:
    """Writes a training and a validation set in the layout of Ref-YouTube-VOS.

    Unlike the real release, `valid` has annotations, and its expressions have `obj_id` and `kind`, for scoring at home.

    Args:
        root: the folder to make; if an earlier run of this program made it with the same settings, it is replaced.
        settings: size and number of frames.
        num_videos: in `train`.
        num_valid_videos: in `valid`; a quarter of `num_videos`, at least 2, by default.
        seed: the same seed gives the same bytes.
        num_workers: processes.
        num_absent: sentences a video, beside the others, whose object is not in it; their `obj_id` is "0".
        overwrite: also replace what an earlier run made in another layout or with other settings.

    Returns:
        How many videos and expressions were written, by their names for people.

    Raises:
        FileExistsError: if `root` holds something this program did not write, or wrote otherwise.
        ValueError: if a count is not positive.
    """
    counts = choose_counts(num_videos, num_valid_videos, seed, num_workers)
    if num_absent < 0:
        raise ValueError(f"num_absent is {num_absent}; it must not be negative")
    description = {"layout": "ytvos", "seed": seed, "num_videos": counts, **vars(settings)}
    if num_absent:
        description["num_absent"] = num_absent
    with new_folder(root, description, overwrite=overwrite) as folder:
        records = write_videos(partial(_write_video, folder, settings, seed, num_absent), counts, num_workers)
        for split, videos in records.items():
            write_json(folder / split / "meta.json", {"videos": {name: meta for name, meta, _ in videos}})
            expressions = {name: expressions for name, _, expressions in videos}
            write_json(folder / "meta_expressions" / split / "meta_expressions.json", {"videos": expressions})
    num_expressions = sum(len(of["expressions"]) for videos in records.values() for _, _, of in videos)
    return count_written(records, "videos", num_expressions)


def _write_video(
    folder: Path, settings: VideoSettings, seed: int, num_absent: int, job: tuple[str, int]
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Writes the images of one video; returns its name, its entry in meta.json and that in meta_expressions.json."""
    split, index = job
    name = f"{split}_{index:05d}"
    video = generate_video(video_generator(seed, split, index), settings, index)
    frame_names = [f"{FRAME_STEP * time:05d}" for time in range(settings.num_frames)]
    images, annotations = (folder / split / kind / name for kind in ("JPEGImages", "Annotations"))
    images.mkdir(parents=True)
    annotations.mkdir(parents=True)
    for frame_name, image, mask in zip(frame_names, video.frames, video.masks, strict=True):
        write_jpeg(images / f"{frame_name}.jpg", image)
        write_object_ids(annotations / f"{frame_name}.png", mask)
    rng = video_generator(seed, split, index, purpose=1)  # its own, so that the video stays what it is without them
    absent = write_absent_expressions(rng, video.scene, num_absent)
    return name, _meta(video, frame_names), _expressions([*video.expressions, *absent], frame_names)


def _meta(video: GeneratedVideo, frame_names: list[str]) -> dict[str, Any]:
    visible = video.visible
    objects = {}
    for index, look in enumerate(video.scene.looks):
        frames = [frame_name for frame_name, shown in zip(frame_names, visible[:, index], strict=True) if shown]
        objects[str(index + 1)] = {"category": look.shape, "frames": frames}
    return {"objects": objects}


def _expressions(expressions: list[Expression], frame_names: list[str]) -> dict[str, Any]:
    entries = {
        str(index): {"exp": expression.sentence, "obj_id": str(expression.object_id), "kind": expression.kind}
        for index, expression in enumerate(expressions)
    }
    return {"expressions": entries, "frames": frame_names}
