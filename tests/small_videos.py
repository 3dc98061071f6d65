"""Video files of a few small frames, sound ones and odd ones."""

from __future__ import annotations

import struct
from pathlib import Path

import av
import numpy as np

from util.video_writer import VideoWriter

RATE = 10.0


def moving_square(num_frames: int = 6, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """(T, h, w, 3) uint8: a red square goes right, one step a frame; the upper left corner is white."""
    frames = np.full((num_frames, *size, 3), (20, 40, 60), dtype=np.uint8)
    frames[:, :8, :8] = 255
    for t in range(num_frames):
        left = 10 + 4 * t % max(size[1] - 30, 1)
        frames[t, 20:36, left : left + 16] = (220, 30, 30)
    return frames


def write_mp4(path: Path, frames: np.ndarray, times: list[float] | None = None) -> Path:
    """H.264, nearly without loss."""
    with VideoWriter(path, RATE, quality=8) as writer:
        for t, frame in enumerate(frames):
            writer.write(frame, times[t] if times else t / RATE)
    return path


def write_with(path: Path, frames: np.ndarray, codec: str, pixels: str, **options: str) -> Path:
    """Any container and codec that FFmpeg writes; `options` are the container's."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], pixels
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format=pixels)))
        container.mux(stream.encode())
    return path


def write_encrypted(path: Path) -> Path:
    """An MP4 under Common Encryption, as streaming services give it out."""
    key = {"encryption_key": "76a6c65c5ea762046bd749a2e632ccbb", "encryption_kid": "a7e61c373e219033c21091fa607bf3b8"}
    return write_with(path, moving_square(), "libx264", "yuv420p", encryption_scheme="cenc-aes-ctr", **key)


def write_sound(path: Path) -> Path:
    """A file with sound only."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_without_frames(path: Path) -> Path:
    """A sound MP4 with a video stream of no frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    return path


def turn(path: Path) -> Path:
    """Mark an MP4 as to be turned by 90 degrees clockwise when shown, as phones do: the matrix of its `tkhd` box."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    data[start : start + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 48 << 16, 0, 1 << 30)
    path.write_bytes(data)
    return path
