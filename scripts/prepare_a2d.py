"""A2D-Sentences: the lists of samples and the ground truth, from the original release.

    python scripts/prepare_a2d.py --root data/a2d_sentences

Writes `a2d_sentences_single_frame_{train,test}_annotations.json` and
`a2d_sentences_test_annotations_in_coco_format.json` into the root. Files that are there already, those that others
distribute for instance, stay as they are, and the ground truth is made for the list of test samples that is there.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datasets.a2d import A2DReader, samples_path, truth_path
from datasets.a2d_release import A2DRelease, annotations_root, video_path
from datasets.coco_truth import make_truths
from util.failures import told_in_one_line
from util.masks import write_bytes

SPLITS = ("train", "test")


def prepare(root: Path, *, overwrite: bool = False) -> dict[Path, bool]:
    """Make the files that are missing, or all of them.

    Args:
        root: folder of the release.
        overwrite: make files anew that are there.

    Returns:
        {file: whether it was made}.

    Raises:
        FileNotFoundError, ValueError: the release is incomplete or malformed; the message names the file.
    """
    made = {}
    for split in SPLITS:
        path = samples_path(root, split)
        made[path] = overwrite or not path.exists()
        if made[path]:
            progress = functools.partial(tqdm, desc=split, unit="sentence")
            samples = list(A2DRelease(root).samples(split, progress))
            if not samples:
                raise ValueError(f"{annotations_root(root)}: no sentence of {split} is about an annotated instance")
            write_json(path, [[s.caption, s.video, s.frame, s.instance] for s in samples])
    path = truth_path(root)
    made[path] = overwrite or not path.exists()
    if made[path]:
        reader = A2DReader(root, "test")
        samples = tqdm(reader.samples, desc="ground truth", unit="sample")
        write_json(path, make_truths((sample.image_id, reader.read_mask(sample)) for sample in samples))
    return made


def missing_videos(root: Path) -> list[Path]:
    """Videos that samples need and that are not there."""
    videos = {sample.video for split in SPLITS for sample in A2DReader(root, split).samples}
    return [path for path in (video_path(root, video) for video in sorted(videos)) if not path.is_file()]


def write_json(path: Path, content: Any) -> None:
    """Write a file whole or not at all."""
    write_bytes(path, json.dumps(content).encode())


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("data/a2d_sentences"), help="of Release/, text_annotations/")
    parser.add_argument("--overwrite", action="store_true", help="make files anew that are there")
    args = parser.parse_args(argv)
    for path, made in prepare(args.root, overwrite=args.overwrite).items():
        print(f"{path}: {'written' if made else 'was there already and is kept'}")
    for split in SPLITS:
        samples = A2DReader(args.root, split).samples
        print(f"{split}: {len(samples)} samples of {len({sample.video for sample in samples})} videos")
    if absent := missing_videos(args.root):
        raise FileNotFoundError(f"{absent[0]}: no such video ({len(absent)} are missing); unpack the release again")


if __name__ == "__main__":
    with told_in_one_line():
        main()
