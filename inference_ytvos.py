"""Masks for every expression of a split in the Ref-YouTube-VOS layout, and the submission zip.

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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import docstring_parser
import numpy as np
import torch
from jsonargparse import ArgumentError, ArgumentParser, Namespace
from torch import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from datasets.videos import Video, VideoDataset
from models.build import load_model
from models.predictor import Prediction, Predictor, build_predictor
from util.config import TestConfig
from util.distributed import ProcessInfo, barrier, distributed, is_main_process
from util.failures import let_main_process_speak, told_in_one_line
from util.logs import set_up_logging
from util.masks import write_mask
from util.results import BackgroundWriter, ResultFolder, file_digest
from util.submission import SubmissionError, VideoMasks, write_submission
from util.visualize import RGB, Instance, draw_instances, make_grid, palette, with_caption, write_image

logger = logging.getLogger(__name__)

SHEET_FRAMES = 8  # of a picture that --visualize makes
SHEET_COLUMNS = 4


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
) -> None:
    """Write the masks of this process's share of the videos, then, in the main process, the submission.

    Args:
        predictor: the model.
        visualize: also draw a picture of each expression.

    The other arguments and the errors are those of `run_jobs`.
    """

    def segment_job(job: Job, writer: BackgroundWriter) -> Iterator[int]:
        return segment(predictor, job, folder, writer, visualize)

    run_jobs(segment_job, jobs, folder, identity, process, overwrite=overwrite)
    if is_main_process():
        zip_results(folder, [job.masks for job in jobs])


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
    predictor: Predictor, job: Job, folder: ResultFolder, writer: BackgroundWriter, visualize: bool = False
) -> Iterator[int]:
    """Write the masks of one video window by window; yields the number of frames of each window."""
    video, captions = job.video, job.captions
    for expression_id in job.masks.expression_ids:
        folder.mask_path(video.name, expression_id, "0").parent.mkdir(parents=True, exist_ok=True)
    sheets = Sheets(job) if visualize else None
    seen: deque[Tensor] = deque()
    start = 0
    for predictions in predictor.track(_remember(read_ahead(video.windows(predictor.window)), seen), captions):
        frames = seen.popleft()
        names = video.frame_names[start : start + len(frames)]
        for expression_id, prediction in zip(job.masks.expression_ids, predictions, strict=True):
            for name, mask in zip(names, prediction.masks.numpy(), strict=True):
                writer.submit(write_mask, folder.mask_path(video.name, expression_id, name), mask)
        if sheets is not None:
            sheets.add(start, frames.numpy(), predictions)
        start += len(frames)
        yield len(frames)
    if sheets is not None:
        writer.submit(sheets.write, folder.path / "visualize" / video.name)


class Sheets:
    """One picture per expression of a video: mask, box and score over frames spread through it, under the caption.

    Args:
        job: the video.
    """

    def __init__(self, job: Job) -> None:
        last = len(job.video) - 1
        self._job = job
        self._chosen = set(np.linspace(0, last, min(SHEET_FRAMES, last + 1)).round().astype(int).tolist())
        self._images: list[list[RGB]] = [[] for _ in job.captions]

    def add(self, start: int, frames: RGB, predictions: Sequence[Prediction]) -> None:
        """Draw those chosen among the `frames` (T, H, W, 3) that begin at index `start` of the video."""
        for t in (t for t in range(len(frames)) if start + t in self._chosen):
            height = min(max(frames.shape[1], 160), 360)
            for i, prediction in enumerate(predictions):
                label, box = f"{prediction.scores[t]:.2f}", prediction.boxes[t].tolist()
                instance = Instance(prediction.masks[t].numpy(), palette(i), box, label)
                self._images[i].append(draw_instances(frames[t], [instance], height))

    def write(self, folder: Path) -> None:
        """Write `<expression id>.jpg`."""
        folder.mkdir(parents=True, exist_ok=True)
        for i, (expression_id, caption) in enumerate(
            zip(self._job.masks.expression_ids, self._job.captions, strict=True)
        ):
            images = self._images[i]
            rows = [images[start : start + SHEET_COLUMNS] for start in range(0, len(images), SHEET_COLUMNS)]
            write_image(folder / f"{expression_id}.jpg", with_caption(make_grid(rows), [(caption, palette(i))]))


def zip_results(folder: ResultFolder, masks: Sequence[VideoMasks]) -> None:
    """Check all masks and zip them; the videos of faulty ones are done again by the next run."""
    try:
        count = write_submission(folder.annotations, masks, folder.submission, progress=sys.stderr.isatty())
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


def read_ahead(windows: Iterable[Tensor]) -> Iterator[Tensor]:
    """The same windows, the next one being read while the model works on this one."""
    windows = iter(windows)
    with ThreadPoolExecutor(1, thread_name_prefix="reader") as pool:
        coming = pool.submit(next, windows, None)
        while (window := coming.result()) is not None:
            coming = pool.submit(next, windows, None)
            yield window


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
    model, config = load_model(args.checkpoint, args.text_encoder)
    settings = dataclasses.replace(config.test, **given_settings(args))
    identity = {"checkpoint_sha256": file_digest(args.checkpoint), "split": args.split}
    identity |= {f"test.{name}": value for name, value in dataclasses.asdict(settings).items()}
    return build_predictor(model, settings, device), identity


def main(argv: Sequence[str] | None = None) -> None:
    parser = build_parser()
    parser.add_argument(
        "--visualize", action="store_true", help="draw visualize/<video>/<expression id>.jpg of each video done"
    )
    args = parse_arguments(parser, argv)
    set_up_logging()
    with distributed(args.device, timeout_minutes=24 * 60) as process:
        set_up_logging(main_process=is_main_process())
        predictor, identity = load_predictor(args, process.device)
        jobs = list_jobs(VideoDataset(args.data_root, args.split))
        folder = ResultFolder(args.output_dir)
        infer(predictor, jobs, folder, identity, process, overwrite=args.overwrite, visualize=args.visualize)


if __name__ == "__main__":
    with told_in_one_line():
        main()
