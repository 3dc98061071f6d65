"""The generated benchmark in the layout of Ref-DAVIS17.

DAVIS/JPEGImages/480p/<video>/%05d.jpg
DAVIS/Annotations_unsupervised/480p/<video>/%05d.png
DAVIS/ImageSets/2017/{train,val}.txt, DAVIS/davis_semantics.json
davis_text_annotations/Davis17_annot{1,2}.txt, Davis17_annot{1,2}_full_video.txt
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import cv2
import numpy as np

from datasets.davis_release import ANNOTATORS, MISSPELT_VIDEOS, VOID
from datasets.shapes_files import (
    choose_counts,
    count_written,
    new_folder,
    video_generator,
    write_jpeg,
    write_json,
    write_videos,
)
from datasets.shapes_referred import ReferredVideo, generate_referred_video
from datasets.shapes_scene import VideoSettings
from util.masks import write_object_ids

_SPLIT_FILES = {"train": "train.txt", "valid": "val.txt"}


def write_davis(
    root: Path,
    settings: VideoSettings,
    *,
    num_videos: int,
    num_valid_videos: int | None = None,
    seed: int = 0,
    num_workers: int = 2,
    overwrite: bool = False,
) -> dict[str, int]:
    """Writes the two trees of Ref-DAVIS17, with what is odd about the real ones.

    The first training videos have the names that the real text files misspell, and are misspelt there; the second
    annotator's files are in Latin-1 and need it; where objects touch there is a seam of void pixels (255).
    Arguments and errors are those of `shapes_ytvos.write_ytvos`.
    """
    counts = choose_counts(num_videos, num_valid_videos, seed, num_workers)
    description = {"layout": "davis", "seed": seed, "num_videos": counts, **vars(settings)}
    with new_folder(root, description, overwrite=overwrite) as folder:
        records = write_videos(partial(_write_video, folder, settings, seed), counts, num_workers)
        sets = folder / "DAVIS" / "ImageSets" / "2017"
        sets.mkdir(parents=True)
        for split, videos in records.items():
            (sets / _SPLIT_FILES[split]).write_text("".join(f"{name}\n" for name, _, _ in videos))
        videos = [video for split in records for video in records[split]]
        semantics = {name: {str(i + 1): shape for i, shape in enumerate(shapes)} for name, shapes, _ in videos}
        write_json(folder / "DAVIS" / "davis_semantics.json", semantics)
        texts = folder / "davis_text_annotations"
        texts.mkdir()
        for number, annotator in enumerate(ANNOTATORS):
            lines = [line for name, _, sentences in videos for line in _lines(name, sentences, number)]
            (texts / annotator.file).write_text("".join(lines), encoding=annotator.encoding)
    return count_written(records, "videos", len(ANNOTATORS) * sum(len(shapes) for _, shapes, _ in videos))


def video_name(split: str, index: int) -> str:
    """Name of a generated video: the misspelt ones first, in `train`."""
    real_names = list(MISSPELT_VIDEOS.values())
    return real_names[index] if split == "train" and index < len(real_names) else f"shapes-{split}-{index:03d}"


def _write_video(
    folder: Path, settings: VideoSettings, seed: int, job: tuple[str, int]
) -> tuple[str, tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Writes the images of one video; returns its name, and shapes and sentences of its objects."""
    split, index = job
    name = video_name(split, index)
    video: ReferredVideo = generate_referred_video(
        video_generator(seed, split, index), settings, index, in_first_frame=True
    )
    images, annotations = (
        folder / "DAVIS" / kind / "480p" / name for kind in ("JPEGImages", "Annotations_unsupervised")
    )
    images.mkdir(parents=True)
    annotations.mkdir(parents=True)
    for time, (image, mask) in enumerate(zip(video.frames, video.masks, strict=True)):
        write_jpeg(images / f"{time:05d}.jpg", image)
        write_object_ids(annotations / f"{time:05d}.png", _with_void_seam(mask))
    return name, video.shapes, video.sentences


def _with_void_seam(mask: np.ndarray) -> np.ndarray:
    """Ids (H, W), those pixels void that are beside a pixel of another object."""
    largest = cv2.dilate(mask, np.ones((3, 3), np.uint8))
    smallest = 255 - cv2.dilate(255 - np.where(mask == 0, 255, mask).astype(np.uint8), np.ones((3, 3), np.uint8))
    return np.where((mask > 0) & (largest != smallest), VOID, mask).astype(np.uint8)


def _lines(name: str, sentences: tuple[tuple[str, ...], ...], number: int) -> list[str]:
    """The lines of one annotator about one video; annotators take turns at an object's sentences."""
    misspelt = {real: wrong for wrong, real in MISSPELT_VIDEOS.items()}
    lines = []
    for index, options in enumerate(sentences):
        sentence = options[number % len(options)]
        if name in misspelt and ANNOTATORS[number].encoding != "utf-8":
            sentence = f"{sentence}, déjà vu"
        lines.append(f'{misspelt.get(name, name)} {index + 1} "{sentence}"\n')
    return lines
