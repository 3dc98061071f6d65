"""Masks of Ref-DAVIS17, one folder of palette PNGs for each of the four annotators.

    python inference_davis.py --checkpoint runs/default/checkpoint.pth --data_root data/ref-davis --output_dir results
    torchrun --nproc_per_node=8 inference_davis.py --checkpoint ...

Reads the layout that scripts/prepare_davis.py writes, and writes `anno_<k>/<video>/<frame>.png`. Started again, it
skips the videos that are finished.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datasets.davis_release import ANNOTATORS
from datasets.videos import VideoDataset
from inference_jobs import Job, list_jobs, run_jobs
from inference_options import build_parser, load_predictor, parse_arguments
from models.predictor import Predictor, VideoFeatures
from util.distributed import distributed, is_main_process
from util.failures import told_in_one_line
from util.logs import set_up_logging
from util.masks import read_object_ids, write_object_ids
from util.read_ahead import read_ahead
from util.results import BackgroundWriter, ResultFolder
from util.submission import Fault, SubmissionError, VideoMasks

logger = logging.getLogger(__name__)

NUM_ANNOTATORS = len(ANNOTATORS)
FOLDERS = tuple(f"anno_{annotator}" for annotator in range(NUM_ANNOTATORS))
BACKGROUND = 0.1  # probability against which the objects' probabilities compete


@dataclasses.dataclass(frozen=True)
class AnnotatorMasks(VideoMasks):
    """The masks of one video: a picture of object ids for each annotator and frame.

    Attributes:
        object_ids: of each object, in the order of the expressions, which are four an object.
    """

    object_ids: tuple[int, ...] = ()

    def paths(self) -> Iterator[str]:
        """Relative to the folder of results."""
        for folder in FOLDERS:
            for frame in self.frames:
                yield f"{folder}/{self.video}/{frame}.png"


class MergedObjects:
    """Probabilities of several objects -> one picture of ids, object by object, so that memory does not grow with them.

    Args:
        shape: (T, h, w).
        threshold: probabilities below it count as 0.
    """

    def __init__(self, shape: tuple[int, ...], threshold: float = 0.5) -> None:
        self._threshold = threshold
        self._best = torch.full(shape, BACKGROUND)
        self.ids = torch.zeros(shape, dtype=torch.uint8)

    def add(self, object_id: int, probabilities: Tensor) -> None:
        """Give the object the pixels where its probability (T, h, w) is above those of all before it."""
        better = (probabilities >= self._threshold) & (probabilities > self._best)
        self.ids[better] = object_id
        self._best[better] = probabilities[better]


def segment(predictor: Predictor, job: Job, folder: ResultFolder, writer: BackgroundWriter) -> Iterator[int]:
    """Write the masks of one video clip by clip; yields the number of frames of each.

    Every clip is judged on its own: its query is chosen by the mean score over the clip.
    """
    masks = job.masks
    assert isinstance(masks, AnnotatorMasks)
    for name in FOLDERS:
        (folder.path / name / masks.video).mkdir(parents=True, exist_ok=True)
    start = 0
    for frames in read_ahead(job.video.windows(predictor.window)):
        features = predictor.encode(frames)
        names = masks.frames[start : start + len(frames)]
        for annotator, name in enumerate(FOLDERS):
            ids = segment_clip(predictor, features, job.captions[annotator::NUM_ANNOTATORS], masks.object_ids)
            for frame, picture in zip(names, ids, strict=True):
                writer.submit(write_object_ids, folder.path / name / masks.video / f"{frame}.png", picture)
        start += len(frames)
        yield len(frames)


def segment_clip(
    predictor: Predictor, features: VideoFeatures, captions: Sequence[str], object_ids: Sequence[int]
) -> NDArray[np.uint8]:
    """(T, h, w) object ids of a clip, from one sentence an object.

    Args:
        predictor: the model.
        features: of the clip, from `predictor.encode`.
        captions: one per object.
        object_ids: they.
    """
    merged = MergedObjects((features.num_frames, *features.original_size))
    for caption, object_id in zip(captions, object_ids, strict=True):
        prediction = predictor.predict(features, [caption], keep_probabilities=True)[0]
        merged.add(object_id, prediction.probabilities)
    return merged.ids.numpy()


def list_davis_jobs(dataset: VideoDataset) -> list[Job]:
    """Every video, its captions in the order of the expressions' numbers.

    Raises:
        FileNotFoundError: a frame is missing.
        ValueError: the expressions are not four an object, numbered object by object.
    """
    return [_davis_job(job, f"{dataset.reader.meta_path}: video {job.video.name}") for job in list_jobs(dataset)]


def _davis_job(job: Job, where: str) -> Job:
    numbered = {expression.expression_id: expression for expression in job.video.expressions}
    ids = tuple(str(number) for number in range(len(numbered)))
    if numbered.keys() != set(ids) or len(ids) % NUM_ANNOTATORS:
        raise ValueError(
            f"{where} has {len(ids)} expressions that are not {NUM_ANNOTATORS} for each object, numbered from 0; "
            "prepare the data with scripts/prepare_davis.py"
        )
    object_ids = []
    for first in range(0, len(ids), NUM_ANNOTATORS):
        named = {numbered[key].obj_id for key in ids[first : first + NUM_ANNOTATORS]}
        if len(named) != 1:
            raise ValueError(f"{where}: expressions {first} to {first + NUM_ANNOTATORS - 1} are not of one object")
        if named == {0}:
            raise ValueError(f"{where}: expression {first} is about no object; prepare_davis.py gives each an obj_id")
        object_ids.append(named.pop() or first // NUM_ANNOTATORS + 1)
    masks = AnnotatorMasks(job.masks.video, job.masks.size, job.masks.frames, ids, tuple(object_ids))
    return dataclasses.replace(job, masks=masks, captions=[numbered[key].caption for key in ids])


def check_results(folder: ResultFolder, jobs: Sequence[Job]) -> None:
    """Read every picture back; the videos of faulty ones are done again by the next run.

    Raises:
        SubmissionError: some are missing or malformed.
    """
    faults = []
    for masks in (job.masks for job in jobs):
        for path in masks.paths():
            try:
                read_object_ids(folder.path / path, masks.size)
            except (ValueError, OSError) as error:
                faults.append(Fault(masks.video, str(error)))
    for video in {fault.video for fault in faults}:
        folder.forget(video)
    if faults:
        raise SubmissionError(folder.path, faults, "run the inference again to complete it")


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_arguments(build_parser(__doc__), argv)
    set_up_logging()
    with distributed(args.device, timeout_minutes=24 * 60) as process:
        set_up_logging(main_process=is_main_process())
        predictor, identity = load_predictor(args, process.device)
        jobs = list_davis_jobs(VideoDataset(args.data_root, args.split))
        folder = ResultFolder(args.output_dir, FOLDERS)

        def segment_job(job: Job, writer: BackgroundWriter) -> Iterator[int]:
            return segment(predictor, job, folder, writer)

        identity["program"] = "inference_davis"
        run_jobs(segment_job, jobs, folder, identity, process, overwrite=args.overwrite)
        if is_main_process():
            check_results(folder, jobs)
            logger.info("%d videos, %d annotators: %s", len(jobs), NUM_ANNOTATORS, folder.path)


if __name__ == "__main__":
    with told_in_one_line():
        main()
