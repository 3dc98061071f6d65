"""Which frames of a video make a training clip (paper, section 4.1; the published sampling without its faults)."""

from __future__ import annotations

import numpy as np

LOCAL_REACH = 3  # frames between the anchor and its local companions, at most


def anchors(num_video_frames: int, num_frames: int) -> range:
    """Anchor frames of a video's training samples: every `num_frames`-th frame."""
    return range(0, num_video_frames, num_frames)


def sample_frames(num_video_frames: int, anchor: int, num_frames: int, rng: np.random.Generator) -> list[int]:
    """Draw the frames of a clip around an anchor.

    The anchor, one frame 1 to 3 before it, one 1 to 3 after it, the others from outside that stretch. With two frames,
    one of the two companions is drawn. Near the ends of a video the missing companion is replaced by a frame from
    outside. Frames are distinct when the video has enough of them; when not, each is taken equally often, give or take
    one.

    Args:
        num_video_frames: frames of the video.
        anchor: index of the frame that must be in the clip.
        num_frames: frames T of the clip.
        rng: source of every random choice.

    Returns:
        T indices, sorted.

    Raises:
        ValueError: the anchor is not in the video, or `num_frames` is not positive.
    """
    if num_frames < 1 or not 0 <= anchor < num_video_frames:
        raise ValueError(f"no clip of {num_frames} frames around frame {anchor} of {num_video_frames}")
    if num_video_frames <= num_frames:
        return _repeated(num_video_frames, num_frames, rng)
    before = max(0, anchor - int(rng.integers(1, LOCAL_REACH + 1)))
    after = min(num_video_frames - 1, anchor + int(rng.integers(1, LOCAL_REACH + 1)))
    companions = [frame for frame in (before, after) if frame != anchor]
    if num_frames <= len(companions):
        companions = list(rng.choice(companions, size=num_frames - 1, replace=False))
    chosen = [anchor, *companions]
    outside = [*range(before), *range(after + 1, num_video_frames)]
    inside = [frame for frame in range(before, after + 1) if frame not in chosen]
    for pool in (outside, inside):
        count = min(num_frames - len(chosen), len(pool))
        chosen.extend(rng.choice(pool, size=count, replace=False) if count else [])
    return sorted(int(frame) for frame in chosen)


def _repeated(num_video_frames: int, num_frames: int, rng: np.random.Generator) -> list[int]:
    rounds, rest = divmod(num_frames, num_video_frames)
    extra = rng.choice(num_video_frames, size=rest, replace=False)
    return sorted([*range(num_video_frames)] * rounds + [int(frame) for frame in extra])
