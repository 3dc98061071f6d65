"""Clips of different sizes -> one padded batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from datasets.clips import Sample
from util.batch import Batch


def collate(samples: Sequence[Sample], multiple: int = 32) -> Batch:
    """Pad clips bottom-right with zeros to the largest height and width, rounded up to a multiple.

    Args:
        samples: B clips with the same number of frames T; either all or none have an annotated frame.
        multiple: H and W of the batch are multiples of it.

    Returns:
        A batch; its targets keep each clip's own size.
    """
    annotated = [sample.annotated_frame for sample in samples]
    sizes = torch.tensor([sample.frames.shape[-2:] for sample in samples])
    height, width = (-(-int(side) // multiple) * multiple for side in sizes.amax(0))
    num_frames, channels = samples[0].frames.shape[:2]
    frames = torch.zeros(len(samples), num_frames, channels, height, width)
    padding_mask = torch.ones(len(samples), num_frames, height, width, dtype=torch.bool)
    for index, (sample, (h, w)) in enumerate(zip(samples, sizes.tolist(), strict=True)):
        frames[index, :, :, :h, :w] = sample.frames
        padding_mask[index, :, :h, :w] = False
    return Batch(
        frames=frames,
        padding_mask=padding_mask,
        frame_sizes=sizes,
        captions=[sample.caption for sample in samples],
        targets=[sample.targets for sample in samples],
        names=[sample.name for sample in samples],
        annotated_frame=None if None in annotated else torch.tensor(annotated),
    )
