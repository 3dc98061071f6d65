"""The generated benchmark in the layout of JHMDB-Sentences.

Rename_Images/<action>/<video>/%05d.png, puppet_mask/<action>/<video>/puppet_mask.mat, jhmdb_annotation.txt
"""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path

import numpy as np
import scipy.io

from datasets.shapes_files import choose_counts, new_folder, video_generator, write_png, write_videos
from datasets.shapes_referred import generate_referred_video
from datasets.shapes_scene import VideoSettings

# The opening of a .mat file is a text with the time of writing; a fixed one makes equal contents equal bytes.
_MAT_TEXT = b"MATLAB 5.0 MAT-file, generated benchmark".ljust(116)


def write_jhmdb(
    root: Path,
    settings: VideoSettings,
    *,
    num_videos: int,
    seed: int = 0,
    num_workers: int = 2,
    overwrite: bool = False,
) -> dict[str, int]:
    """Writes videos with one sentence each as the owners of JHMDB-Sentences distribute them.

    The masks of every second video end one frame early, as some of the real ones do. Arguments and errors are those
    of `shapes_ytvos.write_ytvos`.
    """
    counts = choose_counts(num_videos, 1, seed, num_workers)
    del counts["valid"]
    description = {"layout": "jhmdb", "seed": seed, "num_videos": num_videos, **vars(settings)}
    with new_folder(root, description, overwrite=overwrite) as folder:
        records = write_videos(partial(_write_video, folder, settings, seed), counts, num_workers)
        with (folder / "jhmdb_annotation.txt").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([["video_id", "query"], *records["train"]])
    return {"videos": num_videos, "expressions": len(records["train"])}


def _write_video(folder: Path, settings: VideoSettings, seed: int, job: tuple[str, int]) -> tuple[str, str]:
    """Writes one video; returns its name and its sentence."""
    split, index = job
    video = generate_referred_video(video_generator(seed, split, index), settings, index)
    name, action = f"shapes_{index:05d}", video.shapes[0]
    images, masks = folder / "Rename_Images" / action / name, folder / "puppet_mask" / action / name
    images.mkdir(parents=True)
    masks.mkdir(parents=True)
    for time, image in enumerate(video.frames):
        write_png(images / f"{time + 1:05d}.png", image)
    num_masks = max(1, settings.num_frames - index % 2)
    part_mask = (video.masks[:num_masks] == 1).astype(np.uint8).transpose(1, 2, 0)  # (T, H, W) -> (H, W, T)
    path = masks / "puppet_mask.mat"
    scipy.io.savemat(path, {"part_mask": part_mask}, do_compression=True)
    path.write_bytes(_MAT_TEXT + path.read_bytes()[len(_MAT_TEXT) :])
    return name, video.sentences[0][0].capitalize()
