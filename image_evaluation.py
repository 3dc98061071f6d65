"""Evaluate referring expressions in images: every sentence by exactly one process, whatever their number."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from datasets.refcoco import RefCOCOReader
from models.predictor import Predictor
from util.distributed import gather_by_index, get_rank, get_world_size, is_main_process
from util.image_metrics import Overlap, compare, score_images
from util.logs import Progress
from util.read_ahead import read_ahead

logger = logging.getLogger(__name__)


def evaluate_images(predictor: Predictor, reader: RefCOCOReader) -> dict[str, Any]:
    """Scores of `util.image_metrics.score_images`, on every process; `per_set` where there are several sets.

    Args:
        predictor: of the model; an image is a video of one frame, and its visual features serve all its sentences.
        reader: what is evaluated.

    Raises:
        FileNotFoundError, ValueError: an image or an annotation is missing or damaged.
    """
    overlaps = measure_overlaps(predictor, reader)
    scores: dict[str, Any] = score_images(overlaps)
    if len(reader.sets) > 1:
        names = [sample.ref_set for sample in reader.samples]
        scores["per_set"] = {
            wanted: score_images([overlap for overlap, name in zip(overlaps, names, strict=True) if name == wanted])
            for wanted in reader.sets
            if wanted in names
        }
    logger.info(
        "evaluation: P@0.5 %.4f, overall IoU %.4f, P@0.5 of boxes %.4f, %d sentences",
        *(scores[name] for name in ("P@0.5", "overall_IoU", "box_P@0.5", "num_samples")),
    )
    return scores


def measure_overlaps(predictor: Predictor, reader: RefCOCOReader) -> list[Overlap]:
    """The overlap of each sample, in their order, on every process. All processes have to call this."""
    by_image: dict[str, list[int]] = {}
    for index, sample in enumerate(reader.samples):
        by_image.setdefault(sample.file_name, []).append(index)
    share = list(by_image.values())[get_rank() :: get_world_size()]
    found: dict[int, Overlap] = {}
    with Progress(len(share), title="evaluation", shown=is_main_process(), unit="image") as progress:
        for indices, image in read_ahead(_images(reader, share)):
            samples = [reader.samples[index] for index in indices]
            features = predictor.encode(torch.from_numpy(image[None]))
            predictions = predictor.predict(features, [sample.caption for sample in samples])
            for index, sample, prediction in zip(indices, samples, predictions, strict=True):
                x, y, w, h = sample.box
                box = prediction.boxes[0].tolist()
                mask = reader.read_mask(sample)
                found[index] = compare(prediction.masks[0].numpy(), box, mask, (x, y, x + w, y + h))
            progress.advance()
    return gather_by_index(found, len(reader.samples))


def _images(reader: RefCOCOReader, share: list[list[int]]) -> Iterator[tuple[list[int], np.ndarray]]:
    for indices in share:
        yield indices, reader.read_image(reader.samples[indices[0]])
