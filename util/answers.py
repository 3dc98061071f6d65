"""What sentences mean in a video: masks, boxes and scores over all frames, whether the object is there, files of it.

T frames, N queries, h x w the video's size; boxes are xyxy and points xy, in pixels of that size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from util.frame_source import FrameSource, TimedFrame
from util.mask_store import MaskStore
from util.presence import sentence_score
from util.visualize import Colour

if TYPE_CHECKING:
    from util.export import Progress, SavedFiles


@dataclass(frozen=True)
class Answer:
    """What one sentence means in a video.

    Attributes:
        sentence: it.
        colour: in pictures.
        scores: (T,) reference probability of the chosen query.
        boxes: (T, 4) of the object; of a propagated mask, its bounds.
        present: (T,) bool, whether the object is found in each frame: its score is high enough, its mask not empty.
        queries: (T,) index of the chosen query.
        query_scores: (T, N) of every query.
        query_boxes: (T, N, 4) of every query.
        reference_points: (T, N, 2) of every query, as they entered the last decoder layer.
        raw_masks: before `present` empties those of frames without the object.
    """

    sentence: str
    colour: Colour
    scores: NDArray[np.float32]
    boxes: NDArray[np.float32]
    present: NDArray[np.bool_]
    queries: NDArray[np.int64]
    query_scores: NDArray[np.float32]
    query_boxes: NDArray[np.float32]
    reference_points: NDArray[np.float32]
    raw_masks: MaskStore

    @property
    def score(self) -> float:
        """Of the sentence: the highest mean over some consecutive frames (`util/presence.py`)."""
        return sentence_score(self.scores)

    @property
    def found(self) -> bool:
        """Whether the object is in any frame."""
        return bool(self.present.any())

    def mask(self, frame: int) -> NDArray[np.bool_]:
        """(h, w) bool, empty where the object is not found."""
        return self.raw_masks[frame] if self.present[frame] else np.zeros(self.raw_masks.size, dtype=bool)

    def masks(self) -> NDArray[np.bool_]:
        """(T, h, w) bool, all at once; `mask` takes no memory for a long video."""
        return np.stack([self.mask(t) for t in range(len(self.scores))])

    def verdict(self) -> str:
        """One line for people."""
        if not self.found:
            return f'not there: "{_short(self.sentence)}" (score {self.score:.2f}); its masks are empty'
        shown = int(self.present.sum())
        where = "in all" if shown == len(self.present) else f"in {shown} of"
        return f'found: "{_short(self.sentence)}" (score {self.score:.2f}) {where} {len(self.present)} frames'


@dataclass(frozen=True)
class Segmentation:
    """What several sentences mean in a video.

    Attributes:
        source: where its frames can be read again.
        size: (h, w).
        times: (T,) seconds of the frames from the first.
        answers: one per sentence.
    """

    source: FrameSource
    size: tuple[int, int]
    times: NDArray[np.float64]
    answers: tuple[Answer, ...]

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.times)

    def frames(self) -> Iterator[TimedFrame]:
        """The frames, read again."""
        yield from islice(self.source.frames(), len(self))

    def save(self, folder: str | Path, *, masks: bool = True, progress: Progress | None = None) -> SavedFiles:
        """Write overlay video, masks, boxes and scores, and a contact sheet.

        Args:
            folder: made when missing; what an earlier call left there is replaced.
            masks: also write the PNG of every mask.
            progress: called with the number of frames that were written.

        Raises:
            FileExistsError: the folder holds other things under these names.
        """
        from util.export import save  # it needs these types

        return save(self, Path(folder), masks=masks, progress=progress)

    def show(self, num_frames: int = 6) -> Image.Image:
        """A contact sheet as a Pillow image, which a notebook displays; `.show().show()` opens a viewer."""
        from util.export import contact_sheet

        return Image.fromarray(contact_sheet(self, num_frames))


def _short(sentence: str, length: int = 80) -> str:
    return sentence if len(sentence) <= length else f"{sentence[: length - 3]}..."
