"""A2D-Sentences as its owners distribute it: which sentence is about which instance in which frames.

Release/clips320H/<video>.mp4, Release/videoset.csv
text_annotations/a2d_annotation.txt, a2d_missed_videos.txt, a2d_annotation_with_instances/<video>/%05d.h5
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from datasets.annotated_frames import FrameSample, caption_of
from datasets.files import read_csv, read_text
from util.submission import check_name

logger = logging.getLogger(__name__)

SUBSETS = {"train": "0", "test": "1"}
COPIED_INSTANCE = "1 (copy)"  # a slip of the release: the row repeats another
_VIDEO_COLUMNS = 9


@dataclass(frozen=True)
class A2DRelease:
    """The two trees below one folder.

    Attributes:
        root: that folder.
    """

    root: Path

    def samples(self, split: str, progress: Callable = iter) -> Iterator[FrameSample]:
        """Every (sentence, annotated frame) of a split in which the sentence's instance appears.

        Args:
            split: `train` or `test`.
            progress: wraps the list of sentences.

        Raises:
            FileNotFoundError, ValueError: a file is missing or malformed; the message names it.
        """
        frames: dict[str, dict[int, list[int]]] = {}
        for video, instance, caption in progress(self.queries(split)):
            if video not in frames:
                frames[video] = self.annotated_frames(video)
            for frame, instances in frames[video].items():
                if instance in instances:
                    yield make_sample(caption, video, frame, instance)

    def queries(self, split: str) -> list[tuple[str, int, str]]:
        """(video, instance, sentence) of a split, in the order of the file."""
        videos, path = self.videos(split), annotations_root(self.root).parent / "a2d_annotation.txt"
        queries = []
        for number, row in read_csv(path)[1:]:  # the first is a header
            if len(row) != 3:
                raise ValueError(f"{path}, line {number}: not a video, an instance and a query but {row!r}")
            video, instance, query = row
            if video not in videos or instance == COPIED_INSTANCE:
                continue
            if not instance.strip().isdecimal():
                raise ValueError(f"{path}, line {number}: the instance {instance!r} is no number")
            queries.append((video, int(instance), caption_of(query, f"{path}, line {number}")))
        return queries

    def videos(self, split: str) -> set[str]:
        """Names of a split's videos, without those that the text annotations missed."""
        path = self.root / "Release" / "videoset.csv"
        rows = [row for _, row in read_csv(path)]
        if short := [row for row in rows if len(row) != _VIDEO_COLUMNS]:
            raise ValueError(f"{path}: a row has {len(short[0])} columns, not {_VIDEO_COLUMNS}: {short[0]!r}")
        missed = set(read_text(annotations_root(self.root).parent / "a2d_missed_videos.txt").split())
        names = {check_name(row[0].strip(), f"{path}: video") for row in rows if row[8].strip() == SUBSETS[split]}
        return names - missed

    def annotated_frames(self, video: str) -> dict[int, list[int]]:
        """{number of an annotated frame, from 1: instances in it} of a video, frames in order."""
        folder = annotations_root(self.root) / video
        paths = sorted(folder.glob("*.h5"))
        if not paths:
            raise FileNotFoundError(
                f"{folder}: no such folder or no .h5 files in it; unpack the text annotations again"
            )
        if strange := [path for path in paths if not path.stem.isdecimal()]:
            raise ValueError(f"{strange[0]}: the name of an annotation is the number of its frame")
        return {int(path.stem): read_instances(path) for path in paths}


def annotations_root(root: Path) -> Path:
    """Where the masks lie."""
    return root / "text_annotations" / "a2d_annotation_with_instances"


def video_path(root: Path, video: str) -> Path:
    """Where a video lies."""
    return root / "Release" / "clips320H" / f"{video}.mp4"


def mask_path(root: Path, video: str, frame: int) -> Path:
    """Where the masks of a frame (from 1) lie."""
    return annotations_root(root) / video / f"{frame:05d}.h5"


def make_sample(caption: str, video: str, frame: int, instance: int) -> FrameSample:
    """A sample, named as in the ground truth."""
    return FrameSample(video, frame, caption, f"v_{video}_f_{frame}_i_{instance}", instance)


def read_instances(path: Path) -> list[int]:
    """Ids of the instances of a frame. Raises FileNotFoundError or ValueError."""
    return _read_h5(path, lambda file: [int(i) for i in np.ravel(file["instance"][()])])


def read_instance_mask(path: Path, instance: int) -> np.ndarray:
    """The mask of one instance, (h, w) bool.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: it is damaged, or the instance is not in it.
    """
    ids = read_instances(path)
    if instance not in ids:
        raise ValueError(f"{path}: has no instance {instance}, only {ids}")

    def read(file: h5py.File) -> np.ndarray:
        masks = file["reMask"]
        if masks.ndim == 2 and len(ids) == 1:
            return masks[()].T  # stored as (w, h)
        if masks.ndim != 3 or masks.shape[0] != len(ids):
            raise ValueError(f"{len(ids)} instances and masks of shape {masks.shape}")
        return masks[ids.index(instance)].T

    return np.ascontiguousarray(_read_h5(path, read) > 0)


def _read_h5(path: Path, read: Callable):
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such annotation; unpack the text annotations again")
    try:
        with h5py.File(path, "r") as file:
            return read(file)
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: damaged annotation ({error}); unpack the text annotations again") from error
