"""Video files, read by FFmpeg: what an upload may reach, and why a file cannot be read."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from util.frame_source import DEFAULT_RATE, FrameSource, TimedFrame
from util.pictures import RGB

logger = logging.getLogger(__name__)

# Demuxers of single files. Playlists (HLS, DASH, concat) name other files and addresses, which no upload may reach.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,apng,mpegts,mpeg,mpegvideo,m4v,h264,hevc,av1,obu,ivf,flv,asf,ogg,mxf,nut,"
    "dv,rm,yuv4mpegpipe,mjpeg,wav,aac,mp3,flac"
)
_PROBE_BYTES = 4 << 20  # of each end of a file, searched for the marks of encryption


class VideoFile(FrameSource):
    """A video file that FFmpeg reads: mp4, mov, avi, webm, gif and others.

    Turned as its rotation metadata asks. Frames keep their own times, so a variable rate stays what it is.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is empty, broken, or has no video.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.name, self.file = self.path.stem, self.path.name
        if self.path.stat().st_size == 0:
            raise ValueError(f"{path}: the file is empty; copy or download it again")
        with self._open() as container:
            stream = self._stream(container)
            self.rate = _plausible_rate(stream.average_rate or stream.guessed_rate)
            self.num_frames = stream.frames or _frames_by_duration(container, stream)

    def frames(self) -> Iterator[TimedFrame]:
        """Decode. A file that breaks off gives the frames before that, with a warning.

        Raises:
            ValueError: not one frame can be decoded.
        """
        count, size, start, problem = 0, None, 0.0, None
        with self._open() as container:
            stream = self._stream(container)
            stream.thread_type = "AUTO"
            frames = container.decode(stream)
            while True:
                try:
                    frame = next(frames)
                except StopIteration:
                    break
                except (av.error.FFmpegError, ValueError) as error:
                    problem = getattr(error, "strerror", None) or str(error)
                    break
                image = _upright(frame)
                size = size or image.shape[:2]
                if image.shape[:2] != size:  # streams may change their size; masks and overlay keep the first
                    image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
                time = frame.time if frame.time is not None else start + count / self.rate
                if count == 0:
                    start = time
                yield TimedFrame(image, time - start)
                count += 1
        if count == 0:
            raise ValueError(f"{self.path}: not one frame can be decoded{_because(self.path, problem)}")
        if problem:
            logger.warning("%s breaks off after %d frames (%s); these are used", self.path, count, problem)

    def _open(self) -> av.container.InputContainer:
        try:
            # A whole path cannot pass for a protocol of FFmpeg.
            return av.open(str(self.path.resolve()), mode="r", options={"format_whitelist": FORMATS})
        except (av.error.FFmpegError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ValueError(
                f"{self.path}: not a readable video{_because(self.path, reason)}; a video file (mp4, mov, avi, webm, "
                "gif), a folder of frames, a picture, or camera:0 is wanted"
            ) from error

    def _stream(self, container: av.container.InputContainer) -> av.video.stream.VideoStream:
        covers = av.stream.Disposition.attached_pic
        streams = [s for s in container.streams.video if not s.disposition & covers]  # a song's cover is no video
        if not streams:
            held = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
            raise ValueError(f"{self.path}: has no video, only {held}; choose a file with pictures")
        return streams[0]


def _upright(frame: av.VideoFrame) -> RGB:
    image = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4  # counter-clockwise, as np.rot90 counts
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def _plausible_rate(rate: Fraction | None) -> float:
    value = float(rate) if rate else DEFAULT_RATE
    return value if 0.1 <= value <= 1000 else DEFAULT_RATE


def _frames_by_duration(container: av.container.InputContainer, stream: Any) -> int | None:
    seconds = float(stream.duration * stream.time_base) if stream.duration else (container.duration or 0) / av.time_base
    rate = stream.average_rate
    return max(1, round(seconds * float(rate))) if rate and 0 < seconds < 1e7 else None


def _because(path: Path, reason: str | None) -> str:
    """Why a file could not be read, as far as it can be told."""
    if _looks_encrypted(path):
        return " because it is encrypted (DRM); give an unprotected copy"
    return f" ({reason}; broken, or in a format that FFmpeg does not know)" if reason else ""


def _looks_encrypted(path: Path) -> bool:
    """Whether an MP4 carries the boxes of Common Encryption (ISO/IEC 23001-7)."""
    with path.open("rb") as file:
        ends = file.read(_PROBE_BYTES)
        if b"ftyp" not in ends[:64]:
            return False
        file.seek(max(0, path.stat().st_size - _PROBE_BYTES), io.SEEK_SET)
        ends += file.read()
    return any(mark in ends for mark in (b"tenc", b"encv", b"senc"))
