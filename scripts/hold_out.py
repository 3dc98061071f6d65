"""Holds videos of `train` out, in the layout of `valid` with masks, for scoring Ref-YouTube-VOS at home.

    python scripts/hold_out.py --root data/ref-youtube-vos --output data/ref-youtube-vos-held-out --num_videos 200

The output is a data set of its own: `train` without these videos, and `valid` made of them. Its frames and masks are
links to those of the root (copies with --copy); nothing of the root is changed. The same seed holds out the same
videos.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datasets.ytvos import YTVOSReader, videos_of
from scripts.prepare_davis import place
from util.failures import told_in_one_line
from util.masks import write_bytes


def choose(videos: Sequence[str], num_videos: int, seed: int) -> set[str]:
    """The videos that are held out.

    Raises:
        ValueError: none would be left on one of the sides.
    """
    if not 0 < num_videos < len(videos):
        raise ValueError(f"num_videos is {num_videos}; of {len(videos)} videos 1 to {len(videos) - 1} can be held out")
    return set(np.random.default_rng(seed).permutation(sorted(videos))[:num_videos].tolist())


def hold_out(root: Path, output: Path, num_videos: int, *, seed: int = 0, copy: bool = False) -> dict[str, int]:
    """Write both splits.

    Args:
        root: a data set in the Ref-YouTube-VOS layout.
        output: folder of the new one.
        num_videos: videos of the new `valid`.
        seed: of the choice.
        copy: files rather than links to folders.

    Returns:
        {split: number of videos}.

    Raises:
        FileNotFoundError, ValueError: the root is incomplete or malformed.
        FileExistsError: the output holds something else.
    """
    reader = YTVOSReader(root, "train")
    reader.require_annotations()
    chosen = choose(list(reader.videos), num_videos, seed)
    if output.resolve() == root.resolve():
        raise ValueError(f"{output}: is the root itself; choose another folder")
    splits = {
        "train": [v for v in reader.videos if v not in chosen],
        "valid": [v for v in reader.videos if v in chosen],
    }
    for path in (output / split for split in splits):
        if others := sorted({p.name for p in path.glob("JPEGImages/*")} - set(splits[path.name])):
            raise FileExistsError(f"{path}: holds {others[0]}, which is of another choice; give a new folder")
    expressions = videos_of(reader.meta_path)
    categories_path = root / "train" / "meta.json"
    categories = videos_of(categories_path) if categories_path.is_file() else {}
    for split, videos in splits.items():
        for video in tqdm(videos, desc=split, unit="video"):
            frame = reader.videos[video][0]
            for kind, path in (("JPEGImages", reader.frame_path), ("Annotations", reader.mask_path)):
                place(path(video, frame).parent, output / split / kind / video, copy=copy)
        _write(output / "meta_expressions" / split / "meta_expressions.json", {v: expressions[v] for v in videos})
        if categories:
            _write(output / split / "meta.json", {v: categories[v] for v in videos if v in categories})
    return {split: len(videos) for split, videos in splits.items()}


def _write(path: Path, videos: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, json.dumps({"videos": videos}).encode())


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("data/ref-youtube-vos"))
    parser.add_argument("--output", type=Path, required=True, help="folder of the new data set")
    parser.add_argument("--num_videos", type=int, default=200, help="that are held out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--copy", action="store_true", help="copy files rather than link to their folders")
    args = parser.parse_args(argv)
    counts = hold_out(args.root, args.output, args.num_videos, seed=args.seed, copy=args.copy)
    print(f"{args.output}: " + ", ".join(f"{count} videos in {split}" for split, count in counts.items()))


if __name__ == "__main__":
    with told_in_one_line():
        main()
