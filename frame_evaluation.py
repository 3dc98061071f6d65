"""Evaluate single-frame annotations: every sample by exactly one process, whatever their number."""

from __future__ import annotations

import logging
from typing import Any

from datasets.build import build_window_loader
from datasets.frame_clips import FrameWindows
from models.frame_predictor import FramePrediction, FramePredictor
from util.distributed import gather_by_index, get_rank, get_world_size, is_main_process
from util.frame_metrics import FrameResult, score_frames
from util.logs import Progress
from util.rle import encode_mask

logger = logging.getLogger(__name__)


def predict_frames(predictor: FramePredictor, windows: FrameWindows, num_workers: int = 0) -> list[FrameResult]:
    """The results of all samples in their order, on every process. All processes have to call this.

    Args:
        predictor: of the model.
        windows: around the annotated frames.
        num_workers: loader processes of each process.

    Raises:
        FileNotFoundError, ValueError: a file is missing or damaged, or the ground truth is of other samples.
    """
    truths = windows.reader.truths
    share = range(get_rank(), len(windows), get_world_size())
    found: dict[int, FrameResult] = {}
    with Progress(len(share), title="evaluation", shown=is_main_process(), unit="sample") as progress:
        for index, batch in zip(share, build_window_loader(windows, share, num_workers), strict=True):
            # one at a time: padding to the size of another clip would change the numbers a little
            found[index] = _compressed(predictor.predict(batch, [truths[index].size])[0])
            progress.advance()
    return gather_by_index(found, len(windows))


def evaluate_frames(predictor: FramePredictor, windows: FrameWindows, num_workers: int = 0) -> dict[str, Any]:
    """Scores of `util.frame_metrics.score_frames`, on every process. Arguments and errors as in `predict_frames`."""
    results = predict_frames(predictor, windows, num_workers)
    scores = score_frames([truth.rle for truth in windows.reader.truths], results)
    text = "evaluation: mAP {mAP:.4f}, overall IoU {overall_IoU:.4f}, mean IoU {mean_IoU:.4f}, {num_samples} samples"
    logger.info(text.format(**scores))
    return scores


def _compressed(prediction: FramePrediction) -> FrameResult:
    masks = tuple(encode_mask(mask) for mask in prediction.masks.numpy())
    return FrameResult(tuple(prediction.scores.tolist()), masks)
