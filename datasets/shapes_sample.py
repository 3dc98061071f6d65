"""The sample clip of the demo: a generated video, made anew from its seed whenever it is wanted."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from datasets.shapes_scene import VideoSettings
from datasets.shapes_video import GeneratedVideo, generate_video
from util.frame_source import FrameSource, TimedFrame
from util.video_writer import VideoWriter

SEED = (2024, 75)
SETTINGS = VideoSettings(num_frames=36)
RATE = 12.0
# Each with the object it means; nothing in the clip is a green ring.
OBJECTS = {
    "the red square at the bottom": 4,
    "a big orange circle": 1,
    "the large yellow circle": 5,
    "the green ring": 0,
}
SENTENCES = tuple(OBJECTS)


class SampleClip(FrameSource):
    """A short video of coloured shapes."""

    name, rate, num_frames = "sample", RATE, SETTINGS.num_frames

    def frames(self) -> Iterator[TimedFrame]:
        """The frames."""
        for t, image in enumerate(_video().frames):
            yield TimedFrame(image, t / RATE)


def truth() -> list[np.ndarray]:
    """(T, h, w) bool for each of SENTENCES."""
    return [(_video().masks == object_id) & bool(object_id) for object_id in OBJECTS.values()]


def write_sample(path: Path) -> None:
    """Write the clip as a video file."""
    with VideoWriter(path, RATE, quality=12) as writer:
        for frame in SampleClip().frames():
            writer.write(frame.image, frame.time)


@functools.cache
def _video() -> GeneratedVideo:
    return generate_video(np.random.default_rng(SEED), SETTINGS, SEED[1])
