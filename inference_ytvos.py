"""Masks for every expression of a split of Ref-YouTube-VOS or MeViS, and the submission zip.

    python inference_ytvos.py --checkpoint runs/default/checkpoint.pth --data_root data/ref-youtube-vos \
        --split valid --output_dir results
    torchrun --nproc_per_node=8 inference_ytvos.py --checkpoint ... --test.precision bfloat16

Writes `Annotations/<video>/<expression id>/<frame>.png` and `submission.zip`. Started again, it skips the videos that
are finished.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import inspect
import logging
import sys
import typing
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import docstring_parser
import torch
from jsonargparse import ArgumentError, ArgumentParser, Namespace
from torch import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from datasets.mevis import MeViSReader
from datasets.videos import Video, VideoDataset
from datasets.ytvos import YTVOSReader
from models.build import load_model
from models.predictor import Predictor, build_predictor
from models.propagators import add_propagation_options, build_propagator
from util.config import TestConfig
from util.distributed import ProcessInfo, barrier, distributed, is_main_process
from util.expression_sheets import ExpressionSheets
from util.failures import let_main_process_speak, told_in_one_line
from util.logs import set_up_logging
from util.masks import write_mask
from util.propagation import Propagator
from util.read_ahead import read_ahead
from util.results import BackgroundWriter, ResultFolder, file_digest
from util.submission import FOLDER, SubmissionError, VideoMasks, write_submission
from util.video_reader import FrameSource, TimedFrame

logger = logging.getLogger(__name__)

READERS = {"ytvos": YTVOSReader, "mevis": MeViSReader}
ZIP_PREFIXES = {"ytvos": f"{FOLDER}/", "mevis": ""}  # what the servers expect


@dataclasses.dataclass(frozen=True)
class Job:
    """A video and what is to be written of it.

    Attributes:
        video: where its frames come from.
        masks: what is to be written.
        captions: of its expressions.
        source: digest of the sizes of its files, by which other frames of the same names are told apart.
    """

    video: Video
    masks: VideoMasks
    captions: list[str]
    source: str


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


def run_jobs(
    segment_job: Callable[[Job, BackgroundWriter], Iterator[int]],
    jobs: Sequence[Job],
    folder: ResultFolder,
    identity: dict[str, Any],
    process: ProcessInfo,
    *,
    overwrite: bool = False,
) -> None:
    """Do this process's share of the videos that are not finished, and wait for the other processes.

    Args:
        segment_job: writes the masks of one video, and yields the number of frames of each window that is done.
        jobs: all videos.
        folder: where results go.
        identity: checkpoint and settings; results of another identity are not gone on with.
        process: this process among those of the run.
        overwrite: delete what is there.

    Raises:
        ValueError: the folder holds results of another identity, or the result is incomplete or malformed.
    """
    if overwrite:
        folder.check_ownership()  # in every process, so that none waits for one that has stopped
        barrier()
        if is_main_process():
            folder.clear()
    barrier()
    folder.check_identity(identity)
    pending = [job for job in jobs if not folder.is_finished(job.masks, job.captions, job.source)]
    barrier()  # all have looked before any writes, so that all divide the same videos
    if is_main_process():
        folder.write_identity(identity)
        if len(pending) < len(jobs):
            logger.info("%d of %d videos are finished already and are skipped", len(jobs) - len(pending), len(jobs))
    barrier()
    share = sorted(pending, key=lambda job: -len(job.video) * len(job.captions))[process.rank :: process.world_size]
    with BackgroundWriter() as writer, logging_redirect_tqdm(), _progress_bar(share) as bar:
        for job in share:
            bar.set_postfix_str(job.video.name)
            for num_frames in segment_job(job, writer):
                bar.update(num_frames)
            writer.wait()
            folder.mark_finished(job.masks, job.captions, job.source)
    barrier()


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


def list_jobs(dataset: VideoDataset) -> list[Job]:
    """Every video that has expressions. All frames are looked for now rather than after hours of work.

    Raises:
        FileNotFoundError: a frame is missing.
        ValueError: a name is unsafe as part of a path, or there is nothing to do.
    """
    jobs = []
    for video in dataset:
        if video.expressions:
            ids = tuple(expression.expression_id for expression in video.expressions)
            masks = VideoMasks(video.name, video.size, tuple(video.frame_names), ids)
            paths = [dataset.reader.frame_path(video.name, frame) for frame in video.frame_names]
            if absent := [path for path in paths if not path.is_file()]:
                raise FileNotFoundError(
                    f"{absent[0]}: missing ({len(absent)} frames of its video); unpack the data again"
                )
            source = hashlib.sha256(repr([path.stat().st_size for path in paths]).encode()).hexdigest()[:16]
            jobs.append(Job(video, masks, [expression.caption for expression in video.expressions], source))
    if not jobs:
        raise ValueError(f"{dataset.reader.meta_path}: lists no expressions, so there is nothing to segment")
    return jobs


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


def _progress_bar(share: Sequence[Job]) -> tqdm:
    num_frames = sum(len(job.video) for job in share)
    interval = 0.1 if sys.stderr.isatty() else 30  # a log file is spared most of it
    return tqdm(total=num_frames, unit="frame", mininterval=interval, disable=not is_main_process())


def build_parser(description: str | None = __doc__) -> ArgumentParser:
    """`--test.*` take the place of the checkpoint's own settings; absent ones are not in the namespace."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = ArgumentParser(description=description, formatter_class=layout, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--checkpoint", type=Path, required=True, help="ours or a published one")
    add_text_encoder_argument(parser)
    parser.add_argument("--data_root", type=Path, required=True, help="data set in the Ref-YouTube-VOS layout")
    parser.add_argument("--split", default="valid")
    parser.add_argument("--output_dir", type=Path, required=True, help="where results go")
    parser.add_argument("--device", type=typing.Literal["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--overwrite", action="store_true", help="delete the results in output_dir and begin anew")
    add_test_arguments(parser)
    return parser


def add_text_encoder_argument(parser: ArgumentParser) -> None:
    """`--text_encoder`, which published checkpoints need."""
    parser.add_argument(
        "--text_encoder",
        default="roberta-base",
        help="hub name or folder of a published checkpoint's tokenizer; ours carries its own",
    )


def add_test_arguments(parser: ArgumentParser) -> None:
    """`--test.*`, absent from the namespace unless they are given."""
    types = typing.get_type_hints(TestConfig)
    for param in docstring_parser.parse(inspect.getdoc(TestConfig) or "").params:
        help_text = f"{param.description} (default: the checkpoint's)".replace("\n", " ")
        name = f"--test.{param.arg_name}"
        parser.add_argument(name, type=types[param.arg_name], default=argparse.SUPPRESS, help=help_text)


def given_settings(args: Namespace) -> dict[str, Any]:
    """What `--test.*` put in the place of the checkpoint's settings."""
    return vars(args.test) if "test" in args else {}


def parse_arguments(parser: ArgumentParser, argv: Sequence[str] | None) -> Namespace:
    """The arguments; a mistake in them ends the program with status 2 and one line."""
    try:
        return parser.parse_args(argv)
    except ArgumentError as error:
        let_main_process_speak()
        parser.exit(2, f"error: {' '.join(str(error).split())}\n")


def load_predictor(args: Namespace, device: torch.device) -> tuple[Predictor, dict[str, Any]]:
    """The predictor that the arguments describe, and what tells its results from others.

    Raises:
        FileNotFoundError, ValueError: the checkpoint is missing or unusable, or the settings do not go together.
    """
    model, config = load_model(args.checkpoint, args.text_encoder, in_all_processes=True)
    settings = dataclasses.replace(config.test, **given_settings(args))
    identity = {"checkpoint_sha256": file_digest(args.checkpoint), "split": args.split}
    identity |= {f"test.{name}": value for name, value in dataclasses.asdict(settings).items()}
    return build_predictor(model, settings, device), identity


def main(argv: Sequence[str] | None = None) -> None:
    parser = build_parser()
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
