"""Ref-DAVIS17 -> the Ref-YouTube-VOS layout.

    python scripts/prepare_davis.py --root data/ref-davis

Reads `DAVIS/` and `davis_text_annotations/` below the root, and writes `meta_expressions/`, `train/` and `valid/`
beside them. Videos become links to the folders of the release, or copies with --copy; nothing of the release is moved
or changed. Started again, it goes on where it was.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datasets.davis_release import SPLIT_FILES, DavisRelease
from util.failures import told_in_one_line
from util.masks import write_bytes

RELEASED_VIDEOS = {"train": 60, "valid": 30}


def convert(release: DavisRelease, output_dir: Path, *, copy: bool = False) -> dict[str, int]:
    """Write both splits.

    Args:
        release: what is converted.
        output_dir: of the converted data set.
        copy: the files, rather than link to the folders they are in.

    Returns:
        {split: number of videos}.

    Raises:
        FileNotFoundError, ValueError: the release is incomplete or malformed; the message names the file.
        FileExistsError: a folder of the output exists and is something else.
    """
    videos = {split: release.videos(split) for split in SPLIT_FILES}
    for split, names in videos.items():
        if silent := [name for name in names if name not in release.captions]:
            raise ValueError(
                f"{release.texts}: no sentences about video {silent[0]} of {SPLIT_FILES[split]} "
                f"({len(silent)} such videos); take DAVIS 2017 and the text annotations from their releases"
            )
    for split, names in videos.items():
        expressions, objects = {}, {}
        for name in tqdm(names, desc=split, unit="video"):
            frames = release.frame_names(name)
            place(release.frames(name), output_dir / split / "JPEGImages" / name, copy=copy)
            place(release.masks(name), output_dir / split / "Annotations" / name, copy=copy)
            expressions[name] = {"expressions": expressions_of(release.captions[name]), "frames": frames}
            categories = release.semantics.get(name, {})
            objects[name] = {"objects": {str(key): {"category": value} for key, value in categories.items()}}
        if release.semantics:
            _write_json(output_dir / split / "meta.json", {"videos": objects})
        _write_json(output_dir / "meta_expressions" / split / "meta_expressions.json", {"videos": expressions})
    return {split: len(names) for split, names in videos.items()}


def expressions_of(captions: dict[int, tuple[str, ...]]) -> dict[str, dict[str, str]]:
    """Expressions of a video, object by object and within it annotator by annotator, numbered from 0.

    Args:
        captions: {object id: the annotators' sentences}.
    """
    flat = [(object_id, sentence) for object_id, sentences in captions.items() for sentence in sentences]
    return {str(i): {"exp": sentence, "obj_id": str(object_id)} for i, (object_id, sentence) in enumerate(flat)}


def place(source: Path, target: Path, *, copy: bool) -> None:
    """Make the folder `source` appear as `target`, by a link or by copies of its files.

    Raises:
        FileExistsError: `target` is something else.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_symlink():  # of an earlier run; never what it leads to
        target.unlink()
    if target.exists():
        if not target.is_dir() or not _agree(source, target, partly=copy):
            raise FileExistsError(
                f"{target} exists and is not what {source} holds; move it away or choose another --output_dir"
            )
        if not copy:
            return  # a copy of an earlier run
    if copy:
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        # relative, so that the data set may be moved as a whole
        target.symlink_to(os.path.relpath(source.resolve(), target.parent.resolve()), target_is_directory=True)


def _agree(source: Path, target: Path, *, partly: bool) -> bool:
    """Whether `target` holds nothing but copies of files of `source`, some of them at least when `partly`, else all."""
    compared = filecmp.dircmp(source, target)
    differing = [*compared.right_only, *compared.diff_files, *compared.funny_files, *compared.common_funny]
    return not differing and (partly or not compared.left_only)


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, (json.dumps(content, indent=1) + "\n").encode())


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("data/ref-davis"), help="folder of DAVIS/ and the texts")
    parser.add_argument("--output_dir", type=Path, help="of the converted data set (default: the root)")
    parser.add_argument("--copy", action="store_true", help="copy the files rather than link to their folders")
    args = parser.parse_args(argv)
    release = DavisRelease(args.root)
    output_dir = args.output_dir or args.root
    for split, count in convert(release, output_dir, copy=args.copy).items():
        expected = RELEASED_VIDEOS[split]
        note = "" if count == expected else f"; Ref-DAVIS17 has {expected}, so this is another set or a part of it"
        print(f"{output_dir / split}: {count} videos{note}")
    if not release.semantics:
        print(f"no {release.davis / 'davis_semantics.json'}: no categories, so class-agnostic heads only")


if __name__ == "__main__":
    with told_in_one_line():
        main()
