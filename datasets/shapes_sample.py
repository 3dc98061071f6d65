"""The sample clip of the demo: a generated video, made anew from its seed whenever it is wanted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from datasets.shapes_scene import VideoSettings
from datasets.shapes_video import generate_video
from util.video_reader import FrameSource, TimedFrame
from util.video_writer import VideoWriter

SEED = (2024, 0)
SETTINGS = VideoSettings(num_frames=36, height=240, width=360)
RATE = 12.0
SENTENCES = ("the red square",)


class SampleClip(FrameSource):
    """A short video of coloured shapes."""

    name, rate, num_frames = "sample", RATE, SETTINGS.num_frames

    def __init__(self) -> None:
        self._frames = generate_video(np.random.default_rng(SEED), SETTINGS, SEED[1]).frames

    def frames(self) -> Iterator[TimedFrame]:
        """The frames."""
        for t, image in enumerate(self._frames):
            yield TimedFrame(image, t / RATE)


def write_sample(path: Path) -> None:
    """Write the clip as a video file."""
    with VideoWriter(path, RATE, quality=12) as writer:
        for frame in SampleClip().frames():
            writer.write(frame.image, frame.time)
