"""Masks for every expression of a split of Ref-YouTube-VOS or MeViS, and the submission zip.

    python inference_ytvos.py --checkpoint runs/default/checkpoint.pth --data_root data/ref-youtube-vos \
        --split valid --output_dir results
    torchrun --nproc_per_node=8 inference_ytvos.py --checkpoint ... --test.precision bfloat16

Writes `Annotations/<video>/<expression id>/<frame>.png` and `submission.zip`. Started again, it skips the videos that
are finished.
"""

from __future__ import annotations

import logging
import sys
import typing
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor

from datasets.mevis import MeViSReader
from datasets.videos import Video, VideoDataset
from datasets.ytvos import YTVOSReader
from inference_jobs import Job, list_jobs, run_jobs
from inference_options import build_parser, load_predictor, parse_arguments
from models.predictor import Predictor
from models.propagators import add_propagation_options, build_propagator
from util.distributed import ProcessInfo, distributed, is_main_process
from util.expression_sheets import ExpressionSheets
from util.failures import told_in_one_line
from util.frame_source import FrameSource, TimedFrame
from util.logs import set_up_logging
from util.masks import write_mask
from util.propagation import Propagator
from util.read_ahead import read_ahead
from util.results import BackgroundWriter, ResultFolder
from util.submission import FOLDER, SubmissionError, VideoMasks, write_submission

logger = logging.getLogger(__name__)

READERS = {"ytvos": YTVOSReader, "mevis": MeViSReader}
ZIP_PREFIXES = {"ytvos": f"{FOLDER}/", "mevis": ""}  # what the servers expect


def infer(
    predictor: Predictor,
    jobs: Sequence[Job],
    folder: ResultFolder,
    identity: dict[str, Any],
    process: ProcessInfo,
    *,
    overwrite: bool = False,
    visualize: bool = False,
    prefix: str = f"{FOLDER}/",
    propagator: Propagator | None = None,
) -> None:
    """Write the masks of this process's share of the videos, then, in the main process, the submission.

    Args:
        predictor: the model.
        visualize: also draw a picture of each expression.
        prefix: what paths in the zip begin with.
        propagator: carries each object's best mask through the video in place of the model's masks.

    The other arguments and the errors are those of `run_jobs`.
    """

    def segment_job(job: Job, writer: BackgroundWriter) -> Iterator[int]:
        sheets = _sheets(job, folder) if visualize else None
        if propagator is None and not predictor.presence.decides:
            return segment(predictor, job, folder, writer, sheets)
        return segment_as_a_whole(predictor, job, folder, writer, sheets, propagator)

    run_jobs(segment_job, jobs, folder, identity, process, overwrite=overwrite)
    if is_main_process():
        zip_results(folder, [job.masks for job in jobs], prefix)


def segment(
    predictor: Predictor,
    job: Job,
    folder: ResultFolder,
    writer: BackgroundWriter,
    sheets: ExpressionSheets | None = None,
) -> Iterator[int]:
    """Write the masks of one video window by window; yields the number of frames of each window."""
    video, captions = job.video, job.captions
    _make_mask_folders(job, folder)
    seen: deque[Tensor] = deque()
    start = 0
    for predictions in predictor.track(_remember(read_ahead(video.windows(predictor.window)), seen), captions):
        frames = seen.popleft()
        names = video.frame_names[start : start + len(frames)]
        for expression_id, prediction in zip(job.masks.expression_ids, predictions, strict=True):
            for name, mask in zip(names, prediction.masks.numpy(), strict=True):
                writer.submit(write_mask, folder.mask_path(video.name, expression_id, name), mask)
        if sheets is not None:
            for t in range(len(frames)):
                sheets.add(start + t, frames[t].numpy(), [(p.masks[t], p.boxes[t], p.scores[t]) for p in predictions])
        start += len(frames)
        yield len(frames)
    if sheets is not None:
        writer.submit(sheets.write)


def segment_as_a_whole(
    predictor: Predictor,
    job: Job,
    folder: ResultFolder,
    writer: BackgroundWriter,
    sheets: ExpressionSheets | None = None,
    propagator: Propagator | None = None,
) -> Iterator[int]:
    """`segment` where no mask is certain before the last frame: with a propagator, or where "not there" is possible."""
    source = VideoFrames(job.video, predictor.window)
    answers = predictor.segment(source, job.captions, propagator=propagator).answers
    _make_mask_folders(job, folder)
    for expression_id, answer in zip(job.masks.expression_ids, answers, strict=True):
        for t, name in enumerate(job.video.frame_names):
            writer.submit(write_mask, folder.mask_path(job.video.name, expression_id, name), answer.mask(t))
    if sheets is not None:
        for t, frame in enumerate(source.frames()):
            sheets.add(t, frame.image, [(a.mask(t), a.boxes[t], a.scores[t]) for a in answers])
        writer.submit(sheets.write)
    yield len(job.video)


class VideoFrames(FrameSource):
    """A video of a data set, as `Predictor.segment` takes it.

    Args:
        video: it.
        window: frames that are read together.
    """

    def __init__(self, video: Video, window: int) -> None:
        self.name, self.num_frames = video.name, len(video)
        self._video, self._window = video, window

    def frames(self) -> Iterator[TimedFrame]:
        """The frames in order."""
        images = (image for frames in self._video.windows(self._window) for image in frames.numpy())
        for t, image in enumerate(images):
            yield TimedFrame(image, t / self.rate)


def zip_results(folder: ResultFolder, masks: Sequence[VideoMasks], prefix: str = f"{FOLDER}/") -> None:
    """Check all masks and zip them; the videos of faulty ones are done again by the next run."""
    try:
        count = write_submission(folder.annotations, masks, folder.submission, sys.stderr.isatty(), prefix)
    except SubmissionError as error:
        for video in {fault.video for fault in error.faults}:
            folder.forget(video)
        raise
    logger.info("%d masks of %d videos, checked and zipped: %s", count, len(masks), folder.submission)


def _make_mask_folders(job: Job, folder: ResultFolder) -> None:
    for expression_id in job.masks.expression_ids:
        folder.mask_path(job.video.name, expression_id, "0").parent.mkdir(parents=True, exist_ok=True)


def _sheets(job: Job, folder: ResultFolder) -> ExpressionSheets:
    captions = dict(zip(job.masks.expression_ids, job.captions, strict=True))
    return ExpressionSheets(captions, len(job.video), folder.path / "visualize" / job.video.name)


def _remember(windows: Iterable[Tensor], seen: deque[Tensor]) -> Iterator[Tensor]:
    for window in windows:
        seen.append(window)
        yield window


def main(argv: Sequence[str] | None = None) -> None:
    parser = build_parser(__doc__)
    parser.add_argument("--dataset", type=typing.Literal["ytvos", "mevis"], default="ytvos", help="layout of data_root")
    parser.add_argument(
        "--visualize", action="store_true", help="draw visualize/<video>/<expression id>.jpg of each video done"
    )
    add_propagation_options(parser)
    args = parse_arguments(parser, argv)
    set_up_logging()
    with distributed(args.device, timeout_minutes=24 * 60) as process:
        set_up_logging(main_process=is_main_process())
        predictor, identity = load_predictor(args, process.device)
        jobs = list_jobs(VideoDataset(args.data_root, args.split, reader=READERS[args.dataset]))
        folder, prefix = ResultFolder(args.output_dir), ZIP_PREFIXES[args.dataset]
        propagator = build_propagator(args.propagate, args.sam2_weights, process.device)
        if propagator is not None:
            identity |= {"propagate": args.propagate, "sam2_weights": args.sam2_weights}
        options = {"overwrite": args.overwrite, "visualize": args.visualize, "prefix": prefix, "propagator": propagator}
        infer(predictor, jobs, folder, identity, process, **options)


if __name__ == "__main__":
    with told_in_one_line():
        main()
