"""Training clips: reader, frame sampling and transforms, put together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datasets.categories import category_labels
from datasets.redrawing import RedrawingDataset
from datasets.sampling import anchors, sample_frames
from datasets.transforms import Clip, ClipTransform, make_targets
from datasets.ytvos import Expression, YTVOSReader
from util.batch import ClipTargets
from util.frames import normalise


@dataclass(frozen=True)
class Sample:
    """A training clip.

    Attributes:
        frames: (T, 3, h, w) float32, RGB normalised.
        caption: the sentence.
        targets: the referred object.
        name: `<video>/<expression id>`.
        annotated_frame: the only frame that has targets, or None when all have.
    """

    frames: Tensor
    caption: str
    targets: ClipTargets
    name: str
    annotated_frame: int | None = None


class ClipDataset(RedrawingDataset[tuple[Expression, int]]):
    """Clips of one data set, one for every (expression, anchor frame).

    Args:
        reader: what is read; its expressions must name their objects, and its split must be annotated.
        num_frames: frames T of a clip.
        transform: of frames, masks and caption.
        num_classes: 1 gives the label 0, more the category of the object.
        absent_share: of the clips, are of expressions known to mean nothing in the video, drawn once; fewer if there
            are not so many.
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
        absent_share: float = 0.0,
        seed: int = 0,
        skip_broken: bool = False,
        broken_list: Path | None = None,
    ) -> None:
        self.reader, self.num_frames, self.transform = reader, num_frames, transform
        reader.require_annotations()
        self._labels = _labels(reader, num_classes)
        samples = _samples((e for e in reader.expressions if e.has_object), num_frames)
        if not samples:
            raise ValueError(f"{reader.meta_path}: no expression names its object (obj_id); train on a split that does")
        if absent_share:
            absent = _samples((e for e in reader.expressions if e.is_known and not e.has_object), num_frames)
            if not absent:
                raise ValueError(
                    f"{reader.meta_path}: every expression has its object in the video; set data.absent_share to 0"
                )
            samples += _draw_absent(absent, len(samples), absent_share, seed)
        where = reader.root / reader.split
        super().__init__(samples, where=where, seed=seed, skip_broken=skip_broken, broken_list=broken_list)
        for name, reason in reader.broken.items():
            self.report(name, reason)

    def draw(self, source: tuple[Expression, int], rng: np.random.Generator) -> Sample | None:
        """One try; None when the object that there is is not visible in any frame.

        Raises:
            FileNotFoundError: a frame or a mask is missing; the message names the program that lists all of them.
            ValueError: one is damaged.
        """
        try:
            return self._draw(source, rng)
        except FileNotFoundError as error:
            program = f"scripts/check_data.py {self.reader.layout} --root {self.reader.root}"
            raise FileNotFoundError(f"{error}; python {program} lists all that is missing") from error

    def _draw(self, source: tuple[Expression, int], rng: np.random.Generator) -> Sample | None:
        expression, anchor = source
        chosen = sample_frames(len(expression.frames), anchor, self.num_frames, rng)
        names = [expression.frames[position] for position in chosen]
        masks = self.reader.read_objects([expression], names)[0]
        if expression.has_object and not masks.any():
            return None
        frames = torch.from_numpy(self.reader.read_frames(expression.video, names)).permute(0, 3, 1, 2)
        clip = self.transform(Clip(frames, torch.from_numpy(masks).to(torch.uint8), expression.caption), rng)
        if expression.has_object and not clip.masks.any():
            return None
        label = self._labels[self.reader.category(expression)] if self._labels and expression.has_object else 0
        return Sample(normalise(clip.frames), clip.caption, make_targets(clip.masks, label), expression.name)

    def describe(self, source: tuple[Expression, int]) -> str:
        """For messages."""
        expression, anchor = source
        return f"{expression.name} around frame {expression.frames[anchor]}"


def _samples(expressions: Iterable[Expression], num_frames: int) -> list[tuple[Expression, int]]:
    """Each expression with each anchor frame of its video."""
    return [(e, anchor) for e in expressions for anchor in anchors(len(e.frames), num_frames)]


def _draw_absent(
    absent: list[tuple[Expression, int]], num_present: int, share: float, seed: int
) -> list[tuple[Expression, int]]:
    """As many of the samples without an object as make `share` of all, in their order."""
    count = min(round(num_present * share / (1 - share)), len(absent))
    chosen = np.random.default_rng(seed).choice(len(absent), size=count, replace=False)
    return [absent[i] for i in sorted(chosen)]


def _labels(reader: YTVOSReader, num_classes: int) -> dict[str, int]:
    """{category: label}, empty for class-agnostic heads."""
    if num_classes == 1:
        return {}
    labels = category_labels((name for objects in reader.categories.values() for name in objects.values()), num_classes)
    for expression in reader.expressions:
        if expression.has_object:
            reader.category(expression)
    return labels
