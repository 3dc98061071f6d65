"""Clips of which one frame is annotated, for training and for evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from datasets.annotated_frames import AnnotatedFrameReader, FrameSample
from datasets.clips import Sample
from datasets.redrawing import RedrawingDataset
from datasets.sampling import sample_frames
from datasets.transforms import Clip, ClipTransform, make_targets
from util.frames import normalise


class FrameClipDataset(RedrawingDataset[FrameSample]):
    """Training clips, one for every sample: the annotated frame and others of its video (see `sample_frames`).

    Args:
        reader: what is read.
        num_frames: frames T of a clip.
        transform: of frames, the mask and the caption.
        seed: of the random choices.
        skip_broken: replace unreadable clips too, rather than stop.
        broken_list: file to which their names and reasons are added.
    """

    def __init__(
        self,
        reader: AnnotatedFrameReader,
        *,
        num_frames: int,
        transform: ClipTransform,
        seed: int = 0,
        skip_broken: bool = False,
        broken_list: Path | None = None,
    ) -> None:
        where = reader.root / reader.split
        super().__init__(reader.samples, where=where, seed=seed, skip_broken=skip_broken, broken_list=broken_list)
        self.reader, self.num_frames, self.transform = reader, num_frames, transform

    def draw(self, source: FrameSample, rng: np.random.Generator) -> Sample | None:
        """One try; None when the object is lost. Frames are T, targets those of the annotated one."""
        annotated, num_video_frames = source.frame - 1, self.reader.num_frames(source)
        if annotated >= num_video_frames:
            raise ValueError(f"{source.name}: the annotated frame is not one of the {num_video_frames} of its video")
        chosen = sample_frames(num_video_frames, annotated, self.num_frames, rng)
        mask = self.reader.read_mask(source)
        if not mask.any():
            return None
        clip = self.transform(_clip(self.reader.read_frames(source, chosen), mask, source), rng)
        if not clip.masks.any():
            return None
        targets = make_targets(clip.masks, 0)
        return Sample(normalise(clip.frames), clip.caption, targets, source.name, chosen.index(annotated))

    def describe(self, source: FrameSample) -> str:
        """For messages."""
        return source.name


class FrameWindows(Dataset):
    """Evaluation clips: the T consecutive frames around each annotated one, only resized.

    Args:
        reader: what is read.
        num_frames: frames T of a window.
        transform: without augmentation.
    """

    def __init__(self, reader: AnnotatedFrameReader, *, num_frames: int, transform: ClipTransform) -> None:
        assert not transform.augment
        self.reader, self.num_frames, self.transform = reader, num_frames, transform

    def __len__(self) -> int:
        return len(self.reader.samples)

    def __getitem__(self, index: int) -> Sample:
        source = self.reader.samples[index]
        frames, annotated = self.reader.read_window(source, self.num_frames)
        nothing = np.zeros(frames.shape[1:3], bool)  # the truth is asked of `reader.truths`, at its own size
        clip = self.transform(_clip(frames, nothing, source), np.random.default_rng())
        return Sample(normalise(clip.frames), clip.caption, make_targets(clip.masks, 0), source.name, annotated)


def _clip(frames: np.ndarray, mask: np.ndarray, source: FrameSample) -> Clip:
    if frames.shape[1:3] != mask.shape:
        raise ValueError(
            f"{source.name}: the mask is {mask.shape[0]} x {mask.shape[1]} (h x w), the video "
            f"{frames.shape[1]} x {frames.shape[2]}; take both from the same release"
        )
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2)
    return Clip(pixels, torch.from_numpy(mask[None].astype(np.uint8)), source.caption)
