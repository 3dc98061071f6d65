"""H.264 in MP4 that browsers play: yuv420p, even sizes, the index before the pictures."""

from __future__ import annotations

import os
import uuid
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import numpy as np
from numpy.typing import NDArray

from util.disk import writing

_CLOCK = 90_000  # ticks a second, the one of MPEG


class VideoWriter:
    """Writes frames with their times. The file appears whole at the end of the context, or not at all.

    Args:
        path: of the .mp4; its folder must exist.
        rate: frames per second, nominal.
        quality: constant rate factor of x264; less is better and larger.
    """

    def __init__(self, path: str | os.PathLike[str], rate: float, quality: int = 20) -> None:
        self.path = Path(path)
        self._partial = self.path.with_name(f".{self.path.stem}.{uuid.uuid4().hex[:8]}.partial.mp4")
        self._rate, self._quality = Fraction(rate).limit_denominator(1001), quality
        self._container: av.container.OutputContainer | None = None
        self._last_tick = -1

    def __enter__(self) -> Self:
        return self

    def write(self, image: NDArray[np.uint8], time: float) -> None:
        """Add a frame (h, w, 3) uint8 RGB at `time` seconds, which rises. An odd side repeats its last line."""
        image = np.pad(image, ((0, image.shape[0] % 2), (0, image.shape[1] % 2), (0, 0)), mode="edge")
        if self._container is None:
            self._open(image.shape[1], image.shape[0])
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        self._last_tick = max(self._last_tick + 1, round(time * _CLOCK))  # two frames never share a tick
        frame.pts, frame.time_base = self._last_tick, Fraction(1, _CLOCK)
        for packet in self._stream.encode(frame):
            self._container.mux(packet)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._container is not None:
                if kind is None:
                    for packet in self._stream.encode():
                        self._container.mux(packet)
                self._container.close()
                if kind is None:
                    self._partial.replace(self.path)
        finally:
            self._partial.unlink(missing_ok=True)

    def _open(self, width: int, height: int) -> None:
        with writing(self.path, "free some space, or choose another folder"):
            self._container = av.open(str(self._partial), "w", format="mp4", options={"movflags": "+faststart"})
        self._stream = self._container.add_stream("libx264", rate=self._rate)
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        self._stream.options = {"preset": "veryfast", "crf": str(self._quality)}
        self._stream.codec_context.time_base = self._stream.time_base = Fraction(1, _CLOCK)
