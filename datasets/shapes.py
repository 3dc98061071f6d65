"""Writes the generated benchmark: coloured, textured shapes that move, hide one another and leave the frame.

    python -m datasets.shapes ytvos OUT --num_videos 8 --num_frames 12 --seed 0

Each sub-command writes the layout of one real benchmark. The same seed gives the same bytes, whatever the workers.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from datasets.shapes_scene import VideoSettings
from datasets.shapes_video import GeneratedVideo, generate_video

SPLITS = ("train", "valid")
FRAME_STEP = 5  # Ref-YouTube-VOS annotates every fifth frame, and names frames so
JPEG_QUALITY = 90
_MARKER = "generated.json"  # tells a folder that this program wrote from any other
_PROGRAM = "datasets.shapes"


def write_ytvos(
    root: Path,
    settings: VideoSettings,
    *,
    num_videos: int,
    num_valid_videos: int | None = None,
    seed: int = 0,
    num_workers: int = 2,
) -> None:
    """Writes a training and a validation set in the layout of Ref-YouTube-VOS.

    Unlike the real release, `valid` has annotations, and its expressions have `obj_id` and `kind`, for scoring at home.

    Args:
        root: the folder to make; if an earlier run of this program made it, it is replaced.
        settings: size and number of frames.
        num_videos: in `train`.
        num_valid_videos: in `valid`; a quarter of `num_videos`, at least 2, by default.
        seed: the same seed gives the same bytes.
        num_workers: processes.

    Raises:
        FileExistsError: if `root` holds something this program did not write.
        ValueError: if a count is not positive.
    """
    if num_valid_videos is None:
        num_valid_videos = max(2, num_videos // 4)
    counts = dict(zip(SPLITS, (num_videos, num_valid_videos), strict=True))
    for name, value in (
        ("num_videos", num_videos),
        ("num_valid_videos", num_valid_videos),
        ("num_workers", num_workers),
    ):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    if seed < 0:
        raise ValueError(f"seed is {seed}; it must not be negative")
    with new_folder(root, {"layout": "ytvos", "seed": seed, "num_videos": counts, **vars(settings)}) as folder:
        jobs = [(split, index) for split in SPLITS for index in range(counts[split])]
        write = partial(_write_ytvos_video, folder, settings, seed)
        records = dict(zip(jobs, tqdm(_map(write, jobs, num_workers), "videos", len(jobs), unit="video"), strict=True))
        for split in SPLITS:
            videos = [records[split, index] for index in range(counts[split])]
            _write_json(folder / split / "meta.json", {name: meta for name, meta, _ in videos})
            _write_json(
                folder / "meta_expressions" / split / "meta_expressions.json",
                {name: expressions for name, _, expressions in videos},
            )


@contextmanager
def new_folder(root: Path, description: dict[str, Any]) -> Iterator[Path]:
    """A temporary folder beside `root` that takes its place when all of it is written, and is removed on an error.

    Raises:
        FileExistsError: if `root` exists and this program did not write it.
    """
    root = Path(root).resolve()
    _check_replaceable(root)
    partial_root = root.with_name(f".{root.name}.partial")
    shutil.rmtree(partial_root, ignore_errors=True)
    partial_root.mkdir(parents=True)
    try:
        yield partial_root
        record = {"program": _PROGRAM, **description, "holds": sorted(_entries(partial_root))}
        (partial_root / _MARKER).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        if root.exists():
            shutil.rmtree(root)
        partial_root.rename(root)
    except BaseException:
        shutil.rmtree(partial_root, ignore_errors=True)
        raise


def video_generator(seed: int, split: str, index: int) -> np.random.Generator:
    """The source of all that is random in one video."""
    return np.random.default_rng((seed, SPLITS.index(split), index))


def write_jpeg(path: Path, image: np.ndarray) -> None:
    """Writes an RGB image (H, W, 3) uint8."""
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    path.write_bytes(data.tobytes())


def write_palette_png(path: Path, mask: np.ndarray) -> None:
    """Writes object ids (H, W) uint8 as a palette image, each id in a colour of its own."""
    image = Image.fromarray(mask)
    image.putpalette(_palette())
    image.save(path, format="PNG")


def _entries(root: Path) -> set[str]:
    """Names in a folder and in its folders, as "train/meta.json"."""
    return {path.relative_to(root).as_posix() for pattern in ("*", "*/*") for path in root.glob(pattern)}


def _check_replaceable(root: Path) -> None:
    """Raises FileExistsError unless `root` is absent, empty, or what an earlier run wrote with nothing added."""
    if not root.exists():
        return
    if not root.is_dir():
        raise FileExistsError(f"{root} is a file; give a folder that does not exist yet")
    try:
        record = json.loads((root / _MARKER).read_text(encoding="utf-8"))
        known = {*record["holds"], _MARKER} if record["program"] == _PROGRAM else set()
    except (OSError, ValueError, KeyError, TypeError):
        known = set()
    foreign = sorted(_entries(root) - known)
    if foreign:
        held = ", ".join(foreign[:5]) + (", ..." if len(foreign) > 5 else "")
        raise FileExistsError(
            f"{root} holds something this program did not write ({held}); choose another folder or empty this one"
        )


def _write_ytvos_video(
    folder: Path, settings: VideoSettings, seed: int, job: tuple[str, int]
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Writes the images of one video; returns its name, its entry in meta.json and that in meta_expressions.json."""
    split, index = job
    name = f"{split}_{index:05d}"
    video = generate_video(video_generator(seed, split, index), settings, index)
    frame_names = [f"{FRAME_STEP * time:05d}" for time in range(settings.num_frames)]
    images, annotations = (folder / split / kind / name for kind in ("JPEGImages", "Annotations"))
    images.mkdir(parents=True)
    annotations.mkdir(parents=True)
    for frame_name, image, mask in zip(frame_names, video.frames, video.masks, strict=True):
        write_jpeg(images / f"{frame_name}.jpg", image)
        write_palette_png(annotations / f"{frame_name}.png", mask)
    return name, _meta(video, frame_names), _expressions(video, frame_names)


def _meta(video: GeneratedVideo, frame_names: list[str]) -> dict[str, Any]:
    visible = video.visible
    objects = {}
    for index, look in enumerate(video.scene.looks):
        frames = [frame_name for frame_name, shown in zip(frame_names, visible[:, index], strict=True) if shown]
        objects[str(index + 1)] = {"category": look.shape, "frames": frames}
    return {"objects": objects}


def _expressions(video: GeneratedVideo, frame_names: list[str]) -> dict[str, Any]:
    expressions = {
        str(index): {"exp": expression.sentence, "obj_id": str(expression.object_id), "kind": expression.kind}
        for index, expression in enumerate(video.expressions)
    }
    return {"expressions": expressions, "frames": frame_names}


def _write_json(path: Path, videos: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"videos": videos}, indent=1) + "\n", encoding="utf-8")


def _map(function, jobs: list, num_workers: int) -> Iterator:
    """Results in the order of the jobs."""
    if num_workers == 1:
        yield from map(function, jobs)
        return
    context = multiprocessing.get_context("spawn")  # forking a process that has threads can hang
    with ProcessPoolExecutor(num_workers, context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        yield from pool.map(function, jobs, chunksize=max(1, min(16, len(jobs) // (4 * num_workers))))


def _palette() -> list[int]:
    """768 values: the colour map of PASCAL VOC, which spreads the bits of the id over red, green and blue."""
    ids = np.arange(256)
    channels = [sum(((ids >> (3 * bit + channel)) & 1) << (7 - bit) for bit in range(8)) for channel in range(3)]
    return np.stack(channels, axis=1).ravel().tolist()


def _parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m {_PROGRAM}", description=__doc__.splitlines()[0])
    layouts = parser.add_subparsers(dest="layout", required=True)
    ytvos = layouts.add_parser("ytvos", help="Ref-YouTube-VOS: JPEGs, palette PNGs, meta.json, meta_expressions")
    ytvos.add_argument("root", type=Path, metavar="OUT", help="folder to make")
    ytvos.add_argument("--num_videos", type=int, default=8, help="training videos")
    ytvos.add_argument("--num_valid_videos", type=int, help="default: a quarter of num_videos, at least 2")
    ytvos.add_argument("--num_frames", type=int, default=12, help="frames per video; 1 makes single images")
    ytvos.add_argument("--height", type=int, default=160)
    ytvos.add_argument("--width", type=int, default=240)
    ytvos.add_argument("--seed", type=int, default=0)
    ytvos.add_argument("--num_workers", type=int, default=2, help="processes; changes nothing in the files")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """The program; `arguments` default to those of the command line."""
    args = _parse_arguments(arguments)
    try:
        settings = VideoSettings(num_frames=args.num_frames, height=args.height, width=args.width)
        write_ytvos(
            args.root,
            settings,
            num_videos=args.num_videos,
            num_valid_videos=args.num_valid_videos,
            seed=args.seed,
            num_workers=args.num_workers,
        )
    except (ValueError, OSError, RuntimeError) as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
