"""Generated videos for layouts in which every annotated object has sentences: the others become background."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from datasets.shapes_expressions import write_expressions
from datasets.shapes_scene import VideoSettings
from datasets.shapes_video import generate_video

_MAX_ATTEMPTS = 100
_ROUNDS = 3  # of writing sentences, so that an object has more than one


@dataclass(frozen=True)
class ReferredVideo:
    """A video whose objects are all referred to.

    Attributes:
        frames: (T, H, W, 3) uint8 RGB.
        masks: (T, H, W) uint8, ids 1 to O of the referred objects, 0 elsewhere.
        shapes: shape of each of the O objects.
        sentences: of each object, at least one.
    """

    frames: np.ndarray
    masks: np.ndarray
    shapes: tuple[str, ...]
    sentences: tuple[tuple[str, ...], ...]


def generate_referred_video(
    rng: np.random.Generator, settings: VideoSettings, index: int, *, in_first_frame: bool = False
) -> ReferredVideo:
    """Makes a video; all that is random comes from `rng`.

    Args:
        rng: source of every random choice.
        settings: size and number of frames.
        index: turns the kinds of expression round.
        in_first_frame: keep only objects that the first frame shows.
    """
    for _ in range(_MAX_ATTEMPTS):
        video = generate_video(rng, settings, index)
        sentences: dict[int, list[str]] = {}
        rounds = [video.expressions, *(write_expressions(rng, video.scene, video.visible) for _ in range(_ROUNDS - 1))]
        for expression in (expression for written in rounds for expression in written):
            known = sentences.setdefault(expression.object_id, [])
            if expression.sentence not in known:
                known.append(expression.sentence)
        kept = [object_id for object_id in sorted(sentences) if not in_first_frame or video.visible[0, object_id - 1]]
        if kept:
            break
    else:
        raise RuntimeError(f"no object is in the first frame of any video of {settings}; try larger frames")
    new_ids = np.zeros(256, np.uint8)
    new_ids[kept] = np.arange(1, len(kept) + 1)
    return ReferredVideo(
        video.frames,
        new_ids[video.masks],
        tuple(video.scene.looks[object_id - 1].shape for object_id in kept),
        tuple(tuple(sentences[object_id]) for object_id in kept),
    )
