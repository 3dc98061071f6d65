"""Any video as frames in order: a file, a folder of frames, one picture, a camera, arrays. Frames are (h, w, 3) uint8
RGB, upright, all of one size, and are read when they are asked for.
"""

from __future__ import annotations

import io
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from util.spool import Spool

logger = logging.getLogger(__name__)

RGB = NDArray[np.uint8]
VideoLike = "str | os.PathLike[str] | Sequence[RGB] | RGB | Iterable[RGB] | FrameSource"

PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"}
# Demuxers of single files. Playlists (HLS, DASH, concat) name other files and addresses, which no upload may reach.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,apng,mpegts,mpeg,mpegvideo,m4v,h264,hevc,av1,obu,ivf,flv,asf,ogg,mxf,nut,"
    "dv,rm,yuv4mpegpipe,mjpeg,wav,aac,mp3,flac"
)
DEFAULT_RATE = 10.0  # frames per second of what has no clock: folders, pictures, arrays
_PROBE_BYTES = 4 << 20  # of each end of a file, searched for the marks of encryption
_UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


@dataclass(frozen=True)
class TimedFrame:
    """A frame: `image` (h, w, 3) uint8 RGB and its `time` in seconds from the first."""

    image: RGB
    time: float


class FrameSource:
    """Where frames come from. `frames` may be called again and gives the same, unless `replayable` is False.

    Attributes:
        name: for people and for the names of files.
        rate: frames per second, nominal where the times of frames vary.
        num_frames: None where it cannot be known before reading; an estimate where only a header says it.
        replayable: whether the frames can be read a second time.
    """

    name: str = "video"
    rate: float = DEFAULT_RATE
    num_frames: int | None = None
    replayable: bool = True

    def frames(self) -> Iterator[TimedFrame]:
        """The frames in order."""
        raise NotImplementedError


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
        self.name = self.path.stem
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


class FrameFolder(FrameSource):
    """A folder of pictures, in the order of the numbers in their names.

    Raises:
        ValueError: there is none, or (while reading) one is damaged or of another size.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        folder = Path(path)
        self.paths = sorted((p for p in folder.iterdir() if p.suffix.lower() in PICTURES), key=_natural)
        self.paths = [p for p in self.paths if not p.name.startswith(".")]
        self.name, self.num_frames = folder.resolve().name or "frames", len(self.paths)
        if not self.paths:
            raise ValueError(
                f"{path}: holds no pictures ({', '.join(sorted(PICTURES))}); give the folder of the frames"
            )

    def frames(self) -> Iterator[TimedFrame]:
        """Read the pictures."""
        size = None
        for i, path in enumerate(self.paths):
            image = read_image(path)
            size = size or image.shape[:2]
            if image.shape[:2] != size:
                raise ValueError(
                    f"{path} is {image.shape[0]} x {image.shape[1]} (h x w) but {self.paths[0].name} is {size[0]} x "
                    f"{size[1]}; all frames of a video must have one size, resize them"
                )
            yield TimedFrame(image, i / self.rate)


class Picture(FrameSource):
    """One picture, a video of one frame."""

    num_frames = 1

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._image = read_image(path)
        self.name = Path(path).stem

    def frames(self) -> Iterator[TimedFrame]:
        """The picture."""
        yield TimedFrame(self._image, 0.0)


class Arrays(FrameSource):
    """Frames that are in memory, or that an iterator makes; those of an iterator can be read once only."""

    def __init__(self, images: Sequence[RGB] | RGB | Iterable[RGB], rate: float = DEFAULT_RATE) -> None:
        self._images, self.rate = images, rate
        self.replayable = hasattr(images, "__len__") and hasattr(images, "__getitem__")
        if self.replayable:
            self.num_frames = len(images)
            if not self.num_frames:
                raise ValueError("the video has no frames; give at least one (h, w, 3) uint8 array")

    def frames(self) -> Iterator[TimedFrame]:
        """The arrays, checked.

        Raises:
            ValueError: a frame is no (h, w, 3) uint8 array, or of another size than the first.
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


class Camera(FrameSource):
    """A camera of this machine, until it ends or the user interrupts it (Ctrl-C).

    Args:
        index: 0 is the first camera.

    Raises:
        ValueError: there is no such camera, or it gives no picture.
    """

    replayable = False

    def __init__(self, index: int) -> None:
        self.name, self._index = f"camera{index}", index

    def frames(self) -> Iterator[TimedFrame]:
        """Frames as they come, with the time that the camera's clock gives them."""
        capture = cv2.VideoCapture(self._index)
        cure = "see that it is plugged in, permitted and free (camera:0 is the first, camera:1 the second)"
        try:
            if not capture.isOpened():
                raise ValueError(f"camera:{self._index} cannot be opened; {cure}")
            began, count = cv2.getTickCount(), 0
            while True:
                try:
                    readable, image = capture.read()
                except KeyboardInterrupt:
                    break
                if not readable:
                    break
                yield TimedFrame(
                    cv2.cvtColor(image, cv2.COLOR_BGR2RGB), (cv2.getTickCount() - began) / cv2.getTickFrequency()
                )
                count += 1
            if not count:
                raise ValueError(f"camera:{self._index} gives no picture; {cure}")
        finally:
            capture.release()


class Limited(FrameSource):
    """The first frames of another source."""

    def __init__(self, source: FrameSource, max_frames: int) -> None:
        self._source, self._max_frames = source, max_frames
        self.name, self.rate, self.replayable = source.name, source.rate, source.replayable
        self.num_frames = None if source.num_frames is None else min(source.num_frames, max_frames)

    def frames(self) -> Iterator[TimedFrame]:
        """They."""
        for _, frame in zip(range(self._max_frames), self._source.frames(), strict=False):
            yield frame


class Recorded(FrameSource):
    """Keeps what a source gives that can be read once only, so that it can be read again; on disk, not in memory."""

    def __init__(self, source: FrameSource) -> None:
        self._source, self._spool, self._times = source, Spool(), []
        self.name, self.rate, self.num_frames = source.name, source.rate, source.num_frames
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


def open_video(video: Any) -> FrameSource:
    """Frames of whatever a user calls a video.

    Args:
        video: path of a video file, of a folder of frames or of a picture; `camera:0`; a list or an array of frames
            (h, w, 3) uint8 RGB; an iterator of them; or a `FrameSource`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is none of these, or broken.
    """
    if isinstance(video, FrameSource):
        return video
    if not isinstance(video, str | os.PathLike):
        if hasattr(video, "numpy"):  # a tensor
            video = video.numpy()
        if isinstance(video, Iterable):
            return Arrays(video)
        raise ValueError(f"a video is a path, arrays or an iterator of arrays, not {type(video).__name__}")
    if camera := re.fullmatch(r"camera:(\d{1,3})", str(video)):
        return Camera(int(camera[1]))
    path = Path(video)
    if path.is_dir():
        return FrameFolder(path)
    if not path.is_file():
        raise FileNotFoundError(f"{video}: no such video; a file, a folder of frames, a picture, or camera:0 is wanted")
    return Picture(path) if path.suffix.lower() in PICTURES else VideoFile(path)


def read_image(path: str | os.PathLike[str]) -> RGB:
    """A picture, (h, w, 3) uint8 RGB, turned as its EXIF data asks.

    Raises:
        ValueError: it is damaged or no picture.
    """
    try:
        with Image.open(path) as image:
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except _UNREADABLE as error:
        raise ValueError(f"{path}: damaged, truncated or no picture ({error}); copy it again") from error


def encode_picture(image: RGB, quality: int = 95) -> bytes:
    """An image as JPEG, without chroma subsampling."""
    options = [
        cv2.IMWRITE_JPEG_QUALITY,
        quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]
    encoded, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    assert encoded
    return data.tobytes()


def decode_picture(data: bytes) -> RGB:
    """The inverse of `encode_picture`, up to JPEG's losses."""
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


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


def _natural(path: Path) -> list[tuple[int, int | str]]:
    """2.jpg before 10.jpg."""
    return [(0, int(part)) if part.isdigit() else (1, part.lower()) for part in re.split(r"(\d+)", path.name) if part]
