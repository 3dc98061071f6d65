"""Scores of single frames: P@K, overall and mean IoU, and COCO's mAP of masks (A2D-Sentences, JHMDB-Sentences).

Gavrilyuk et al., "Actor and Action Video Segmentation from a Sentence", CVPR 2018, section 5.1.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from util.rle import RLE, coco_annotation

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class FrameResult:
    """What a model says about one sample, query by query.

    Attributes:
        scores: of the queries.
        masks: of the queries.
    """

    scores: tuple[float, ...]
    masks: tuple[RLE, ...]

    @property
    def best(self) -> int | None:
        """The query with the highest score, the first of equals; None when there is none."""
        return int(np.argmax(self.scores)) if self.scores else None


def score_frames(truths: Sequence[RLE], results: Sequence[FrameResult]) -> dict[str, float]:
    """All scores of a data set.

    Args:
        truths: the object of each sample.
        results: one per sample; without queries it is an empty mask.

    Returns:
        `P@0.5` to `P@0.9`, the share of samples whose IoU is above; `overall_IoU`, the sum of intersections over that
        of unions; `mean_IoU`; all three of the best query. `mAP`, over IoU 0.5:0.95, of all queries (the published
        protocol), `mAP_best` of the best query. `num_samples`.

    Raises:
        ValueError: there is nothing to score, or a result has another size than the truth.
    """
    if not truths or len(truths) != len(results):
        raise ValueError(f"{len(results)} results of {len(truths)} samples; each sample needs one, and one is needed")
    for truth, result in zip(truths, results, strict=True):
        for mask in result.masks:  # of all queries: COCO's evaluation takes another size for no overlap
            if list(mask["size"]) != list(truth["size"]):
                raise ValueError(f"a result has the size {mask['size']}, its ground truth {truth['size']} (h, w)")
    overlaps = np.array([_overlap(truth, result) for truth, result in zip(truths, results, strict=True)])
    intersections, unions = overlaps.T
    ious = np.where(unions > 0, intersections / np.maximum(unions, 1), 1.0)
    best = [
        FrameResult((), ()) if (i := result.best) is None else FrameResult((result.scores[i],), (result.masks[i],))
        for result in results
    ]
    return {
        **{f"P@{threshold}": float((ious > threshold).mean()) for threshold in THRESHOLDS},
        "overall_IoU": float(intersections.sum() / unions.sum()) if unions.sum() else 1.0,
        "mean_IoU": float(ious.mean()),
        "mAP": mean_average_precision(truths, results),
        "mAP_best": mean_average_precision(truths, best),
        "num_samples": len(truths),
    }


def mean_average_precision(truths: Sequence[RLE], results: Sequence[FrameResult]) -> float:
    """COCO's AP of masks over IoU 0.5:0.95, without categories; 0 when there are no results at all."""
    images = [{"id": i, "height": rle["size"][0], "width": rle["size"][1]} for i, rle in enumerate(truths, start=1)]
    annotations = [coco_annotation(i, i, rle) for i, rle in enumerate(truths, start=1)]
    detections = [
        {"image_id": i, "category_id": 1, "segmentation": rle, "score": float(score)}
        for i, result in enumerate(results, start=1)
        for score, rle in zip(result.scores, result.masks, strict=True)
    ]
    if not detections:
        return 0.0
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress there
        truth = COCO()
        truth.dataset = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "object"}]}
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(detections), iouType="segm")
        evaluation.params.useCats = 0
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, 0, 0, -1]  # thresholds x recalls, all areas, most detections
    return float(precision[precision > -1].mean())


def _overlap(truth: RLE, result: FrameResult) -> tuple[int, int]:
    """(intersection, union) in pixels of the best query's mask with the truth."""
    area = int(coco_mask.area(truth))
    if (i := result.best) is None:
        return 0, area
    mask = result.masks[i]
    intersection = int(coco_mask.area(coco_mask.merge([truth, mask], intersect=True)))
    return intersection, area + int(coco_mask.area(mask)) - intersection
