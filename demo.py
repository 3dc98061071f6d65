"""Any video, any sentence: where is what the sentence means, in every frame?

    python demo.py VIDEO "the red square" "the small circle moving left"
    python demo.py --sample                     a clip and weights that come with the repository
    python demo.py --serve                      the same in a browser, on this machine

VIDEO is a video file (mp4, mov, avi, webm, gif ...), a folder of frames, one picture, or camera:0 (until Ctrl-C).
Writes overlay.mp4 (H.264, plays in browsers), masks/<sentence>/<frame>.png, results.json (boxes and scores of every
frame) and sheet.jpg.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from datasets.shapes_sample import SENTENCES, SampleClip
from models.predictor import Predictor
from models.propagators import add_propagation_options, build_propagator
from models.segmentation import check_sentences
from util.export import result_folder
from util.failures import told_in_one_line
from util.frame_source import FrameSource
from util.logs import set_up_logging
from util.video_reader import open_video

logger = logging.getLogger(__name__)

SHIPPED_WEIGHTS = Path(__file__).resolve().parent / "configs" / "quickstart_weights.pth"
DEFAULT_FOLDER = Path("runs") / "demo"
EPILOG = "Words at the end are sentences: put each in quotes."


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG, formatter_class=layout, allow_abbrev=False)
    parser.add_argument("video", nargs="?", metavar="VIDEO", help="a file, a folder of frames, a picture, or camera:0")
    parser.add_argument("sentences", nargs="*", metavar="SENTENCE", help="which object is meant; one or several")
    parser.add_argument(
        "--sample", action="store_true", help="use the sample clip; its sentences unless some are given"
    )
    parser.add_argument("--checkpoint", type=Path, default=SHIPPED_WEIGHTS, help="ours or a published one")
    parser.add_argument("--text_encoder", default="roberta-base", help="tokenizer of a published checkpoint")
    parser.add_argument(
        "--output_dir",
        type=Path,
        help="default: runs/demo/<name of the video>, with its suffix where that holds another's results",
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--no_masks", action="store_true", help="do not write the PNG of every mask")
    parser.add_argument("--max_frames", type=int, help="stop after so many frames")
    parser.add_argument("--window", type=int, help="frames that pass the network together (default: the checkpoint's)")
    parser.add_argument("--short_side", type=int, help="pixels the network sees (default: the checkpoint's)")
    parser.add_argument(
        "--presence_threshold",
        type=float,
        help='a sentence whose score stays below is "not there"; 0 always finds something (default: the checkpoint\'s)',
    )
    add_propagation_options(parser)
    serve = parser.add_argument_group("page")
    serve.add_argument("--serve", action="store_true", help="open a page instead; needs no VIDEO")
    serve.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in")
    serve.add_argument("--port", type=int, default=7860)
    serve.add_argument("--max_megabytes", type=int, default=100, help="of an uploaded video")
    serve.add_argument("--max_seconds", type=float, default=60, help="of an uploaded video")
    serve.add_argument("--max_jobs", type=int, default=1, help="videos that are worked on at a time")
    return parser


def build_predictor(args: argparse.Namespace) -> Predictor:
    """The predictor of the checkpoint, with the command line's settings in place of the checkpoint's."""
    settings = {"window": args.window, "short_side": args.short_side, "presence_threshold": args.presence_threshold}
    settings = {name: value for name, value in settings.items() if value is not None}
    if args.presence_threshold == 0:
        settings["frame_presence_threshold"] = 0.0
    return Predictor.from_checkpoint(args.checkpoint, device=args.device, text_encoder=args.text_encoder, **settings)


@contextmanager
def frame_bar(description: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A progress bar that counts frames and shows how many pass in a second."""
    interval = 0.1 if sys.stderr.isatty() else 10
    with logging_redirect_tqdm(), tqdm(total=total, desc=description, unit="frame", mininterval=interval) as bar:
        yield lambda count: bar.update(count) and None


def run(args: argparse.Namespace) -> Path:
    """Segment a video and write the results; returns their folder."""
    sentences = check_sentences(args.sentences)
    source: FrameSource = SampleClip() if args.sample else open_video(args.video)
    folder = args.output_dir or result_folder(DEFAULT_FOLDER, source)
    if (folder / "results.json").exists():
        logger.info("the results in %s will be replaced", folder)
    predictor = build_predictor(args)
    propagator = build_propagator(args.propagate, args.sam2_weights, predictor.device)
    total = source.num_frames
    if args.max_frames is not None:
        total = min(total or args.max_frames, args.max_frames)
    with frame_bar("segmenting", total) as progress:
        segmentation = predictor.segment(
            source, sentences, propagator=propagator, max_frames=args.max_frames, progress=progress
        )
    with frame_bar("writing", len(segmentation)) as progress:
        files = segmentation.save(folder, masks=not args.no_masks, progress=progress)
    for answer in segmentation.answers:
        logger.info("%s", answer.verdict())
    for path in (files.overlay, files.sheet, files.results, *files.masks):
        logger.info("wrote %s", path)
    return folder


def serve_page(args: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C."""
    from demo_page import PageSettings, serve  # gradio takes seconds to import
    from page_jobs import Limits

    predictors = [build_predictor(args) for _ in range(args.max_jobs)]
    sam2 = (
        build_propagator(args.propagate, args.sam2_weights, predictors[0].device) if args.propagate == "sam2" else None
    )
    limits = Limits(max_megabytes=args.max_megabytes, max_seconds=args.max_seconds)
    serve(predictors, PageSettings(host=args.host, port=args.port, limits=limits, propagator=sam2))


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Leave the program with one line where arguments do not go together."""
    if args.sample and args.video is not None:
        args.sentences = [args.video, *args.sentences]
        args.video = None
    if args.sample and not args.sentences:
        args.sentences = list(SENTENCES)
    if not (args.sample or args.serve) and args.video is None:
        parser.error("name a VIDEO and a sentence, or try --sample or --serve")
    if not args.serve and not args.sentences:
        parser.error('no sentence; say which object is meant, "the red square" for instance')
    for name in ("max_frames", "window", "short_side", "max_megabytes", "max_seconds", "max_jobs"):
        value = getattr(args, name)
        if value is not None and not 0 < value < math.inf:  # NaN is above no limit and below none
            parser.error(f"--{name} is {value}; it must be positive")
    if not 0 <= args.port <= 65535:
        parser.error(f"--port is {args.port}; it must be from 1 to 65535, or 0 for any that is free")


def main(argv: Sequence[str] | None = None) -> None:
    parser = build_parser()
    args = parser.parse_args(argv)
    check_arguments(parser, args)
    set_up_logging()
    if args.serve:
        serve_page(args)
    else:
        run(args)


if __name__ == "__main__":
    try:
        with told_in_one_line():
            main()
    except KeyboardInterrupt:
        sys.exit("interrupted")
