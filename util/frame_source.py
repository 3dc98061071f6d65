"""Where the frames of a video come from, and sources that are made of arrays or of other sources."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from util.pictures import RGB, decode_picture, encode_picture
from util.spool import Spool

DEFAULT_RATE = 10.0  # frames per second of what has no clock: folders, pictures, arrays
_NO_FRAMES = "the video has no frames; give at least one (h, w, 3) uint8 array"


@dataclass(frozen=True)
class TimedFrame:
    """A frame: `image` (h, w, 3) uint8 RGB and its `time` in seconds from the first."""

    image: RGB
    time: float


class FrameSource:
    """Where frames come from. `frames` may be called again and gives the same, unless `replayable` is False.

    Attributes:
        name: for people and for the names of files.
        file: name of the file with its suffix, which tells it from others of its `name`; empty where there is none.
        rate: frames per second, nominal where the times of frames vary.
        num_frames: None where it cannot be known before reading; an estimate where only a header says it.
        replayable: whether the frames can be read a second time.
    """

    name: str = "video"
    file: str = ""
    rate: float = DEFAULT_RATE
    num_frames: int | None = None
    replayable: bool = True

    def frames(self) -> Iterator[TimedFrame]:
        """The frames in order."""
        raise NotImplementedError


class Arrays(FrameSource):
    """Frames that are in memory, or that an iterator makes; those of an iterator can be read once only."""

    def __init__(self, images: Sequence[RGB] | RGB | Iterable[RGB], rate: float = DEFAULT_RATE) -> None:
        self._images, self.rate = images, rate
        self.replayable = hasattr(images, "__len__") and hasattr(images, "__getitem__")
        if self.replayable:
            self.num_frames = len(images)
            if not self.num_frames:
                raise ValueError(_NO_FRAMES)

    def frames(self) -> Iterator[TimedFrame]:
        """The arrays, checked.

        Raises:
            ValueError: there is no frame, or one is no (h, w, 3) uint8 array, or of another size than the first.
        """
        size = None
        for i, image in enumerate(self._images):
            image = np.asarray(image)
            if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8 or 0 in image.shape:
                raise ValueError(f"frame {i} is {image.shape} {image.dtype}; a frame is (h, w, 3) uint8 RGB")
            size = size or image.shape
            if image.shape != size:
                raise ValueError(f"frame {i} is {image.shape[:2]} but the first is {size[:2]}; frames have one size")
            yield TimedFrame(image, i / self.rate)
        if size is None:
            raise ValueError(_NO_FRAMES)


class Limited(FrameSource):
    """The first frames of another source. Raises ValueError when `max_frames` is not positive."""

    def __init__(self, source: FrameSource, max_frames: int) -> None:
        if max_frames < 1:
            raise ValueError(f"max_frames is {max_frames}; it must be positive")
        self._source, self._max_frames = source, max_frames
        self.name, self.file, self.rate, self.replayable = source.name, source.file, source.rate, source.replayable
        self.num_frames = None if source.num_frames is None else min(source.num_frames, max_frames)

    def frames(self) -> Iterator[TimedFrame]:
        """They."""
        yield from islice(self._source.frames(), self._max_frames)


class Recorded(FrameSource):
    """Keeps what a source gives that can be read once only, so that it can be read again; on disk, not in memory."""

    def __init__(self, source: FrameSource) -> None:
        self._source, self._spool, self._times = source, Spool(), []
        self.name, self.file, self.rate, self.num_frames = source.name, source.file, source.rate, source.num_frames
        self._whole = False

    def frames(self) -> Iterator[TimedFrame]:
        """The frames; the first time from the source, then from the record."""
        if self._whole or self._times:
            for i, time in enumerate(self._times):
                yield TimedFrame(decode_picture(self._spool[i]), time)
            return
        for frame in self._source.frames():
            self._spool.append(encode_picture(frame.image))
            self._times.append(frame.time)
            yield frame
        self._whole, self.num_frames = True, len(self._times)

    def frame(self, index: int) -> TimedFrame:
        """Any frame that has been read. Raises IndexError for others."""
        return TimedFrame(decode_picture(self._spool[index]), self._times[index])
