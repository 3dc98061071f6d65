"""Reader of JHMDB-Sentences with one annotated frame a sample, as scripts/prepare_jhmdb.py or others list them.

<root>/jhmdb_sentences_samples_metadata.json      [video, frame path, mask path, number of frames, query], ...
<root>/jhmdb_sentences_gt_annotations_in_coco_format.json
<root>/Rename_Images/<action>/<video>/%05d.png
<root>/puppet_mask/<action>/<video>/puppet_mask.mat
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import scipy.io

from datasets.annotated_frames import AnnotatedFrameReader, FrameSample, caption_of, read_sample_list
from datasets.files import read_picture
from util.submission import check_name


def samples_path(root: Path) -> Path:
    """Where the samples are listed."""
    return root / "jhmdb_sentences_samples_metadata.json"


def truth_path(root: Path) -> Path:
    """Where the ground truth lies."""
    return root / "jhmdb_sentences_gt_annotations_in_coco_format.json"


def frames_folder(root: Path, action: str, video: str) -> Path:
    """Where a video's frames lie."""
    return root / "Rename_Images" / action / video


def mask_path(root: Path, action: str, video: str) -> Path:
    """Where a video's masks lie."""
    return root / "puppet_mask" / action / video / "puppet_mask.mat"


def make_sample(caption: str, action: str, video: str, frame: int) -> FrameSample:
    """A sample, named as in the ground truth."""
    return FrameSample(video, frame, caption, f"v_{video}_f_{frame}", folder=action)


class JHMDBReader(AnnotatedFrameReader):
    """JHMDB-Sentences, which has one split.

    Args:
        root: folder of the data set.
        split: `test`.
        cache_bytes: decoded frames that are kept in memory.

    Raises:
        FileNotFoundError: the list of samples is missing.
        ValueError: it is damaged, a name in it would leave the folder, or there is no such split.
    """

    def __init__(self, root: str | Path, split: str = "test", *, cache_bytes: int = 0) -> None:
        root = Path(root)
        if split != "test":
            raise ValueError(f"JHMDB-Sentences is only tested on, with the split test, not {split!r}")
        listed = read_samples(samples_path(root))
        super().__init__(root, split, [sample for sample, _ in listed], truth_path(root), cache_bytes)
        self._num_frames = {(sample.folder, sample.video): count for sample, count in listed}

    def num_frames(self, sample: FrameSample) -> int:
        """Frames of the sample's video, as listed."""
        return self._num_frames[sample.folder, sample.video]

    def read_mask(self, sample: FrameSample) -> np.ndarray:
        """The person in the annotated frame, (h, w) bool."""
        path = mask_path(self.root, sample.folder, sample.video)
        masks = read_masks(path)
        if sample.frame > masks.shape[2]:
            raise ValueError(f"{path}: has masks of {masks.shape[2]} frames, none of frame {sample.frame}")
        return np.ascontiguousarray(masks[:, :, sample.frame - 1])

    def decode(self, sample: FrameSample, indices: Sequence[int]) -> dict[int, np.ndarray]:
        """Frames by number, from 0; their files are numbered from 1."""
        folder = frames_folder(self.root, sample.folder, sample.video)
        return {index: read_picture(folder / f"{index + 1:05d}.png") for index in set(indices)}


def read_masks(path: Path) -> np.ndarray:
    """All masks of a video, (h, w, T) bool.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: it is damaged or holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; unpack the puppet masks again")
    try:
        masks = scipy.io.loadmat(path, variable_names=["part_mask"])["part_mask"]
    except Exception as error:  # scipy raises whatever the damage leads it to
        raise ValueError(f"{path}: damaged, or without part_mask ({error}); unpack the puppet masks again") from error
    if masks.ndim == 2:  # MATLAB drops a last dimension of 1
        masks = masks[:, :, None]
    if masks.ndim != 3:
        raise ValueError(f"{path}: part_mask has the shape {masks.shape}, not (h, w, frames)")
    return masks > 0


def read_samples(path: Path) -> list[tuple[FrameSample, int]]:
    """The samples that a file lists, each with the number of frames of its video. FileNotFoundError or ValueError."""
    return read_sample_list(path, _sample, "scripts/prepare_jhmdb.py")


def _sample(entry: Any, where: str) -> tuple[FrameSample, int]:
    """Paths are those of another machine; only action, video and frame are taken from them."""
    try:
        video, frame_path, _, num_frames, query = entry
        _, action, folder, file = PurePosixPath(frame_path).parts[-4:]
        frame, num_frames = int(PurePosixPath(file).stem), int(num_frames)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{where} is not [video, frame path, mask path, number of frames, query]: {entry!r}"
        ) from error
    for name, what in ((video, "video"), (action, "action"), (folder, "video")):
        check_name(name, f"{where}: {what}")
    if folder != video or not 1 <= frame <= num_frames:
        raise ValueError(f"{where}: frame {frame_path!r} is not one of the {num_frames} frames of video {video!r}")
    return make_sample(caption_of(query, where), action, video, frame), num_frames
