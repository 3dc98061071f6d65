"""The generated benchmark in the layout of MeViS.

{train,valid_u,valid}/JPEGImages/<video>/%05d.jpg, meta_expressions.json, mask_dict.json (train, valid_u)
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

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
from util.rle import encode_mask

_SPLITS = {"train": "train", "valid": "valid_u"}
_MAX_OBJECTS = 16  # of a video; annotation ids are spaced by it
_WITHHELD = "valid"  # has neither masks nor objects, for the server


def write_mevis(
    root: Path,
    settings: VideoSettings,
    *,
    num_videos: int,
    num_valid_videos: int | None = None,
    seed: int = 0,
    num_workers: int = 2,
    overwrite: bool = False,
) -> dict[str, int]:
    """Writes the splits of MeViS: `num_valid_videos` each of valid_u and valid, which shows the videos of valid_u.

    Every video has a sentence about several objects at once. Arguments and errors are those of
    `shapes_ytvos.write_ytvos`.
    """
    counts = choose_counts(num_videos, num_valid_videos, seed, num_workers)
    description = {"layout": "mevis", "seed": seed, "num_videos": counts, **vars(settings)}
    with new_folder(root, description, overwrite=overwrite) as folder:
        records = write_videos(partial(_write_video, folder, settings, seed), counts, num_workers)
        for split, videos in records.items():
            target, masks = folder / _SPLITS[split], {}
            for _, _, of_video in videos:
                masks |= of_video
            write_json(target / "meta_expressions.json", {"videos": {name: entry for name, entry, _ in videos}})
            write_json(target / "mask_dict.json", masks)
        hidden = {name: _withhold(entry) for name, entry, _ in records["valid"]}
        write_json(folder / _WITHHELD / "meta_expressions.json", {"videos": hidden})
    num_expressions = sum(len(entry["expressions"]) for videos in records.values() for _, entry, _ in videos)
    return count_written(records, "videos", num_expressions)


def _write_video(
    folder: Path, settings: VideoSettings, seed: int, job: tuple[str, int]
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Writes the frames of one video; returns its name, its entry of the meta file and its masks."""
    split, index = job
    name = f"{split}{index:08x}"
    video = generate_video(video_generator(seed, split, index), settings, index)
    frame_names = [f"{time:05d}" for time in range(settings.num_frames)]
    for target in (_SPLITS[split], _WITHHELD) if split == "valid" else (_SPLITS[split],):
        images = folder / target / "JPEGImages" / name
        images.mkdir(parents=True)
        for frame_name, image in zip(frame_names, video.frames, strict=True):
            write_jpeg(images / f"{frame_name}.jpg", image)
    first = _MAX_OBJECTS * (2 * index + (split == "valid"))
    masks = {
        str(first + number): [_run_lengths(mask == number + 1) for mask in video.masks]
        for number in range(len(video.scene.looks))
    }
    expressions = {
        str(i): {"exp": sentence, "obj_id": objects, "anno_id": [first + number for number in objects]}
        for i, (sentence, objects) in enumerate(_sentences(video))
    }
    return name, {"vid_id": index, "expressions": expressions, "frames": frame_names}, masks


def _sentences(video: GeneratedVideo) -> list[tuple[str, list[int]]]:
    """(sentence, objects from 0): those about one object, about all, and about all of a shape if there are more."""
    found = [(expression.sentence, [expression.object_id - 1]) for expression in video.expressions]
    shapes = [look.shape for look in video.scene.looks]
    found.append(("all the shapes", list(range(len(shapes)))))
    for shape in sorted(set(shapes)):
        if shapes.count(shape) > 1:
            found.append((f"every {shape}", [i for i, other in enumerate(shapes) if other == shape]))
    return found


def _withhold(entry: dict[str, Any]) -> dict[str, Any]:
    hidden = {key: {"exp": value["exp"]} for key, value in entry["expressions"].items()}
    return entry | {"expressions": hidden}


def _run_lengths(mask: np.ndarray) -> dict[str, Any] | None:
    """Compressed run lengths, None for an empty mask."""
    rle = encode_mask(mask)
    return rle if coco_mask.area(rle) else None
