"""Samples of which one frame is annotated (A2D-Sentences, JHMDB-Sentences), and what their readers have in common."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from datasets.cache import ByteCache
from datasets.coco_truth import Truth, read_truths
from datasets.files import read_json

Parsed = TypeVar("Parsed")


@dataclass(frozen=True)
class FrameSample:
    """A sentence about an object in one frame of a video.

    Attributes:
        video: name of the video.
        frame: number of the annotated frame, from 1.
        caption: the sentence in lower case, its spaces squeezed.
        image_id: name of the sample in the ground truth in COCO format.
        instance: id of the object in its annotation, None where there is one.
        folder: where the video lies (the action in JHMDB), empty where there is one place for all.
    """

    video: str
    frame: int
    caption: str
    image_id: str
    instance: int | None = None
    folder: str = ""

    @property
    def name(self) -> str:
        """For messages."""
        return self.image_id


class AnnotatedFrameReader(ABC):
    """A data set of `FrameSample`s.

    Args:
        root: folder of the data set.
        split: for messages.
        samples: all of them.
        truth_path: ground truth in COCO format.
        cache_bytes: decoded frames that are kept in memory, in this process.
    """

    def __init__(
        self, root: Path, split: str, samples: Sequence[FrameSample], truth_path: Path, cache_bytes: int
    ) -> None:
        self.root, self.split, self.samples, self.truth_path = root, split, list(samples), truth_path
        self._frames: ByteCache[np.ndarray] = ByteCache(cache_bytes)

    @abstractmethod
    def num_frames(self, sample: FrameSample) -> int:
        """Frames of the sample's video. Raises as `read_frames` does."""

    @abstractmethod
    def read_mask(self, sample: FrameSample) -> np.ndarray:
        """The object in the annotated frame, (h, w) bool.

        Raises:
            FileNotFoundError, ValueError: the annotation is missing or damaged; the message names the file.
        """

    @abstractmethod
    def decode(self, sample: FrameSample, indices: Sequence[int]) -> dict[int, np.ndarray]:
        """{index: (h, w, 3) uint8 RGB} of frames that are not in memory. Raises as `read_frames` does."""

    def read_frames(self, sample: FrameSample, indices: Sequence[int]) -> np.ndarray:
        """Frames of the sample's video, (T, h, w, 3) uint8 RGB.

        Args:
            sample: whose video is read.
            indices: of the frames, from 0.

        Raises:
            FileNotFoundError, ValueError: the video is missing or damaged; the message names the file.
        """
        key = (sample.folder, sample.video)
        frames = {index: self._frames.get((key, index)) for index in indices}
        if absent := [index for index, frame in frames.items() if frame is None]:
            decoded = self.decode(sample, absent)
            for index, frame in decoded.items():
                self._frames.put((key, index), frame)
            frames |= decoded
        sizes = {frame.shape for frame in frames.values()}
        if len(sizes) > 1:
            raise ValueError(f"video {sample.video}: its frames have several sizes ({sorted(sizes)}); resize them")
        return np.stack([frames[index] for index in indices])

    def read_window(self, sample: FrameSample, num_frames: int) -> tuple[np.ndarray, int]:
        """The T frames around the annotated one, clamped to the video, and the place of that one among them."""
        indices = window(sample.frame - 1, num_frames, self.num_frames(sample))
        return self.read_frames(sample, indices), indices.index(sample.frame - 1)

    @functools.cached_property
    def truths(self) -> list[Truth]:
        """Ground truth of each sample.

        Raises:
            FileNotFoundError, ValueError: the file is missing, damaged, or of other samples.
        """
        by_image = read_truths(self.truth_path)
        if absent := [sample for sample in self.samples if sample.image_id not in by_image]:
            raise ValueError(
                f"{self.truth_path}: has no {absent[0].image_id} ({len(absent)} samples without ground truth); it is "
                "of other samples, prepare both files again"
            )
        return [by_image[sample.image_id] for sample in self.samples]


def window(frame: int, num_frames: int, num_video_frames: int) -> list[int]:
    """T consecutive frames around one: from `frame - T // 2` up to `frame + (T + 1) // 2`, end excluded.

    Indices beyond the video are replaced by its first or last.

    Args:
        frame: index from 0.
        num_frames: T.
        num_video_frames: frames of the video.

    Raises:
        ValueError: the video has no such frame.
    """
    if not 0 <= frame < num_video_frames:
        raise ValueError(f"frame {frame + 1} is annotated in a video of {num_video_frames} frames")
    first = frame - num_frames // 2
    return [min(max(index, 0), num_video_frames - 1) for index in range(first, first + num_frames)]


def read_sample_list(path: Path, parse: Callable[[Any, str], Parsed], program: str) -> list[Parsed]:
    """The samples that a JSON file lists.

    Args:
        path: the file.
        parse: makes a sample of an entry and of where it stands, for messages.
        program: that writes the file.

    Raises:
        FileNotFoundError, ValueError: the file is missing or damaged, or lists nothing.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; {program} makes it from the release")
    content = read_json(path)
    if not isinstance(content, list) or not content:
        raise ValueError(f"{path}: not a list of samples; make it again with {program}")
    return [parse(entry, f"{path}: sample {number}") for number, entry in enumerate(content)]


def caption_of(text: Any, where: str) -> str:
    """A sentence in lower case, its spaces squeezed. Raises ValueError when it has no words."""
    caption = " ".join(text.lower().split()) if isinstance(text, str) else ""
    if not any(character.isalnum() for character in caption):
        raise ValueError(f"{where} has no words ({text!r}); give it a sentence or remove it")
    return caption
