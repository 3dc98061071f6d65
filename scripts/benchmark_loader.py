"""Training clips a second of the loader, and what of them takes how long.

    python scripts/benchmark_loader.py
    python scripts/benchmark_loader.py --num_workers 4 --config configs/ytvos_finetune_r50.yaml

Writes videos of photograph-like JPEGs with palette masks, then loads clips with the full augmentation of the
configuration, by default that of the Ref-YouTube-VOS recipes. Prints a table and ends with a line of JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datasets.build import build_clip_dataset, build_train_loader, use_one_thread
from datasets.transforms import Clip, distort_colours, make_targets
from util.cli import parse
from util.config import Config
from util.failures import told_in_one_line
from util.frames import normalise
from util.masks import write_object_ids


def write_videos(root: Path, num_videos: int, num_frames: int, size: tuple[int, int]) -> None:
    """A training split in the Ref-YouTube-VOS layout: cloudy textures with the spectrum of photographs, two objects."""
    meta = {}
    for number in range(num_videos):
        video, names = f"video{number:03d}", [f"{5 * index:05d}" for index in range(num_frames)]
        texture, rng = _texture(np.random.default_rng(number), size), np.random.default_rng(number)
        images, masks = (root / "train" / kind / video for kind in ("JPEGImages", "Annotations"))
        images.mkdir(parents=True)
        masks.mkdir(parents=True)
        for index, name in enumerate(names):
            frame = np.roll(texture, 7 * index, 1)
            ids = np.zeros(size, np.uint8)
            for object_id in (1, 2):
                centre = (int(size[1] * (0.2 + 0.3 * object_id) + 3 * index), size[0] // 2)
                cv2.ellipse(ids, centre, (size[1] // 9, size[0] // 5), 30 * object_id, 0, 360, object_id, -1)
            frame = np.where(ids[..., None] > 0, 255 - frame, frame)
            noisy = np.clip(frame + rng.normal(0, 3, frame.shape), 0, 255).astype(np.uint8)
            cv2.imwrite(str(images / f"{name}.jpg"), noisy, [cv2.IMWRITE_JPEG_QUALITY, 90])
            write_object_ids(masks / f"{name}.png", ids)
        expressions = {str(i): {"exp": f"the object {i} on the left", "obj_id": str(i)} for i in (1, 2)}
        meta[video] = {"expressions": expressions, "frames": names}
    path = root / "meta_expressions" / "train" / "meta_expressions.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"videos": meta}))


def _texture(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """(h, w, 3) uint8 whose amplitudes fall with the frequency, as those of photographs do."""
    h, w = size
    frequency = np.hypot(np.fft.fftfreq(h)[:, None], np.fft.rfftfreq(w)[None])
    frequency[0, 0] = 1
    channels = []
    for _ in range(3):
        phases = np.exp(2j * np.pi * rng.random(frequency.shape))
        channel = np.fft.irfft2(phases / frequency**1.2, size)
        channels.append(np.clip(128 + 50 * channel / channel.std(), 0, 255))
    return np.stack(channels, -1).astype(np.uint8)


def clips_per_second(config: Config, seconds: float) -> float:
    """What the loader gives with its processes, after the first batches of each."""
    loader, sampler = build_train_loader(config)
    epoch, count, start = 0, 0, 0.0
    warm_up = 2 * config.data.num_workers + 2
    while not start or time.perf_counter() - start < seconds:
        sampler.set_position(epoch)
        for batch in loader:
            count += len(batch.names)
            if not start and count >= warm_up:
                start, count = time.perf_counter(), 0
            if start and time.perf_counter() - start >= seconds:
                break
        epoch += 1
    return count / (time.perf_counter() - start)


def stage_seconds(config: Config, num_clips: int) -> dict[str, float]:
    """Seconds a clip of each stage, one after the other in this process on one core."""
    use_one_thread()
    dataset, totals = build_clip_dataset(config), defaultdict(float)
    transform = dataset.transform

    def timed(name: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        start = time.perf_counter()
        result = function(*args, **options)
        totals[name] += time.perf_counter() - start
        return result

    for index in range(num_clips):
        rng = np.random.default_rng(index)
        expression, _ = dataset.samples[index % len(dataset.samples)]
        names = [
            expression.frames[i] for i in sorted(rng.permutation(len(expression.frames))[: config.data.num_frames])
        ]
        masks = timed("decode masks", dataset.reader.read_objects, [expression], names)[0]
        frames = timed("decode frames", dataset.reader.read_frames, expression.video, names)
        frames, masks = torch.from_numpy(frames).permute(0, 3, 1, 2), torch.from_numpy(masks.astype(np.uint8))
        geometry = transform.draw_geometry(tuple(frames.shape[-2:]), rng)
        frames = timed("resize, crop, flip frames", geometry.apply, frames, nearest=False)
        masks = timed("resize, crop, flip masks", geometry.apply, masks, nearest=True)
        frames = timed("colours", distort_colours, frames, rng)
        clip = Clip(frames, masks, expression.caption)
        timed("normalise", normalise, clip.frames)
        timed("targets", make_targets, clip.masks, 0)
    return {name: total / num_clips for name, total in totals.items()}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", help="whose data settings are used")
    parser.add_argument("--num_videos", type=int, default=8)
    parser.add_argument("--num_video_frames", type=int, default=20)
    parser.add_argument("--height", type=int, default=720)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--num_workers", type=int, default=2, help="loader processes")
    parser.add_argument("--seconds", type=float, default=30, help="of loading")
    parser.add_argument("--num_clips", type=int, default=20, help="of the table of stages")
    args = parser.parse_args(argv)
    config = parse(["--config", args.config] if args.config else [])
    with tempfile.TemporaryDirectory() as folder:
        write_videos(Path(folder), args.num_videos, args.num_video_frames, (args.height, args.width))
        frames = list(Path(folder).rglob("*.jpg"))
        kilobytes = sum(path.stat().st_size for path in frames) / len(frames) / 1000
        data = dataclasses.replace(config.data, dataset="ytvos", root=folder, num_workers=args.num_workers)
        config = dataclasses.replace(config, data=data)
        rate = clips_per_second(config, args.seconds)
        stages = stage_seconds(config, args.num_clips)
    total = sum(stages.values())
    frame = f"{args.height} x {args.width}, {kilobytes:.0f} kB each"
    print(f"{args.num_workers} processes, {data.num_frames} frames of {frame}: {rate:.2f} clips a second")
    for name, seconds in sorted(stages.items(), key=lambda item: -item[1]):
        print(f"{name:28}{1000 * seconds:8.1f} ms a clip{100 * seconds / total:7.1f} %")
    print(f"{'one process':28}{1000 * total:8.1f} ms a clip")
    result = {"clips_per_second": rate, "seconds_per_clip": total, "stages": stages, "kilobytes": kilobytes}
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    with told_in_one_line():
        main()
