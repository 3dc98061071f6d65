"""Mask propagation, the post-process of the paper's table 5: from the frame with the highest score, its mask is carried
forward and backward through the video.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from util.pictures import RGB, decode_picture, encode_picture
from util.spool import Spool

Mask = NDArray[np.bool_]
ReadFrame = Callable[[int], RGB]


class MaskSequence(Protocol):
    """Masks by the index of their frame."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Mask: ...


class Propagator(Protocol):
    """Carries a mask from one frame to those after it, in the order they are given."""

    def walk(self, frames: Iterator[RGB], masks: Iterator[Mask]) -> Iterator[Mask]:
        """Masks of all frames but the first.

        Args:
            frames: the frame with the mask, then those that follow, each once.
            masks: what the model says of each of these frames; the first is the mask to carry.
        """
        ...


class FlowPropagator:
    """Carries a mask along the dense optical flow of OpenCV (DIS); needs no weights.

    Small errors of the flow add up, so where the model's own mask agrees with the carried one, it takes its place.

    Args:
        max_side: flow is computed on frames of this long side at most (pixels).
        agreement: intersection over union from which two masks agree.
    """

    def __init__(self, max_side: int = 512, agreement: float = 0.5) -> None:
        self.max_side, self.agreement = max_side, agreement

    def walk(self, frames: Iterator[RGB], masks: Iterator[Mask]) -> Iterator[Mask]:
        """See `Propagator`."""
        optical_flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        first = next(frames)
        previous, carried = self._grey(first), next(masks).astype(np.float32)
        y, x = np.mgrid[: first.shape[0], : first.shape[1]].astype(np.float32)
        for frame, own in zip(frames, masks, strict=True):
            grey = self._grey(frame)
            flow = optical_flow.calc(grey, previous, None)  # backward: where each pixel of this frame comes from
            scale = np.array([x.shape[1] / flow.shape[1], x.shape[0] / flow.shape[0]], dtype=np.float32)
            flow = cv2.resize(flow, x.shape[::-1], interpolation=cv2.INTER_LINEAR) * scale
            carried = cv2.remap(carried, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderValue=0)
            moved = carried > 0.5
            union = np.count_nonzero(moved | own)
            if union and np.count_nonzero(moved & own) >= self.agreement * union:
                carried, moved = own.astype(np.float32), own
            previous = grey
            yield moved

    def _grey(self, frame: RGB) -> NDArray[np.uint8]:
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        scale = self.max_side / max(grey.shape)
        return cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else grey


class FrameStore:
    """Frames on disk, read back in any order, which going backward through a video needs.

    Args:
        max_side: larger frames are kept at this long side (pixels).
    """

    def __init__(self, max_side: int = 1024) -> None:
        self._spool, self._max_side = Spool(), max_side

    def append(self, frame: RGB) -> None:
        """Keep a frame."""
        scale = self._max_side / max(frame.shape[:2])
        if scale < 1:
            frame = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        self._spool.append(encode_picture(frame))

    def __call__(self, index: int) -> RGB:
        """A frame, (h, w, 3) uint8."""
        return decode_picture(self._spool[index])


def propagate(
    propagator: Propagator, read_frame: ReadFrame, masks: MaskSequence, scores: Sequence[float]
) -> Iterator[tuple[int, Mask]]:
    """The masks of all frames of a video, carried from the one with the highest score among those that are not empty.

    Args:
        propagator: how.
        read_frame: the frame of an index, at the masks' size or smaller.
        masks: the model's, one per frame.
        scores: one per frame.

    Yields:
        (index, mask) of each frame once: forward from the best one, then backward from it. Nothing is yielded for
        frames that do not exist, and nothing at all where all masks are empty, which leaves them as they are.
    """
    order = sorted(range(len(masks)), key=lambda t: -scores[t])
    best = next((t for t in order if masks[t].any()), None)
    if best is None:
        return
    start = masks[best]
    yield best, start
    for indices in (range(best, len(masks)), range(best, -1, -1)):
        frames = (_fit(read_frame(t), start.shape) for t in indices)
        carried = propagator.walk(frames, (masks[t] for t in indices))
        yield from zip(indices[1:], carried, strict=True)


def _fit(frame: RGB, size: tuple[int, int]) -> RGB:
    return frame if frame.shape[:2] == size else cv2.resize(frame, size[::-1], interpolation=cv2.INTER_LINEAR)
