"""Training clips from single images: one frame for pretraining, pseudo clips for joint training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from datasets.clips import Sample
from datasets.pseudo_clips import PseudoClipTransform
from datasets.redrawing import RedrawingDataset
from datasets.refcoco import ImageSample, RefCOCOReader
from datasets.transforms import Clip, ClipTransform, make_targets
from util.frames import normalise


class ImageClipDataset(RedrawingDataset[ImageSample]):
    """Clips of T frames, one for every sentence about an image.

    Args:
        reader: what is read.
        num_frames: T; above 1, frames are changed copies of the image (see `PseudoClipTransform`).
        transform: of frames, masks and caption, alike for all frames.
        num_classes: 1 gives the label 0, more COCO's id of the category.
        seed: of the random choices.
        skip_broken: replace unreadable images too, rather than stop.
        broken_list: file to which their names and reasons are added.

    Raises:
        ValueError: a category does not fit `num_classes`.
    """

    def __init__(
        self,
        reader: RefCOCOReader,
        *,
        num_frames: int,
        transform: ClipTransform,
        num_classes: int = 1,
        seed: int = 0,
        skip_broken: bool = False,
        broken_list: Path | None = None,
    ) -> None:
        super().__init__(reader.samples, where=reader.root, seed=seed, skip_broken=skip_broken, broken_list=broken_list)
        self.reader, self.transform, self.num_classes = reader, transform, num_classes
        self._expand = PseudoClipTransform(num_frames=num_frames) if num_frames > 1 else None
        largest = max(sample.category for sample in reader.samples)
        if num_classes > 1 and largest >= num_classes:
            raise ValueError(
                f"model.num_classes is {num_classes} but a category has the id {largest}; set it to 91 for COCO, "
                "or to 1 for class-agnostic heads"
            )
        for name, reason in reader.broken.items():
            self.report(name, reason)

    def draw(self, source: ImageSample, rng: np.random.Generator) -> Sample | None:
        """One try; None when the object is lost."""
        image, mask = self.reader.read_image(source), self.reader.read_mask(source)
        frames = torch.from_numpy(image[None]).permute(0, 3, 1, 2)
        clip = Clip(frames, torch.from_numpy(mask[None].astype(np.uint8)), source.caption)
        if self._expand is not None:
            clip = self._expand(clip, rng)
        clip = self.transform(clip, rng)
        if not clip.masks.any():
            return None
        label = source.category if self.num_classes > 1 else 0
        return Sample(normalise(clip.frames), clip.caption, make_targets(clip.masks, label), source.name)

    def describe(self, source: ImageSample) -> str:
        """For messages."""
        return source.name
