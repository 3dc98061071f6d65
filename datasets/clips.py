"""Training clips: reader, frame sampling and transforms, put together."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datasets.categories import category_labels
from datasets.sampling import anchors, sample_frames
from datasets.transforms import Clip, ClipTransform, make_targets
from datasets.ytvos import Expression, YTVOSReader
from util.batch import ClipTargets
from util.frames import normalise

logger = logging.getLogger(__name__)

MAX_REDRAWS = 50


@dataclass(frozen=True)
class Sample:
    """A training clip.

    Attributes:
        frames: (T, 3, h, w) float32, RGB normalised.
        caption: the sentence.
        targets: the referred object.
        name: `<video>/<expression id>`.
    """

    frames: Tensor
    caption: str
    targets: ClipTargets
    name: str


class ClipDataset(Dataset):
    """Clips of one data set, one for every (expression, anchor frame).

    `dataset[(epoch, index)]` draws every random choice from (seed, epoch, index), so that worker processes, ranks and
    resuming change nothing. A clip in which the object is never visible is replaced by another one.

    Args:
        reader: what is read; its expressions must name their objects, and its split must be annotated.
        num_frames: frames T of a clip.
        transform: of frames, masks and caption.
        num_classes: 1 gives the label 0, more the category of the object.
        seed: of the random choices.
        skip_broken: replace unreadable clips too, rather than stop.
        broken_list: file to which their names and reasons are added.

    Raises:
        FileNotFoundError: there are no annotations.
        ValueError: no expression names its object, or the categories do not fit `num_classes`.
    """

    def __init__(
        self,
        reader: YTVOSReader,
        *,
        num_frames: int,
        transform: ClipTransform,
        num_classes: int = 1,
        seed: int = 0,
        skip_broken: bool = False,
        broken_list: Path | None = None,
    ) -> None:
        self.reader, self.num_frames, self.transform, self.seed = reader, num_frames, transform, seed
        self.skip_broken, self.broken_list = skip_broken, broken_list
        self.broken: dict[str, str] = {}
        reader.require_annotations()
        self._labels = _labels(reader, num_classes)
        self.samples = [
            (expression, anchor)
            for expression in reader.expressions
            if expression.obj_id is not None
            for anchor in anchors(len(expression.frames), num_frames)
        ]
        if not self.samples:
            raise ValueError(f"{reader.meta_path}: no expression names its object (obj_id); train on a split that does")
        for name, reason in reader.broken.items():
            self._report(name, reason)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        rng = np.random.default_rng((self.seed, epoch, index))
        for _ in range(MAX_REDRAWS):
            expression, anchor = self.samples[index]
            try:
                sample = self._draw(expression, anchor, rng)
            except (OSError, ValueError) as error:
                if not self.skip_broken:
                    raise
                self._report(f"{expression.name} around frame {expression.frames[anchor]}", str(error))
                sample = None
            if sample is not None:
                return sample
            index = int(rng.integers(len(self)))
        raise ValueError(
            f"{self.reader.root / self.reader.split}: no readable clip with a visible object in {MAX_REDRAWS} draws, "
            f"the last one {expression.name}; check the annotations and that data.short_sides keep objects visible"
        )

    def _draw(self, expression: Expression, anchor: int, rng: np.random.Generator) -> Sample | None:
        """One try; None when the object is not visible in any frame."""
        chosen = sample_frames(len(expression.frames), anchor, self.num_frames, rng)
        names = [expression.frames[position] for position in chosen]
        masks = self.reader.read_masks(expression.video, names) == expression.obj_id
        if not masks.any():
            return None
        frames = torch.from_numpy(self.reader.read_frames(expression.video, names)).permute(0, 3, 1, 2)
        clip = self.transform(Clip(frames, torch.from_numpy(masks).to(torch.uint8), expression.caption), rng)
        if not clip.masks.any():
            return None
        label = self._labels[self.reader.category(expression)] if self._labels else 0
        return Sample(normalise(clip.frames), clip.caption, make_targets(clip.masks, label), expression.name)

    def _report(self, name: str, reason: str) -> None:
        """Log and list what is left out, once per process; the file is shared by all of them."""
        if name in self.broken:
            return
        self.broken[name] = reason
        logger.warning("skipped %s: %s", name, reason)
        if self.broken_list is None:
            return
        line = f"{name}: {reason}\n"
        if not self.broken_list.exists() or line not in self.broken_list.read_text(encoding="utf-8"):
            self.broken_list.parent.mkdir(parents=True, exist_ok=True)
            with self.broken_list.open("a", encoding="utf-8") as file:
                file.write(line)


def _labels(reader: YTVOSReader, num_classes: int) -> dict[str, int]:
    """{category: label}, empty for class-agnostic heads."""
    if num_classes == 1:
        return {}
    labels = category_labels((name for objects in reader.categories.values() for name in objects.values()), num_classes)
    for expression in reader.expressions:
        if expression.obj_id is not None:
            reader.category(expression)
    return labels
