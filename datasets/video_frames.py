"""Frames of a video file by number: found by their time stamps and decoded from the nearest key frame before them."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from util.video_file import FORMATS


@dataclass(frozen=True)
class FrameIndex:
    """Which frames a video file has, from its packets alone.

    Attributes:
        times: (F,) presentation time stamps, rising.
        key_times: those of key frames, rising.
    """

    times: tuple[int, ...]
    key_times: tuple[int, ...]

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.times)


def index_frames(path: Path) -> FrameIndex:
    """Look through a video file without decoding it.

    Raises:
        FileNotFoundError: it is missing.
        ValueError: it is no readable video; the message names it.
    """
    times, keys = [], []
    with _Opened(path) as container:
        for packet in container.demux(container.streams.video[0]):
            if packet.size == 0 or packet.is_discard:  # the end, and what an edit list cuts off
                continue
            if packet.pts is None:
                raise ValueError(f"{path}: frames without time stamps; rewrite it (ffmpeg -i IN -c:v libx264 OUT)")
            times.append(packet.pts)
            if packet.is_keyframe:
                keys.append(packet.pts)
    if not times:
        raise ValueError(f"{path}: a video without frames; copy or unpack it again")
    return FrameIndex(tuple(sorted(times)), tuple(sorted(keys)))


def decode_frames(path: Path, index: FrameIndex, numbers: Sequence[int]) -> dict[int, np.ndarray]:
    """Decode some frames of a video file.

    Args:
        path: the file.
        index: its index.
        numbers: of the frames wanted, from 0; in any order, repeated or not.

    Returns:
        {number: (h, w, 3) uint8 RGB}.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: it is damaged; the message names it.
        IndexError: the video has no such frame.
    """
    wanted = sorted({index.times[number]: number for number in numbers}.items())
    found: dict[int, np.ndarray] = {}
    with _Opened(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1  # loaders have a process for each core already
        decoding: Iterator[av.VideoFrame] | None = None
        reached: int | None = None  # time stamp up to which `decoding` has come
        for time, number in wanted:
            key = bisect.bisect_right(index.key_times, time) - 1
            # Decoding on is cheaper than a seek back to the key frame that was passed already.
            if decoding is None or reached is None or (key >= 0 and index.key_times[key] > reached):
                container.seek(index.key_times[key] if key >= 0 else 0, stream=stream, backward=True)
                decoding = container.decode(stream)
            frame = next((frame for frame in decoding if frame.pts is not None and frame.pts >= time), None)
            if frame is None or frame.pts != time:  # a seek that overshot: from the start, which always leads there
                container.seek(0, stream=stream, backward=True)
                decoding = container.decode(stream)
                frame = next((frame for frame in decoding if frame.pts is not None and frame.pts >= time), None)
            if frame is None or frame.pts != time or frame.is_corrupt:
                raise ValueError(
                    f"{path}: frame {number + 1} of {len(index)} cannot be decoded; copy or unpack it again"
                )
            reached = time
            found[number] = frame.to_ndarray(format="rgb24")
    return found


class _Opened:
    """An open container whose errors name the file and the cure."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> av.container.InputContainer:
        if not self._path.is_file():
            raise FileNotFoundError(f"{self._path}: no such video; unpack the data set again")
        try:
            # a whole path is no protocol of FFmpeg, and a playlist, which leads to other files, no format
            self._container = av.open(str(self._path.resolve()), options={"format_whitelist": FORMATS})
        except (av.error.FFmpegError, OSError) as error:
            raise self._explained(error) from error
        if not self._container.streams.video:
            self._container.close()
            raise ValueError(f"{self._path}: holds no video; copy or unpack it again")
        return self._container

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._container.close()
        if isinstance(error, av.error.FFmpegError):
            raise self._explained(error) from error

    def _explained(self, error: BaseException) -> ValueError:
        return ValueError(f"{self._path}: damaged or no video ({error}); copy or unpack it again")
