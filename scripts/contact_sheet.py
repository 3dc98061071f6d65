"""Pictures of a result: a sheet of frames with masks and boxes, one row per expression, and a GIF of one video.

python scripts/contact_sheet.py --results DIR/Annotations --data_root OUT --split valid --output sheet.png --gif one.gif
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datasets.videos import Video, VideoDataset
from util.disk import make_folder
from util.failures import told_in_one_line
from util.masks import mask_bounds, read_mask
from util.visualize import RGB, Instance, draw_instances, make_grid, palette, with_caption, write_gif, write_image


def sheet_rows(video: Video, results: Path, num_frames: int, height: int, num_expressions: int) -> list[list[RGB]]:
    """One row per expression: frames spread over the video, under the caption.

    Args:
        video: what is shown.
        results: folder of `<video>/<expression id>/<frame>.png`.
        num_frames: at most, per row.
        height: of a frame, in pixels.
        num_expressions: at most.
    """
    chosen = np.unique(np.linspace(0, len(video) - 1, num_frames).round().astype(int))
    frames = video.frames_at(chosen)
    rows = []
    for i, expression in enumerate(video.expressions[:num_expressions]):
        images = []
        for t in chosen:
            path = results / video.name / expression.expression_id / f"{video.frame_names[t]}.png"
            images.append(draw_instances(frames[t], [_instance(path, video.size, palette(i))], height))
        caption = f"{video.name}: {expression.caption}"
        strips = [with_caption(image, [(caption if n == 0 else " ", palette(i))]) for n, image in enumerate(images)]
        tallest = max(strip.shape[0] for strip in strips)  # a long caption takes several lines above the first frame
        rows.append([np.pad(s, ((tallest - s.shape[0], 0), (0, 0), (0, 0)), constant_values=250) for s in strips])
    return rows


def animation(video: Video, results: Path, height: int, num_expressions: int) -> list[RGB]:
    """Every frame of a video with the masks of several expressions, each in its colour, under their captions."""
    expressions = video.expressions[:num_expressions]
    captions = [(expression.caption, palette(i)) for i, expression in enumerate(expressions)]
    images = []
    for t, frame in video.frames_at(range(len(video))).items():
        instances = []
        for i, expression in enumerate(expressions):
            path = results / video.name / expression.expression_id / f"{video.frame_names[t]}.png"
            instances.append(_instance(path, video.size, palette(i)))
        images.append(with_caption(draw_instances(frame, instances, height), captions))
    return images


def _instance(path: Path, size: tuple[int, int], colour: tuple[int, int, int]) -> Instance:
    mask = read_mask(path, size)
    return Instance(mask, colour, box=mask_bounds(mask))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", required=True, type=Path, help="folder of <video>/<expression id>/<frame>.png")
    parser.add_argument("--data_root", required=True, type=Path, help="data set in the Ref-YouTube-VOS layout")
    parser.add_argument("--split", default="valid")
    parser.add_argument("--output", required=True, type=Path, help="the sheet, .png or .jpg")
    parser.add_argument("--gif", type=Path, help="also animate the first of the videos")
    parser.add_argument("--videos", nargs="*", help="names; default: the first few that have expressions")
    parser.add_argument("--num_videos", type=int, default=4)
    parser.add_argument("--num_frames", type=int, default=6, help="per row of the sheet")
    parser.add_argument("--num_expressions", type=int, default=3, help="per video")
    parser.add_argument("--height", type=int, default=160, help="of a frame, in pixels")
    args = parser.parse_args(argv)
    by_name = {video.name: video for video in VideoDataset(args.data_root, args.split) if video.expressions}
    if unknown := sorted(set(args.videos or []) - set(by_name)):
        raise ValueError(
            f"--videos: no video {unknown[0]!r} with expressions in split {args.split} of {args.data_root}"
        )
    videos = [by_name[name] for name in args.videos or list(by_name)[: args.num_videos]]
    rows = [
        row
        for video in videos
        for row in sheet_rows(video, args.results, args.num_frames, args.height, args.num_expressions)
    ]
    for path in filter(None, (args.output, args.gif)):
        make_folder(path.parent)
    write_image(args.output, make_grid(rows))
    print(args.output)
    if args.gif is not None:
        write_gif(args.gif, animation(videos[0], args.results, 2 * args.height, args.num_expressions))
        print(args.gif)


if __name__ == "__main__":
    with told_in_one_line():
        main()
