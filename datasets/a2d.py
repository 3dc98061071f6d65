"""Reader of A2D-Sentences with one annotated frame a sample, as scripts/prepare_a2d.py or others list them.

<root>/a2d_sentences_single_frame_{train,test}_annotations.json     [query, video, frame, instance], ...
<root>/a2d_sentences_test_annotations_in_coco_format.json
<root>/Release/clips320H/<video>.mp4
<root>/text_annotations/a2d_annotation_with_instances/<video>/%05d.h5
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets.a2d_release import SUBSETS, make_sample, mask_path, read_instance_mask, video_path
from datasets.annotated_frames import AnnotatedFrameReader, FrameSample, caption_of, read_sample_list
from datasets.video_frames import FrameIndex, decode_frames, index_frames
from util.submission import check_name

logger = logging.getLogger(__name__)


def samples_path(root: Path, split: str) -> Path:
    """Where a split's samples are listed."""
    return root / f"a2d_sentences_single_frame_{split}_annotations.json"


def truth_path(root: Path) -> Path:
    """Where the ground truth of the test split lies."""
    return root / "a2d_sentences_test_annotations_in_coco_format.json"


class A2DReader(AnnotatedFrameReader):
    """A split of A2D-Sentences.

    Args:
        root: folder of the data set.
        split: `train` or `test`.
        cache_bytes: decoded frames that are kept in memory.

    Raises:
        FileNotFoundError: the list of samples is missing.
        ValueError: it is damaged, a name in it would leave the folder, or there is no such split.
    """

    def __init__(self, root: str | Path, split: str, *, cache_bytes: int = 0) -> None:
        root = Path(root)
        if split not in SUBSETS:
            raise ValueError(f"A2D-Sentences has the splits {' and '.join(SUBSETS)}, not {split!r}")
        samples = read_samples(samples_path(root, split))
        super().__init__(root, split, samples, truth_path(root), cache_bytes)
        self._indices: dict[str, FrameIndex] = {}

    def num_frames(self, sample: FrameSample) -> int:
        """Frames of the sample's video; they are counted once."""
        return len(self._index(sample.video))

    def read_mask(self, sample: FrameSample) -> np.ndarray:
        """The object in the annotated frame, (h, w) bool; read from its compressed file each time."""
        assert sample.instance is not None
        return read_instance_mask(mask_path(self.root, sample.video, sample.frame), sample.instance)

    def decode(self, sample: FrameSample, indices: Sequence[int]) -> dict[int, np.ndarray]:
        """Frames by number, from 0."""
        return decode_frames(video_path(self.root, sample.video), self._index(sample.video), indices)

    def _index(self, video: str) -> FrameIndex:
        if video not in self._indices:
            self._indices[video] = index_frames(video_path(self.root, video))
        return self._indices[video]


def read_samples(path: Path) -> list[FrameSample]:
    """The samples that a file lists. Raises FileNotFoundError or ValueError."""
    return read_sample_list(path, _sample, "scripts/prepare_a2d.py")


def _sample(entry: Any, where: str) -> FrameSample:
    try:
        query, video, frame, instance = entry
        frame, instance = int(frame), int(instance)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{where} is not [query, video, frame, instance] but {entry!r}") from error
    if frame < 1:
        raise ValueError(f"{where}: frames are numbered from 1, not {frame}")
    return make_sample(caption_of(query, where), check_name(video, f"{where}: video"), frame, instance)
