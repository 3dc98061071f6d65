"""What the page does when asked: segments an upload within limits, and draws any frame of a result. Knows no gradio."""

from __future__ import annotations

import logging
import queue
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from models.predictor import Predictor
from util.answers import Answer, Segmentation
from util.export import instance
from util.frame_source import FrameSource, Recorded, TimedFrame
from util.pictures import RGB
from util.propagation import Propagator
from util.video_reader import open_video
from util.video_writer import VideoWriter
from util.visualize import draw_instances, draw_queries

logger = logging.getLogger(__name__)

MAX_RATE = 60  # frames a second that `max_seconds` are counted with
VIEW_HEIGHT = 480  # pixels of a frame that is looked at

Report = Callable[[float | None, str], None]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one upload may cost.

    Attributes:
        max_megabytes: of the file.
        max_seconds: of the video.
        max_side: of its frames, in pixels.
        max_ratio: of the long side of its frames to the short one, which the network sees at its own size: a flat frame
            would grow without limit.
        max_sentences: about it.
    """

    max_megabytes: float = 100
    max_seconds: float = 60
    max_side: int = 2560
    max_ratio: float = 8
    max_sentences: int = 8


@dataclass(frozen=True)
class Job:
    """A finished job and its files, which `remove` takes away.

    Attributes:
        segmentation: its frames are in a record of our own, not in the upload.
        frames: that record.
        folder: with original.mp4, overlay.mp4 and everything.zip.
    """

    segmentation: Segmentation
    frames: Recorded
    folder: Path

    @property
    def original(self) -> Path:
        """The upload as H.264, whatever it was."""
        return self.folder / "original.mp4"

    @property
    def overlay(self) -> Path:
        """With masks and boxes."""
        return self.folder / "result" / "overlay.mp4"

    @property
    def everything(self) -> Path:
        """All files of the result."""
        return self.folder / "everything.zip"

    def remove(self) -> None:
        """Delete its files."""
        shutil.rmtree(self.folder, ignore_errors=True)


class Within(FrameSource):
    """A source whose frames are refused where they pass the limits, as soon as that is known.

    Raises:
        ValueError: the video is too long by its header, or (while reading) too long or too large.
    """

    def __init__(self, source: FrameSource, limits: Limits) -> None:
        self._source, self._limits = source, limits
        self.name, self.file, self.rate, self.num_frames = source.name, source.file, source.rate, source.num_frames
        if source.num_frames is not None and source.num_frames > 1:
            self._check_length(source.num_frames / source.rate, source.num_frames)

    def frames(self) -> Iterator[TimedFrame]:
        """The frames in order."""
        for t, frame in enumerate(self._source.frames()):
            h, w = frame.image.shape[:2]
            if max(h, w) > self._limits.max_side:
                raise ValueError(
                    f"the video is {w} x {h}; at most {self._limits.max_side} pixels a side are taken here"
                )
            if max(h, w) > self._limits.max_ratio * min(h, w):
                raise ValueError(
                    f"the video is {w} x {h}; one side may be {self._limits.max_ratio:g} times the other, crop it"
                )
            self._check_length(frame.time, t)
            yield frame

    def _check_length(self, seconds: float, num_frames: int) -> None:
        limit = self._limits.max_seconds
        if seconds > limit or num_frames > limit * MAX_RATE:
            raise ValueError(f"the video is longer than {limit:g} s ({limit * MAX_RATE:g} frames); cut it, please")


class Worker:
    """Runs jobs, each with a predictor of its own, and keeps their files in folders below `root`.

    Args:
        predictors: as many as jobs may run at a time.
        propagators: by name; what is not here cannot be asked for.
        root: an existing folder.
        limits: of an upload.
    """

    def __init__(
        self, predictors: Sequence[Predictor], propagators: dict[str, Propagator | None], root: Path, limits: Limits
    ) -> None:
        self.propagators, self.root, self.limits = propagators, root, limits
        self._free: queue.Queue[Predictor] = queue.Queue()
        for predictor in predictors:
            self._free.put(predictor)

    def run(self, video: str | None, sentences: Sequence[str], propagate: str, report: Report) -> Job:
        """Segment a file.

        Args:
            video: path of the upload. Its name is never part of another path.
            sentences: one or several; empty ones are passed over.
            propagate: name of a propagator.
            report: called with the share that is done (None where it cannot be known) and a line for people.

        Raises:
            ValueError: for everything that is the user's to mend, in words that hold no path of this machine.
        """
        if not video:
            raise ValueError("no video; upload one or pick the sample")
        sentences = [sentence for sentence in sentences if sentence.strip()]
        if len(sentences) > self.limits.max_sentences:
            raise ValueError(f"{len(sentences)} sentences; at most {self.limits.max_sentences} at a time")
        if propagate not in self.propagators:
            raise ValueError(f"no propagation {propagate!r}; choose one of {', '.join(self.propagators)}")
        folder = Path(tempfile.mkdtemp(prefix="job-", dir=self.root))
        try:
            return self._run(Path(video), sentences, self.propagators[propagate], report, folder)
        except (ValueError, OSError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            message = str(error).replace(str(video), "this file").replace(str(folder), "the result")
            raise ValueError(message) from error
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _run(
        self, video: Path, sentences: list[str], propagator: Propagator | None, report: Report, folder: Path
    ) -> Job:
        megabytes = video.stat().st_size / 1e6
        if megabytes > self.limits.max_megabytes:
            raise ValueError(
                f"the file has {megabytes:.0f} MB; at most {self.limits.max_megabytes:g} MB are taken here"
            )
        frames = Recorded(Within(open_video(video), self.limits))
        with self._predictor(report) as predictor:
            counter = _Counter("segmenting", frames.num_frames, report)
            segmentation = predictor.segment(frames, sentences, propagator=propagator, progress=counter)
        segmentation.save(folder / "result", progress=_Counter("writing", len(segmentation), report))
        job = Job(segmentation, frames, folder)
        with VideoWriter(job.original, frames.rate) as writer:
            for frame in segmentation.frames():
                writer.write(frame.image, frame.time)
        shutil.make_archive(str(job.everything.with_suffix("")), "zip", folder / "result")
        return job

    @contextmanager
    def _predictor(self, report: Report) -> Iterator[Predictor]:
        if self._free.empty():
            report(None, "waiting for another video")
        predictor = self._free.get()
        try:
            yield predictor
        finally:
            self._free.put(predictor)


class _Counter:
    """Turns counts of frames into a share and a speed."""

    def __init__(self, what: str, total: int | None, report: Report) -> None:
        self._what, self._total, self._report = what, total, report
        self._done, self._began = 0, time.monotonic()

    def __call__(self, count: int) -> None:
        self._done += count
        speed = self._done / max(time.monotonic() - self._began, 1e-6)
        share = min(self._done / self._total, 1.0) if self._total else None
        self._report(share, f"{self._what}: {self._done} frames, {speed:.1f} frames/s")


def draw_frame(job: Job, t: int, shown: Sequence[str], sentence: int | None = None) -> RGB:
    """A frame of a result.

    Args:
        job: the result.
        t: index of the frame; beyond the last, it is the last.
        shown: any of `masks`, `boxes`, `reference points` and `all queries`.
        sentence: of which; None shows all.
    """
    t = min(max(t, 0), len(job.segmentation) - 1)
    image = job.frames.frame(t).image
    answers: Sequence[Answer] = job.segmentation.answers
    if sentence is not None:
        answers = answers[sentence : sentence + 1]
    instances = []
    for answer in answers:
        drawn = instance(answer, t, with_mask="masks" in shown, with_box="boxes" in shown)
        if answer.present[t] and {"masks", "boxes"} & set(shown):
            instances.append(drawn)
    picture = draw_instances(image, instances, VIEW_HEIGHT)
    scale = picture.shape[0] / image.shape[0]
    for answer in answers:
        picture = draw_queries(
            picture,
            boxes=answer.query_boxes[t] * scale if "all queries" in shown else None,
            points=answer.reference_points[t] * scale if "reference points" in shown else None,
            scores=answer.query_scores[t],
            chosen=int(answer.queries[t]),
            colour=answer.colour,
        )
    return picture
