"""RefCOCO, RefCOCO+ and RefCOCOg: one file in COCO's format for each split, from the original releases.

    python scripts/prepare_refcoco.py --root data/coco

Reads `{refcoco,refcoco+,refcocog}/instances.json` and `refs(unc).p`, `refs(umd).p` or `refs(google).p` below the root,
and writes `<set>/instances_<set>_<split>.json` beside them: one image for each sentence, with one annotation. Files
that are there already, those that others distribute for instance, stay as they are.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datasets.refcoco_release import MAIN_SETS, REF_SETS, RefSet, convert, converted_path, image_path
from util.failures import told_in_one_line
from util.masks import write_bytes


def prepare(root: Path, ref_set: RefSet, *, overwrite: bool = False) -> tuple[dict[Path, bool], dict[str, set[str]]]:
    """Write the splits of one set, or those that are missing.

    Args:
        root: folder of the releases.
        ref_set: what is converted.
        overwrite: write files anew that are there.

    Returns:
        {file: whether it was written}, and {split: file names of its images}.

    Raises:
        FileNotFoundError, ValueError: the release is incomplete or malformed; the message names the file.
    """
    written, images = {}, {}
    for split, content in convert(root, ref_set).items():
        path = converted_path(root, ref_set.name, split)
        written[path] = overwrite or not path.exists()
        if written[path]:
            write_bytes(path, json.dumps(content).encode())
        images[split] = {image["file_name"] for image in content["images"]}
        print(f"{path}: {_counts(ref_set, split, content)}{'' if written[path] else '; was there and is kept'}")
    return written, images


def missing_images(root: Path, file_names: Iterable[str]) -> list[Path]:
    """Images that sentences need and that are not there."""
    return [path for path in (image_path(root, name) for name in sorted(file_names)) if not path.is_file()]


def _counts(ref_set: RefSet, split: str, content: dict[str, Any]) -> str:
    found, released = len(content["images"]), ref_set.released.get(split)
    objects = len({annotation["original_id"] for annotation in content["annotations"]})
    text = f"{found} sentences about {objects} objects"
    return text if released in (None, found) else f"{text} (the real release has {released} sentences)"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("data/coco"), help="of train2014/, refcoco/ ...")
    parser.add_argument(
        "--sets", nargs="+", choices=sorted(REF_SETS), default=MAIN_SETS, help="default: refcoco refcoco+ refcocog"
    )
    parser.add_argument("--overwrite", action="store_true", help="write files anew that are there")
    args = parser.parse_args(argv)
    file_names: set[str] = set()
    for name in args.sets:
        _, images = prepare(args.root, REF_SETS[name], overwrite=args.overwrite)
        file_names |= set().union(*images.values())
    if absent := missing_images(args.root, file_names):
        raise FileNotFoundError(
            f"{absent[0]}: no such image ({len(absent)} of {len(file_names)} are missing); unpack train2014.zip of COCO"
        )
    print(f"{len(file_names)} images, all there")


if __name__ == "__main__":
    with told_in_one_line():
        main()
