"""The page of `demo.py --serve`: upload a video, write sentences, look at the answer from all sides, take it home."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets.shapes_sample import SENTENCES, write_sample
from models.predictor import Predictor
from page_jobs import Job, Limits, Worker, draw_frame
from util.propagation import FlowPropagator, Propagator
from util.visualize import RGB

logger = logging.getLogger(__name__)

LAYERS = ("masks", "boxes", "reference points", "all queries")
ALL = "all sentences"
KEPT_SECONDS = 3600  # uploads and results, after which they are deleted
CLEANED_SECONDS = 600  # between looks for what is that old
LEGEND_LETTERS = 72  # of all sentences together under the chart, in one line
QUEUE = 64  # jobs that may wait; more are turned away
INTRODUCTION = "Upload a video or pick the sample, write one sentence a line, and see where what they mean is."


@dataclass(frozen=True, kw_only=True)
class PageSettings:
    """How the page is served.

    Attributes:
        host: address it listens on.
        port: 0 takes any that is free.
        limits: of an upload.
        propagator: offered beside optical flow, as `sam2`.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    limits: Limits = field(default_factory=Limits)
    propagator: Propagator | None = None


class Page:
    """A running page; as a context, it stops and its files go at the end.

    Args:
        predictors: as many as jobs may run at a time.
        settings: how it is served.

    Raises:
        ValueError: gradio is not installed.
        OSError: the port is taken.
    """

    def __init__(self, predictors: Sequence[Predictor], settings: PageSettings) -> None:
        gr = _import_gradio()
        self._folder = tempfile.TemporaryDirectory(prefix="referformer-page-")
        root = Path(self._folder.name)
        self._uploads_before = os.environ.get("GRADIO_TEMP_DIR")
        os.environ["GRADIO_TEMP_DIR"] = str(root / "uploads")  # gradio looks here whenever it takes a file
        (root / "jobs").mkdir()
        sample = root / "sample.mp4"
        write_sample(sample)
        propagators: dict[str, Propagator | None] = {"none": None, "flow": FlowPropagator()}
        if settings.propagator is not None:
            propagators["sam2"] = settings.propagator
        worker = Worker(predictors, propagators, root / "jobs", settings.limits)
        self.blocks = _build(gr, worker, sample, num_jobs=len(predictors))
        self.blocks.queue(max_size=QUEUE)
        self._closed = threading.Event()
        threading.Thread(target=_sweep, args=(root, self._closed), daemon=True).start()
        _, self.url, _ = self.blocks.launch(
            server_name=settings.host,
            server_port=settings.port or None,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            max_file_size=int(settings.limits.max_megabytes * 1e6),
            allowed_paths=[str(root / "jobs"), str(sample)],
            state_session_capacity=200,
            ssr_mode=False,
            footer_links=[],
            theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),  # asks no other server
        )

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self.blocks.close(verbose=False)
        os.environ.pop("GRADIO_TEMP_DIR")
        if self._uploads_before is not None:
            os.environ["GRADIO_TEMP_DIR"] = self._uploads_before
        self._folder.cleanup()

    def wait(self) -> None:
        """Until Ctrl-C."""
        self.blocks.block_thread()


def serve(predictors: Sequence[Predictor], settings: PageSettings) -> None:
    """Serve the page until Ctrl-C."""
    with Page(predictors, settings) as page:
        logger.info("open %s in a browser; Ctrl-C ends", page.url)
        page.wait()


def _import_gradio() -> Any:
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio
    except ImportError as error:
        raise ValueError(f"the page needs gradio ({error}); pip install 'gradio>=6,<7'") from error
    return gradio


def _build(gr: Any, worker: Worker, sample: Path, num_jobs: int) -> Any:
    """Components, and what happens to them."""
    limits = worker.limits
    with gr.Blocks(
        title="ReferFormer", analytics_enabled=False, delete_cache=(CLEANED_SECONDS, KEPT_SECONDS)
    ) as blocks:
        gr.Markdown(f"# ReferFormer\n{INTRODUCTION}")
        with gr.Row():
            with gr.Column(scale=1):
                upload = gr.File(
                    label=f"Video (at most {limits.max_megabytes:g} MB, {limits.max_seconds:g} s)", type="filepath"
                )
                use_sample = gr.Button("Pick the sample", size="sm")
                sentences = gr.Textbox(
                    label=f"Sentences, one a line (at most {limits.max_sentences})",
                    lines=3,
                    placeholder="the red square\nthe small circle moving left",
                )
                propagate = gr.Dropdown(list(worker.propagators), value="none", label="Carry the best mask along")
                start = gr.Button("Find it", variant="primary")
            with gr.Column(scale=2):
                with gr.Row():
                    with gr.Column(min_width=200):  # a label of the player's own would cover the legend
                        gr.Markdown("Original")
                        original = gr.Video(label="Original", show_label=False, interactive=False)
                    with gr.Column(min_width=200):
                        gr.Markdown("Found")
                        overlay = gr.Video(label="Found", show_label=False, interactive=False)
                verdict = gr.Textbox(label="Answer", lines=2, interactive=False)
        with gr.Row():
            with gr.Column():
                view = gr.Image(label="Frame", interactive=False, format="png")
                frame = gr.Slider(0, 1, value=0, step=1, label="Frame number")
                layers = gr.CheckboxGroup(list(LAYERS), value=["masks", "boxes"], label="Show")
                of = gr.Dropdown([ALL], value=ALL, label="Of")
            with gr.Column():
                chart = gr.LinePlot(x="seconds", y="score", color="sentence", y_lim=[0, 1], label="Scores over time")
                download = gr.File(label="Everything: overlay, masks, boxes and scores, sheet", interactive=False)
        job = gr.State(None, time_to_live=KEPT_SECONDS, delete_callback=_forget)

        use_sample.click(
            lambda: (str(sample), "\n".join(SENTENCES)), outputs=[upload, sentences], api_name="sample", queue=False
        )
        looked_at = [job, frame, layers, of]
        start.click(
            _runner(gr, worker),
            inputs=[upload, sentences, propagate, job],
            outputs=[job, original, overlay, verdict, chart, download, frame, of],
            api_name="segment",
            concurrency_limit=num_jobs,
            show_progress_on=overlay,  # an error marks one place, not all
        ).success(_draw, inputs=looked_at, outputs=view, api_name=False, show_progress="hidden")
        for component in (frame, layers, of):
            component.change(
                _draw, inputs=looked_at, outputs=view, show_progress="hidden", concurrency_limit=4,
                trigger_mode="always_last", api_name="frame" if component is frame else False,
            )  # fmt: skip
    return blocks


def _runner(gr: Any, worker: Worker) -> Any:
    def run(
        upload: str | None,
        sentences: str,
        propagate: str,
        earlier: Job | None,
        progress: Any = gr.Progress(),  # noqa: B008
    ) -> tuple[Any, ...]:
        def report(share: float | None, line: str) -> None:
            progress(share, desc=line)

        report(None, "reading")
        try:
            job = worker.run(upload, (sentences or "").splitlines(), propagate, report)
        except ValueError as error:
            raise gr.Error(str(error), duration=None, print_exception=False) from error
        _forget(earlier)
        answers = job.segmentation.answers
        names, short_names = (
            [f"{i + 1}. {_shorten(answer.sentence, length)}" for i, answer in enumerate(answers)]
            for length in (40, max(LEGEND_LETTERS // len(answers), 8))
        )
        return (
            job,
            str(job.original),
            str(job.overlay),
            "\n".join(answer.verdict() for answer in answers),
            gr.LinePlot(
                _scores(job, short_names),
                color_map={name: _hex(a.colour) for name, a in zip(short_names, answers, strict=True)},
            ),
            str(job.everything),
            gr.Slider(0, max(len(job.segmentation) - 1, 1), value=0),
            gr.Dropdown([ALL, *names], value=ALL),
        )

    return run


def _draw(job: Job | None, frame: float, layers: list[str], of: str) -> RGB | None:
    if job is None:
        return None
    number = (of or "").partition(".")[0]
    sentence = int(number) - 1 if number.isdigit() and of != ALL else None
    return draw_frame(job, int(frame or 0), layers or [], sentence)


def _scores(job: Job, names: Sequence[str]) -> Any:
    import pandas as pd  # comes with gradio

    parts = [
        pd.DataFrame({"seconds": job.segmentation.times, "score": answer.scores, "sentence": name})
        for name, answer in zip(names, job.segmentation.answers, strict=True)
    ]
    return pd.concat(parts)


def _sweep(root: Path, closed: threading.Event) -> None:
    """Delete what is old, now and then: gradio forgets some uploads, and a job whose asker has gone is nobody's."""
    while not closed.wait(CLEANED_SECONDS):
        oldest = time.time() - KEPT_SECONDS
        for path in (path for name in ("uploads", "jobs") for path in sorted((root / name).rglob("*"), reverse=True)):
            with contextlib.suppress(OSError):  # somebody else has deleted it, or something young is in the folder
                if path.lstat().st_mtime < oldest:
                    path.rmdir() if path.is_dir() else path.unlink()


def _forget(job: Job | None) -> None:
    if job is not None:
        job.remove()


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*(int(0.75 * value) for value in colour))
