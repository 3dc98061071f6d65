"""J and F of DAVIS-sized videos: time of scripts/eval_davis.py's way beside the plain formulation, and equal numbers.

    python scripts/benchmark_metrics.py

The plain formulation is that of the published evaluation: whole frames, every pair of objects on its own, one process.
Both read the same PNG files, and take turns, a few videos at a time, so that a busy machine slows both.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from util.davis_metrics import VOID, VideoScorer, VideoScores, count_objects
from util.masks import read_object_ids, write_object_ids
from util.workers import map_unordered

Ids = NDArray[np.uint8]
KINDS = ("truth", "result")


def plain_boundary(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Boundary of a (H, W) mask: pixels that differ from their right, lower or lower-right neighbour."""
    right, below, diagonal = np.zeros_like(mask), np.zeros_like(mask), np.zeros_like(mask)
    right[:, :-1], below[:-1], diagonal[:-1, :-1] = mask[:, 1:], mask[1:], mask[1:, 1:]
    boundary = (mask ^ right) | (mask ^ below) | (mask ^ diagonal)
    boundary[-1] = mask[-1] ^ right[-1]
    boundary[:, -1] = mask[:, -1] ^ below[:, -1]
    boundary[-1, -1] = False
    return boundary


def plain_f(result: NDArray[np.bool_], truth: NDArray[np.bool_], void: NDArray[np.bool_]) -> float:
    """F of two (H, W) masks, on the whole frame."""
    radius = int(np.ceil(0.008 * np.linalg.norm(result.shape)))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = (x**2 + y**2 <= radius**2).astype(np.uint8)
    result_boundary = plain_boundary(result * np.logical_not(void))
    truth_boundary = plain_boundary(truth * np.logical_not(void))
    near_result = cv2.dilate(result_boundary.astype(np.uint8), disk)
    near_truth = cv2.dilate(truth_boundary.astype(np.uint8), disk)
    num_result, num_truth = np.sum(result_boundary), np.sum(truth_boundary)
    if num_result == 0 and num_truth > 0:
        precision, recall = 1.0, 0.0
    elif num_result > 0 and num_truth == 0:
        precision, recall = 0.0, 1.0
    elif num_result == 0 and num_truth == 0:
        precision, recall = 1.0, 1.0
    else:
        precision = np.sum(result_boundary * near_truth) / num_result
        recall = np.sum(truth_boundary * near_result) / num_truth
    return 0.0 if precision + recall == 0 else float(2 * precision * recall / (precision + recall))


def plain_scores(truth: Ids, result: Ids) -> VideoScores:
    """J and F of all pairs of objects of a video, from ids (T, H, W)."""
    void = truth == VOID
    num_objects = int(np.max(np.where(truth[0] == VOID, 0, truth[0])))
    num_results = max(int(result.max()), num_objects)
    truths = np.arange(1, num_objects + 1)[:, None, None, None] == truth[None]
    results = np.arange(1, num_results + 1)[:, None, None, None] == result[None]
    j, f = np.zeros((2, num_results, num_objects, len(truth)))
    for r in range(num_results):
        for g in range(num_objects):
            intersection = np.sum(results[r] & truths[g] & np.logical_not(void), axis=(1, 2))
            union = np.sum((results[r] | truths[g]) & np.logical_not(void), axis=(1, 2))
            with np.errstate(invalid="ignore"):
                j[r, g] = np.where(union == 0, 1, intersection / union)
            f[r, g] = [plain_f(results[r, t], truths[g, t], void[t]) for t in range(len(truth))]
    return VideoScores(j, f)


def fast_scores(folder: Path, num_frames: int) -> VideoScores:
    """The same, as scripts/eval_davis.py does it, from the files."""
    pictures = [[read_object_ids(folder / kind / f"{t:05d}.png") for t in range(num_frames)] for kind in KINDS]
    num_results = max(int(ids.max()) for ids in pictures[1])
    scorer = VideoScorer(count_objects(pictures[0][0]), [num_results])
    for truth, result in zip(*pictures, strict=True):
        scorer.add(truth, [result])
    return scorer.finish()[0]


def _read_plainly(folder: Path, kind: str, num_frames: int) -> Ids:
    return np.stack([np.array(Image.open(folder / kind / f"{t:05d}.png")) for t in range(num_frames)])


def write_video(folder: Path, seed: int, num_frames: int, size: tuple[int, int], num_objects: int) -> None:
    """Ellipses that move and turn, with ragged outlines; results are displaced and ragged in another way."""
    rng = np.random.default_rng(seed)
    starts, speeds = rng.uniform(0.2, 0.8, (num_objects, 2)) * size, rng.uniform(-2, 2, (num_objects, 2))
    axes = rng.uniform(0.08, 0.25, (num_objects, 2)) * min(size)
    for kind in KINDS:
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for t in range(num_frames):
            ids = np.zeros(size, np.uint8)
            for i in range(num_objects):
                angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
                radii = axes[i] * rng.uniform(0.9, 1.1, (60, 1))
                shift = 0 if kind == "truth" else 4
                points = starts[i] + t * speeds[i] + shift + radii * np.stack([np.sin(angles), np.cos(angles)], 1)
                cv2.fillPoly(ids, [np.round(points[:, ::-1]).astype(np.int32)], i + 1)
            write_object_ids(folder / kind / f"{t:05d}.png", ids)


def read_clocks() -> NDArray[np.float64]:
    """Seconds by the clock, and seconds of a processor that this process and its finished children took."""
    return np.array([time.perf_counter(), sum(os.times()[:4])])


def measure(args: argparse.Namespace, root: Path) -> dict[str, Any]:
    """Time both formulations on the same files.

    Raises:
        ValueError: their numbers differ.
    """
    folders = [root / str(i) for i in range(args.num_videos)]
    for seed, folder in enumerate(folders):
        write_video(folder, seed, args.num_frames, (args.height, args.width), args.num_objects)
    score = functools.partial(fast_scores, num_frames=args.num_frames)
    plain, plain_times, fast_times = [], np.zeros(2), np.zeros(2)
    for first in range(0, len(folders), args.videos_a_turn):
        turn = folders[first : first + args.videos_a_turn]
        start = read_clocks()
        plain += [plain_scores(*(_read_plainly(folder, kind, args.num_frames) for kind in KINDS)) for folder in turn]
        plain_times += read_clocks() - start
        start = read_clocks()
        list(map_unordered(score, turn, args.num_workers))
        fast_times += read_clocks() - start
    difference = 0.0
    for folder, expected in zip(folders, plain, strict=True):
        found = fast_scores(folder, args.num_frames)
        for name in ("j", "f"):
            difference = max(difference, float(np.abs(getattr(found, name) - getattr(expected, name)).max()))
    if difference > 1e-6:
        raise ValueError(f"the two formulations differ by {difference}")
    return {
        "num_videos": len(folders),
        "plain_seconds_per_video": round(plain_times[0] / len(folders), 3),
        "seconds_per_video": round(fast_times[0] / len(folders), 3),
        "share": round(fast_times[0] / plain_times[0], 4),
        "plain_processor_seconds_per_video": round(plain_times[1] / len(folders), 3),
        "processor_seconds_per_video": round(fast_times[1] / len(folders), 3),
        "largest_difference": difference,
    }


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_videos", type=int, default=30)
    parser.add_argument("--videos_a_turn", type=int, default=10)
    parser.add_argument("--num_frames", type=int, default=70)
    parser.add_argument("--num_objects", type=int, default=2)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=854)
    parser.add_argument("--num_workers", type=int, default=2)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as root:
        result = measure(args, Path(root))
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
