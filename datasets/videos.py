"""Whole videos, for evaluation and inference."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datasets.ytvos import Expression, YTVOSReader


class Video:
    """A video with its expressions; its pixels are read when they are asked for.

    Args:
        reader: where it is read from.
        name: its name.
        expressions: the sentences about it.
    """

    def __init__(self, reader: YTVOSReader, name: str, expressions: Sequence[Expression]) -> None:
        self._reader, self.name, self.expressions = reader, name, tuple(expressions)
        self.frame_names = reader.videos[name]

    def __repr__(self) -> str:
        return f"Video({self.name!r}, {len(self)} frames, {len(self.expressions)} expressions)"

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.frame_names)

    @property
    def size(self) -> tuple[int, int]:
        """Original (h, w), from the header of the first frame."""
        return self._reader.frame_size(self.name, self.frame_names[0])

    @property
    def has_masks(self) -> bool:
        """Whether `masks` can be read."""
        return self._reader.has_annotations

    def windows(self, window: int) -> Iterator[Tensor]:
        """The frames in order, at most `window` of them in memory at a time.

        Yields:
            (t, h, w, 3) uint8 RGB, t = `window` but for the last.

        Raises:
            FileNotFoundError: a frame is missing.
            ValueError: a frame is damaged or of another size than the first, or `window` is not positive.
        """
        if window < 1:
            raise ValueError(f"test.window is {window}; it must be positive")
        size = self.size
        for start in range(0, len(self), window):
            frames = self._reader.read_frames(self.name, self.frame_names[start : start + window])
            if frames.shape[1:3] != size:
                raise ValueError(
                    f"{self._reader.frame_path(self.name, self.frame_names[start])} is {frames.shape[1]} x "
                    f"{frames.shape[2]} (h x w) but the video's first frame is {size[0]} x {size[1]}; "
                    "all frames of a video must have one size, resize them"
                )
            yield torch.from_numpy(frames)

    def frames_at(self, indices: Iterable[int]) -> dict[int, np.ndarray]:
        """Some frames by their index, (h, w, 3) uint8 RGB each; no other is read. Raises as `windows` does."""
        indices = [int(index) for index in indices]
        frames = self._reader.read_frames(self.name, [self.frame_names[index] for index in indices])
        return dict(zip(indices, frames, strict=True))

    def masks(self, frame_index: int) -> np.ndarray | None:
        """Object ids of one frame, (h, w) uint8; None when the split has no annotations.

        Raises as `YTVOSReader.read_mask` does.
        """
        if not self.has_masks:
            return None
        return self._reader.read_mask(self.name, self.frame_names[frame_index])

    def truths(self, frame_index: int) -> np.ndarray:
        """What each expression means in one frame, (E, h, w) bool. Raises as `YTVOSReader.read_objects` does."""
        return self._reader.read_objects(self.expressions, [self.frame_names[frame_index]])[:, 0]


class VideoDataset(Sequence[Video]):
    """The videos of a split in the order of its meta, each with its expressions.

    `videos[rank::world_size]` is the share of a process: every video is in exactly one share.

    Args:
        root: folder of the data set.
        split: its split.
        skip_broken: leave out expressions that are unusable, with a warning.
        reader: of the layout.

    Raises as `YTVOSReader` does.
    """

    def __init__(
        self, root: str | Path, split: str, *, skip_broken: bool = False, reader: type[YTVOSReader] = YTVOSReader
    ) -> None:
        self.reader = reader(root, split, skip_broken=skip_broken)
        by_video: dict[str, list[Expression]] = {name: [] for name in self.reader.videos}
        for expression in self.reader.expressions:
            by_video[expression.video].append(expression)
        self._videos = [Video(self.reader, name, expressions) for name, expressions in by_video.items()]

    @property
    def has_masks(self) -> bool:
        """Whether the split is annotated."""
        return self.reader.has_annotations

    def __len__(self) -> int:
        return len(self._videos)

    def __getitem__(self, index):  # an int gives a Video, a slice a list of them
        return self._videos[index]
