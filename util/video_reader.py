"""Any video as frames in order: a file, a folder of frames, one picture, a camera, arrays. Frames are (h, w, 3) uint8
RGB, upright, all of one size, and are read when they are asked for.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2

from util.frame_source import Arrays, FrameSource, TimedFrame
from util.pictures import SUFFIXES, read_image
from util.video_file import VideoFile


class FrameFolder(FrameSource):
    """A folder of pictures, in the order of the numbers in their names.

    Raises:
        ValueError: there is none, or (while reading) one is damaged or of another size.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        folder = Path(path)
        self.paths = sorted((p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES), key=_natural)
        self.paths = [p for p in self.paths if not p.name.startswith(".")]
        self.name, self.num_frames = folder.resolve().name or "frames", len(self.paths)
        if not self.paths:
            raise ValueError(
                f"{path}: holds no pictures ({', '.join(sorted(SUFFIXES))}); give the folder of the frames"
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
        self.name, self.file = Path(path).stem, Path(path).name

    def frames(self) -> Iterator[TimedFrame]:
        """The picture."""
        yield TimedFrame(self._image, 0.0)


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
    return Picture(path) if path.suffix.lower() in SUFFIXES else VideoFile(path)


def _natural(path: Path) -> tuple[list[tuple[int, int | str]], str]:
    """2.jpg before 10.jpg; names that differ in zeros or letter case only, always in the same order."""
    parts = [part for part in re.split(r"(\d+)", path.name) if part]
    return [(0, int(part)) if part.isdecimal() else (1, part.lower()) for part in parts], path.name
