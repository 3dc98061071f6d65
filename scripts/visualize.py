"""Why a result is what it is: where the model looks in a video, and where a folder of results is wrong.

    python scripts/visualize.py queries --sample --output queries.png
    python scripts/visualize.py queries VIDEO "the red square" --checkpoint model.pth --output queries.png
    python scripts/visualize.py errors --results results/Annotations --data_root data/shapes --output errors.html

`queries` draws, for a few frames of a video: the answer, the boxes and reference points of all queries (the paper's
figure 3), the sampling points of the chosen query in the last decoder layer, and its attention as a heat map. `errors`
writes one page or picture with the best and the worst expressions of results that scripts/eval_jf.py has scored
(jf.csv), with maps of false positives and false negatives.
"""

from __future__ import annotations

import argparse
import base64
import csv
import html
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datasets.shapes_sample import SENTENCES, SampleClip
from datasets.videos import Video, VideoDataset
from models.predictor import Prediction, Predictor
from models.sampling_points import record_sampling_points
from util.error_maps import LEGEND, draw_errors
from util.failures import told_in_one_line
from util.frame_source import FrameSource, Limited
from util.masks import read_mask, write_bytes
from util.video_reader import open_video
from util.visualize import RGB, Instance, draw_instances, draw_queries, make_grid, palette, with_caption, write_image

SHIPPED_WEIGHTS = Path(__file__).resolve().parents[1] / "configs" / "quickstart_weights.pth"
HEIGHT = 240  # pixels of a frame in a picture
LINE = (90, 90, 90)


def draw_sampling_points(image: RGB, locations: NDArray[np.floating], weights: NDArray[np.floating]) -> RGB:
    """Dots from blue (little weight) to red (much), the heaviest on top.

    Args:
        image: (H, W, 3) uint8.
        locations: (..., 2) xy as shares of the frame; those outside are not seen.
        weights: (...) of each.
    """
    image = image.copy()
    locations, weights = locations.reshape(-1, 2), weights.reshape(-1)
    shades = (255 * weights / max(weights.max(), 1e-9)).astype(np.uint8)
    colours = cv2.applyColorMap(shades[:, None], cv2.COLORMAP_JET)[:, 0, ::-1]
    for i in np.argsort(weights):
        x, y = locations[i] * image.shape[1::-1]
        cv2.circle(image, (round(float(x)), round(float(y))), 3, (0, 0, 0), -1, cv2.LINE_AA)
        cv2.circle(image, (round(float(x)), round(float(y))), 2, colours[i].tolist(), -1, cv2.LINE_AA)
    return image


def draw_attention(image: RGB, locations: NDArray[np.floating], weights: NDArray[np.floating]) -> RGB:
    """The weights of the points, spread around them, as a heat map over the frame; arguments as above."""
    h, w = image.shape[:2]
    heat = np.zeros((h, w), dtype=np.float32)
    pixels = np.floor(locations.reshape(-1, 2) * (w, h)).astype(int)
    inside = ((pixels >= 0) & (pixels < (w, h))).all(-1)
    np.add.at(heat, (pixels[inside, 1], pixels[inside, 0]), weights.reshape(-1)[inside])
    heat = cv2.GaussianBlur(heat, (0, 0), h / 30)
    shades = (255 * heat / max(heat.max(), 1e-9)).astype(np.uint8)
    return cv2.addWeighted(image, 0.45, cv2.applyColorMap(shades, cv2.COLORMAP_JET)[..., ::-1], 0.55, 0)


def query_rows(predictor: Predictor, frames: RGB, sentence: str, colour: tuple[int, int, int]) -> list[list[RGB]]:
    """Four rows of pictures, a column for each of the (T, h, w, 3) frames."""
    with record_sampling_points(predictor.model) as record:
        prediction = predictor.predict(predictor.encode(frames), [sentence])[0]
    locations, weights = (x[-1][:, prediction.query].numpy() for x in (record.locations, record.weights))
    names = ("answer", "all queries: boxes, reference points", "sampling points, last layer", "attention, last layer")
    rows: list[list[RGB]] = [[] for _ in names]
    for t, frame in enumerate(frames):
        plain = draw_instances(frame, [], HEIGHT)
        pictures = (
            draw_instances(frame, [_instance(prediction, t, colour)], HEIGHT),
            _all_queries(plain, prediction, t, colour, plain.shape[0] / frame.shape[0]),
            draw_sampling_points(plain, locations[t], weights[t]),
            draw_attention(plain, locations[t], weights[t]),
        )
        for row, name, picture in zip(rows, names, pictures, strict=True):
            row.append(with_caption(picture, [(name if t == 0 else " ", LINE)]))
    rows[0] = [
        with_caption(picture, [(f'"{sentence}"' if t == 0 else " ", colour)]) for t, picture in enumerate(rows[0])
    ]
    return rows


def _instance(prediction: Prediction, t: int, colour: tuple[int, int, int]) -> Instance:
    return Instance(
        prediction.masks[t].numpy(), colour, prediction.boxes[t].tolist(), f"{float(prediction.scores[t]):.2f}"
    )


def _all_queries(image: RGB, prediction: Prediction, t: int, colour: tuple[int, int, int], scale: float) -> RGB:
    return draw_queries(
        image,
        boxes=prediction.query_boxes[t].numpy() * scale,
        points=prediction.reference_points[t].numpy() * scale,
        scores=prediction.query_scores[t].numpy(),
        chosen=prediction.query,
        colour=colour,
    )


def spread_frames(source: FrameSource, num_frames: int) -> RGB:
    """(T, h, w, 3) frames spread over the first 1000 of a video."""
    total = sum(1 for _ in Limited(source, 1000).frames()) if source.replayable else num_frames
    chosen = set(np.linspace(0, total - 1, min(num_frames, total)).round().astype(int).tolist())
    return np.stack([frame.image for t, frame in enumerate(Limited(source, total).frames()) if t in chosen])


@dataclass(frozen=True)
class Scored:
    """A line of jf.csv."""

    video: str
    expression_id: str
    caption: str
    score: float


def read_scores(path: Path) -> list[Scored]:
    """The expressions of a jf.csv, the best first.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it is none of scripts/eval_jf.py.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; score the results with scripts/eval_jf.py first")
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [
                Scored(row["video"], row["expression_id"], row["expression"], float(row["J&F"]))
                for row in csv.DictReader(file)
            ]
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise ValueError(f"{path}: not a jf.csv of scripts/eval_jf.py ({error})") from error
    if not rows:
        raise ValueError(f"{path}: holds no expressions")
    return sorted(rows, key=lambda row: -row.score)


def error_row(video: Video, results: Path, scored: Scored, num_frames: int) -> RGB:
    """Frames of an expression: right, false positive, false negative.

    Raises:
        ValueError, FileNotFoundError: a mask is missing or damaged, or the data set does not have the expression.
    """
    expression = next((e for e in video.expressions if e.expression_id == scored.expression_id), None)
    if expression is None:
        raise ValueError(f"video {video.name} has no expression {scored.expression_id}; is this the right data set?")
    chosen = np.unique(np.linspace(0, len(video) - 1, num_frames).round().astype(int)).tolist()
    frames = video.frames_at(chosen)
    images = []
    for t in chosen:
        path = results / video.name / scored.expression_id / f"{video.frame_names[t]}.png"
        picture = draw_errors(frames[t], read_mask(path, video.size), expression.mask(video.masks(t)))
        images.append(draw_instances(picture, [], HEIGHT * 2 // 3))
    return make_grid([images])


@dataclass(frozen=True)
class ErrorGroup:
    """The worst or the best expressions, and the frames of each in a row."""

    title: str
    scored: list[Scored]
    pictures: list[RGB]


def error_groups(
    results: Path, dataset: VideoDataset, scores: Sequence[Scored], count: int, num_frames: int
) -> list[ErrorGroup]:
    """The worst and the best `count` expressions."""
    videos = {video.name: video for video in dataset}
    groups = []
    for title, chosen in (("Worst", list(reversed(scores[-count:]))), ("Best", list(scores[:count]))):
        for scored in chosen:
            if scored.video not in videos:
                raise ValueError(f"the data set has no video {scored.video}; is this the right split?")
        pictures = [error_row(videos[scored.video], results, scored, num_frames) for scored in chosen]
        groups.append(ErrorGroup(title, chosen, pictures))
    return groups


def error_page(results: Path, scores: Sequence[Scored], groups: Sequence[ErrorGroup]) -> str:
    """One HTML page, pictures included."""
    parts = [
        "<!doctype html><meta charset=utf-8><title>Best and worst expressions</title>",
        "<style>body{font:15px system-ui,sans-serif;margin:2em;max-width:1400px}img{max-width:100%}"
        "figure{margin:1em 0}b{padding:0 .4em;color:#fff}</style>",
        f"<h1>{html.escape(str(results))}</h1><p>{len(scores)} expressions, mean J&amp;F "
        f"{np.mean([s.score for s in scores]):.3f}. ",
        " ".join(f'<b style="background:rgb{colour}">{name}</b>' for name, colour in LEGEND),
        "</p>",
    ]
    for group in groups:
        parts.append(f"<h2>{group.title}</h2>")
        for scored, picture in zip(group.scored, group.pictures, strict=True):
            caption = f"{scored.score:.3f} &nbsp; {html.escape(scored.caption)} ({html.escape(scored.video)})"
            parts.append(f'<figure><figcaption>{caption}</figcaption><img src="{_data_url(picture)}"></figure>')
    return "\n".join(parts)


def error_sheet(scores: Sequence[Scored], groups: Sequence[ErrorGroup]) -> RGB:
    """The same as one picture."""
    rows: list[list[RGB]] = []
    for group in groups:
        title = f"{group.title} of {len(scores)} expressions, mean J&F {np.mean([s.score for s in scores]):.3f}"
        for i, (scored, picture) in enumerate(zip(group.scored, group.pictures, strict=True)):
            lines = [(f"{scored.score:.3f}  {scored.caption} ({scored.video})", LINE)]
            if i == 0:
                lines = [(title, (0, 0, 0)), *([] if rows else LEGEND), *lines]
            rows.append([with_caption(picture, lines)])
    return make_grid(rows)


def _data_url(image: RGB) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def build_parser() -> argparse.ArgumentParser:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    commands = parser.add_subparsers(dest="command", required=True)
    queries = commands.add_parser("queries", help="where the model looks in a video")
    queries.add_argument("video", nargs="?", metavar="VIDEO")
    queries.add_argument("sentences", nargs="*", metavar="SENTENCE")
    queries.add_argument("--sample", action="store_true", help="the sample clip and its sentences")
    queries.add_argument("--checkpoint", type=Path, default=SHIPPED_WEIGHTS)
    queries.add_argument("--text_encoder", default="roberta-base", help="tokenizer of a published checkpoint")
    queries.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    queries.add_argument("--output", type=Path, default=Path("queries.png"), help="PNG or JPEG")
    queries.add_argument("--num_frames", type=int, default=4, help="spread over the video")
    errors = commands.add_parser("errors", help="the best and worst expressions of a folder of results")
    errors.add_argument("--results", type=Path, required=True, help="folder of <video>/<expression id>/<frame>.png")
    errors.add_argument("--data_root", type=Path, required=True)
    errors.add_argument("--split", default="valid")
    errors.add_argument("--scores", type=Path, help="default: jf.csv beside the results, which eval_jf.py writes")
    errors.add_argument("--output", type=Path, default=Path("errors.html"), help="HTML, PNG or JPEG")
    errors.add_argument("--count", type=int, default=6, help="best ones, and worst ones")
    errors.add_argument("--num_frames", type=int, default=6, help="of each expression")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    parser = build_parser()
    args = parser.parse_args(argv)
    suffixes = (".png", ".jpg", ".jpeg") + (".html",) * (args.command == "errors")
    if args.output.suffix.lower() not in suffixes:
        parser.error(f"--output is {args.output}; its name must end with one of {', '.join(suffixes)}")
    if args.num_frames < 1:
        parser.error(f"--num_frames is {args.num_frames}; it must be positive")
    if args.command == "errors":
        if args.count < 1:
            parser.error(f"--count is {args.count}; it must be positive")
        dataset = VideoDataset(args.data_root, args.split)
        dataset.reader.require_annotations()
        scores = read_scores(args.scores or args.results.resolve().parent / "jf.csv")
        groups = error_groups(args.results, dataset, scores, min(args.count, len(scores)), args.num_frames)
        if args.output.suffix.lower() == ".html":
            write_bytes(args.output, error_page(args.results, scores, groups).encode())
        else:
            write_image(args.output, error_sheet(scores, groups))
    else:
        sentences = [s for s in ([args.video] if args.sample and args.video else []) + args.sentences if s]
        sentences = sentences or (list(SENTENCES[:1]) if args.sample else [])
        if not sentences or not (args.sample or args.video):
            parser.error("name a VIDEO and a sentence, or try --sample")
        predictor = Predictor.from_checkpoint(args.checkpoint, device=args.device, text_encoder=args.text_encoder)
        frames = spread_frames(SampleClip() if args.sample else open_video(args.video), args.num_frames)
        rows = [row for i, s in enumerate(sentences) for row in query_rows(predictor, frames, s, palette(i))]
        write_image(args.output, make_grid(rows))
    print(args.output)


if __name__ == "__main__":
    with told_in_one_line():
        main()
