"""The generated benchmark in the layout of A2D-Sentences.

Release/clips320H/<video>.mp4, Release/videoset.csv
text_annotations/a2d_annotation.txt, a2d_missed_videos.txt, a2d_annotation_with_instances/<video>/%05d.h5
"""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path

import av
import cv2
import h5py
import numpy as np

from datasets.shapes_files import choose_counts, count_written, new_folder, video_generator, write_videos
from datasets.shapes_referred import ReferredVideo, generate_referred_video
from datasets.shapes_scene import SHAPES, VideoSettings
from util.masks import mask_bounds

FRAME_RATE = 24
KEY_FRAME_DISTANCE = 8  # a short one, so that readers have to seek among key frames
NUM_ANNOTATED_FRAMES = 3  # of a video, as in most of the real ones
_SUBSETS = {"train": 0, "valid": 1}
_MISSED = "missed_00000"


def write_a2d(
    root: Path,
    settings: VideoSettings,
    *,
    num_videos: int,
    num_valid_videos: int | None = None,
    seed: int = 0,
    num_workers: int = 2,
    overwrite: bool = False,
) -> dict[str, int]:
    """Writes a training and a test set as the owners of A2D-Sentences distribute them, with what is odd about them.

    One row of the text annotations has the instance "1 (copy)", one listed video is missed, masks are transposed and
    lose their first dimension where a frame has one instance.
    Arguments and errors are those of `shapes_ytvos.write_ytvos`; H.264 also needs an even height and width.
    """
    counts = choose_counts(num_videos, num_valid_videos, seed, num_workers)
    for name in ("height", "width"):
        if getattr(settings, name) % 2:
            raise ValueError(f"{name} is {getattr(settings, name)}; H.264 needs an even one")
    description = {"layout": "a2d", "seed": seed, "num_videos": counts, **vars(settings)}
    with new_folder(root, description, overwrite=overwrite) as folder:
        (folder / "Release" / "clips320H").mkdir(parents=True)
        records = write_videos(partial(_write_video, folder, settings, seed), counts, num_workers)
        rows, queries = [], []
        for split, videos in records.items():
            for name, label, num_annotated, sentences in videos:
                size = [settings.height, settings.width]
                seconds = [0, f"{settings.num_frames / FRAME_RATE:.2f}"]
                rows.append([name, label, *seconds, *size, settings.num_frames, num_annotated, _SUBSETS[split]])
                queries += [[name, instance, sentence] for instance, sentence in sentences]
        rows.append([_MISSED, 1, 0, 1, settings.height, settings.width, settings.num_frames, 0, 0])
        queries += [[_MISSED, 0, "a shape that nobody has seen"], [queries[0][0], "1 (copy)", queries[0][2]]]
        _write_csv(folder / "Release" / "videoset.csv", rows)
        texts = folder / "text_annotations"
        _write_csv(texts / "a2d_annotation.txt", [["video_id", "instance_id", "query"], *queries])
        (texts / "a2d_missed_videos.txt").write_text(f"{_MISSED}\n")
    num_expressions = sum(len(sentences) for videos in records.values() for *_, sentences in videos)
    return count_written(records, "videos", num_expressions)


def _write_video(
    folder: Path, settings: VideoSettings, seed: int, job: tuple[str, int]
) -> tuple[str, int, int, list[tuple[int, str]]]:
    """Writes one video; returns its name, its label, how many frames are annotated, and (instance, sentence) pairs."""
    split, index = job
    name = f"{'test' if split == 'valid' else split}_{index:05d}"
    video = generate_referred_video(video_generator(seed, split, index), settings, index)
    write_h264(folder / "Release" / "clips320H" / f"{name}.mp4", video.frames)
    masks = folder / "text_annotations" / "a2d_annotation_with_instances" / name
    masks.mkdir(parents=True)
    chosen = np.linspace(0, settings.num_frames - 1, NUM_ANNOTATED_FRAMES + 2)[1:-1].round().astype(int)
    annotated = [time for time in sorted(set(chosen.tolist())) if video.masks[time].any()]
    for time in annotated:
        _write_instances(masks / f"{time + 1:05d}.h5", video, time)
    # Sentences in capitals and ids from 0, as in the release; a query is in lower case only when it is read.
    sentences = [(i, options[0].capitalize()) for i, options in enumerate(video.sentences)]
    return name, SHAPES.index(video.shapes[0]) + 1, len(annotated), sentences


def write_h264(path: Path, frames: np.ndarray) -> None:
    """Writes (T, H, W, 3) uint8 RGB as H.264 in an mp4, with key frames every `KEY_FRAME_DISTANCE` frames."""
    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        # One thread and plain C: with its assembly x264 does not choose alike each time.
        options = {"preset": "ultrafast", "x264-params": "asm=0", "threads": "1", "crf": "16", "bf": "2"}
        options["g"] = str(KEY_FRAME_DISTANCE)
        stream = container.add_stream("libx264", rate=FRAME_RATE, options=options)
        stream.height, stream.width, stream.pix_fmt, stream.thread_count = *frames.shape[1:3], "yuv420p", 1
        for frame in frames:
            # OpenCV converts the colours: the conversion of FFmpeg does not give the same values each time
            planes = cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        container.mux(stream.encode())


def _write_instances(path: Path, video: ReferredVideo, time: int) -> None:
    """Writes ids, masks (transposed) and boxes of the objects that a frame shows."""
    ids = [i for i in range(len(video.shapes)) if (video.masks[time] == i + 1).any()]
    masks = np.stack([(video.masks[time] == i + 1).T for i in ids]).astype(np.uint8)
    boxes = np.array([mask_bounds(mask.T.astype(bool)) for mask in masks], np.float64).T
    with h5py.File(path, "w") as file:
        file.create_dataset("instance", data=np.array(ids, np.int64))
        file.create_dataset("reMask", data=masks if len(ids) > 1 else masks[0], compression="gzip")
        file.create_dataset("reBBox", data=boxes)


def _write_csv(path: Path, rows: list[list]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
