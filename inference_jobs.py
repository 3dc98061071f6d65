"""The videos of an inference run, divided among its processes and done once each, also when it is started again."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from datasets.videos import Video, VideoDataset
from util.distributed import ProcessInfo, barrier, is_main_process
from util.results import BackgroundWriter, ResultFolder
from util.submission import VideoMasks

logger = logging.getLogger(__name__)


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


def _progress_bar(share: Sequence[Job]) -> tqdm:
    num_frames = sum(len(job.video) for job in share)
    interval = 0.1 if sys.stderr.isatty() else 30  # a log file is spared most of it
    return tqdm(total=num_frames, unit="frame", mininterval=interval, disable=not share or not is_main_process())
