"""Writes the generated benchmark: coloured, textured shapes that move, hide one another and leave the frame.

    python -m datasets.shapes ytvos OUT --num_videos 8 --num_frames 12 --seed 0

Each sub-command writes the layout of one real benchmark. The same seed gives the same bytes, whatever the workers.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from datasets.shapes_a2d import write_a2d
from datasets.shapes_davis import write_davis
from datasets.shapes_files import PROGRAM
from datasets.shapes_jhmdb import write_jhmdb
from datasets.shapes_mevis import write_mevis
from datasets.shapes_refcoco import write_refcoco
from datasets.shapes_scene import VideoSettings
from datasets.shapes_ytvos import write_ytvos
from util.failures import describe

LAYOUTS: dict[str, tuple[Callable[..., dict[str, int]], str]] = {
    "ytvos": (write_ytvos, "Ref-YouTube-VOS: JPEGs, palette PNGs, meta.json, meta_expressions"),
    "davis": (write_davis, "Ref-DAVIS17: the DAVIS tree and four text files"),
    "a2d": (write_a2d, "A2D-Sentences: mp4, h5 masks, text annotations; num_valid_videos are those of test"),
    "jhmdb": (write_jhmdb, "JHMDB-Sentences: PNGs, puppet masks (.mat), text annotations; one set, without splits"),
    "refcoco": (write_refcoco, "RefCOCO, RefCOCO+, RefCOCOg: images, instances.json, refs(...).p; videos are images"),
    "mevis": (write_mevis, "MeViS: JPEGs, mask_dict.json; num_valid_videos each of valid_u and valid"),
}


def _parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m {PROGRAM}", description=__doc__.splitlines()[0])
    layouts = parser.add_subparsers(dest="layout", required=True)
    default = "(default: %(default)s)"
    for name, (_, help_text) in LAYOUTS.items():
        layout = layouts.add_parser(name, help=help_text, description=help_text)
        layout.add_argument("root", type=Path, metavar="OUT", help="folder to make")
        layout.add_argument("--num_videos", type=int, default=8, help=f"training videos {default}")
        if name != "jhmdb":
            layout.add_argument("--num_valid_videos", type=int, help="default: a quarter of num_videos, at least 2")
        layout.add_argument(
            "--num_frames", type=int, default=12, help=f"frames per video; 1 makes single images {default}"
        )
        layout.add_argument("--height", type=int, default=160, help=f"of the frames, in pixels, at least 64 {default}")
        layout.add_argument("--width", type=int, default=240, help=f"of the frames, in pixels, at least 64 {default}")
        layout.add_argument("--seed", type=int, default=0, help=f"the same seed gives the same bytes {default}")
        if name == "ytvos":
            layout.add_argument(
                "--num_absent", type=int, default=0, help=f"sentences a video without their object {default}"
            )
        layout.add_argument(
            "--num_workers", type=int, default=2, help=f"processes; changes nothing in the files {default}"
        )
        layout.add_argument(
            "--overwrite", action="store_true", help="replace a generated set of another layout or of other settings"
        )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """The program; `arguments` default to those of the command line."""
    options = vars(_parse_arguments(arguments))
    layout, root = options.pop("layout"), options.pop("root")
    write, _ = LAYOUTS[layout]
    try:
        settings = VideoSettings(**{name: options.pop(name) for name in ("num_frames", "height", "width")})
        counts = write(root, settings, **options)
    except (ValueError, OSError, RuntimeError) as error:
        raise SystemExit(f"error: {describe(error)}") from error
    print(f"{root}: {layout}, {', '.join(f'{count} {what}' for what, count in counts.items())}")  # noqa: T201


if __name__ == "__main__":
    main()
