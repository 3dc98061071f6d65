"""JHMDB-Sentences: the list of samples and the ground truth, from the original release.

    python scripts/prepare_jhmdb.py --root data/jhmdb_sentences

Writes `jhmdb_sentences_samples_metadata.json`, three frames of each video drawn by --seed, and
`jhmdb_sentences_gt_annotations_in_coco_format.json` into the root. Files that are there already stay as they are:
published scores are those of the choice that others distribute.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datasets.annotated_frames import caption_of
from datasets.coco_truth import make_truths
from datasets.files import read_csv
from datasets.jhmdb import JHMDBReader, frames_folder, mask_path, read_masks, samples_path, truth_path
from util.failures import told_in_one_line
from util.masks import write_bytes
from util.submission import check_name

FRAMES_PER_VIDEO = 3


def read_queries(root: Path) -> list[tuple[str, str]]:
    """(video, sentence) pairs of the release.

    Raises:
        FileNotFoundError, ValueError: the file is missing or malformed.
    """
    path = root / "jhmdb_annotation.txt"
    queries = []
    for number, row in read_csv(path)[1:]:  # the first is a header
        if len(row) != 2:
            raise ValueError(f"{path}, line {number}: not a video and a query but {row!r}")
        video = check_name(row[0].strip(), f"{path}, line {number}: video")
        queries.append((video, caption_of(row[1], f"{path}, line {number}")))
    if not queries:
        raise ValueError(f"{path}: lists no queries; unpack it again")
    return queries


def list_samples(root: Path, seed: int) -> list[list]:
    """Entries of the list of samples: frames of each video that have a mask, drawn by `seed` and the video's place.

    Raises:
        FileNotFoundError, ValueError: frames or masks of a video are missing.
    """
    folders = {path.name: path.parent.name for path in sorted((root / "Rename_Images").glob("*/*")) if path.is_dir()}
    samples = []
    for place, (video, caption) in enumerate(tqdm(read_queries(root), desc="videos", unit="video")):
        if video not in folders:
            raise FileNotFoundError(
                f"{root / 'Rename_Images'}: no action has a folder {video}; unpack the frames again"
            )
        action = folders[video]
        folder, masks = frames_folder(root, action, video), mask_path(root, action, video)
        num_frames = len(list(folder.glob("*.png")))
        shown = np.flatnonzero(read_masks(masks)[:, :, :num_frames].any(axis=(0, 1)))
        if not shown.size:
            raise ValueError(f"{masks}: no mask of any of the {num_frames} frames in {folder}")
        rng = np.random.default_rng((seed, place))
        for frame in sorted(rng.choice(shown, size=min(FRAMES_PER_VIDEO, shown.size), replace=False).tolist()):
            paths = (folder / f"{frame + 1:05d}.png", masks)
            named = [f"jhmdb_sentences/{path.relative_to(root).as_posix()}" for path in paths]
            samples.append([video, *named, num_frames, caption])
    return samples


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--root", type=Path, default=Path("data/jhmdb_sentences"), help="of Rename_Images/, puppet_mask/"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the frames that are drawn")
    parser.add_argument("--overwrite", action="store_true", help="make files anew that are there")
    args = parser.parse_args(argv)
    path = samples_path(args.root)
    made = {path: args.overwrite or not path.exists()}
    if made[path]:
        write_bytes(path, json.dumps(list_samples(args.root, args.seed)).encode())
    path = truth_path(args.root)
    reader = JHMDBReader(args.root)
    made[path] = args.overwrite or not path.exists()
    if made[path]:
        samples = tqdm(reader.samples, desc="ground truth", unit="sample")
        write_bytes(path, json.dumps(make_truths((s.image_id, reader.read_mask(s)) for s in samples)).encode())
    for path, written in made.items():
        print(f"{path}: {'written' if written else 'was there already and is kept'}")
    print(f"{len(reader.samples)} samples of {len({sample.video for sample in reader.samples})} videos")


if __name__ == "__main__":
    with told_in_one_line():
        main()
