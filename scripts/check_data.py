"""Says what a download of Ref-YouTube-VOS or MeViS lacks.

    python scripts/check_data.py ytvos --root data/ref-youtube-vos
    python scripts/check_data.py mevis --root data/mevis --deep

Looks for every frame and mask that the meta files list; --deep also decodes them. Ends with status 1 when something is
missing. Counts are compared with those of the real release, which another data set need not have.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datasets.mevis import MeViSReader
from datasets.ytvos import Expression, YTVOSReader
from util.failures import told_in_one_line

NUM_SHOWN = 5  # faults of a kind


@dataclass(frozen=True)
class Release:
    """What the owners distribute.

    Attributes:
        reader: of the layout.
        splits: {split: (videos, expressions or None where nobody says)}.
        annotated: splits that have masks.
        optional: splits that may be absent.
        cure: where the files come from.
    """

    reader: type[YTVOSReader]
    splits: dict[str, tuple[int, int | None]]
    annotated: tuple[str, ...]
    optional: tuple[str, ...]
    cure: str


RELEASES = {
    "ytvos": Release(
        YTVOSReader,
        {"train": (3471, 12913), "valid": (202, None), "test": (305, None)},
        ("train",),
        ("test",),
        "unpack train.zip, valid.zip and meta_expressions.zip of Ref-YouTube-VOS again",
    ),
    "mevis": Release(
        MeViSReader,
        {"train": (1662, None), "valid_u": (50, None), "valid": (140, None)},
        ("train", "valid_u"),
        ("valid",),
        "unpack the archives of MeViS again; each split has meta_expressions.json and JPEGImages/",
    ),
}


@dataclass
class Findings:
    """What was found about one split.

    Attributes:
        facts: lines that are no faults.
        faults: {kind: each of them}.
    """

    facts: list[str] = field(default_factory=list)
    faults: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, what: object) -> None:
        """Note a fault."""
        self.faults.setdefault(kind, []).append(str(what))

    def lines(self) -> list[str]:
        """For people."""
        lines = list(self.facts)
        for kind, found in self.faults.items():
            lines.append(f"{len(found)} x {kind}:")
            lines += [f"    {what}" for what in found[:NUM_SHOWN]]
            lines += [f"    ... and {len(found) - NUM_SHOWN} more"] if len(found) > NUM_SHOWN else []
        return lines


def check_split(root: Path, split: str, release: Release, *, deep: bool = False) -> Findings:
    """Look for all that the meta files of a split list.

    Args:
        root: folder of the data set.
        split: its split.
        release: what it should be.
        deep: decode every frame and mask too.
    """
    findings = Findings()
    try:
        reader = release.reader(root, split, skip_broken=True)
    except (OSError, ValueError) as error:
        findings.add("missing or unusable", error)
        return findings
    for reason in reader.broken.values():
        findings.add("unusable expression", reason)
    _count(reader, release.splits[split], findings)
    annotated = split in release.annotated
    if annotated and not reader.has_annotations:
        findings.add("missing", f"the masks of the split {split}")
    if annotated and (withheld := [e.name for e in reader.expressions if not e.is_known]):
        findings.add("expression that names no object", f"{withheld[0]} ({len(withheld)} of them)")
    for video in tqdm(reader.videos, desc=split, unit="video"):
        expressions = [e for e in reader.expressions if e.video == video] if deep else []
        _check_video(reader, video, expressions, findings, deep=deep)
    return findings


def _count(reader: YTVOSReader, released: tuple[int, int | None], findings: Findings) -> None:
    found = (len(reader.videos), len(reader.expressions))
    real = ", ".join(
        f"{n} {what}" for n, what in zip(released, ("videos", "expressions"), strict=True) if n is not None
    )
    same = all(wanted in (None, have) for wanted, have in zip(released, found, strict=True))
    note = "as in the real release" if same else f"the real release has {real}"
    findings.facts.append(f"{found[0]} videos, {found[1]} expressions ({note})")
    if found[0] == 507 and reader.split == "valid":
        findings.facts.append(
            "valid lists the 305 test videos too, and there is no test meta to tell them apart: what is missing below "
            "may be these; the server scores the other 202"
        )


def _check_video(
    reader: YTVOSReader, video: str, expressions: Sequence[Expression], findings: Findings, *, deep: bool
) -> None:
    places: dict[str, Callable[[str, str], Path]] = {"frame": reader.frame_path}
    pictures = reader.has_annotations and not isinstance(reader, MeViSReader)
    if pictures:
        places["mask"] = reader.mask_path
    complete = True
    for what, place in places.items():
        folder = place(video, "0").parent
        present = set(os.listdir(folder)) if folder.is_dir() else set()
        if not present:
            findings.add(f"missing folder of {what}s", folder)
        absent = [path for path in (place(video, f) for f in reader.videos[video]) if path.name not in present]
        complete = complete and not absent
        if present and absent:
            findings.add(f"video with missing {what}s", f"{absent[0]} ({len(absent)} of {len(reader.videos[video])})")
    if deep and complete:
        try:
            reader.read_frames(video, reader.videos[video])
            if reader.has_annotations and (named := [e for e in expressions if e.is_known]):
                reader.read_objects(named, reader.videos[video])
        except (OSError, ValueError) as error:
            findings.add("damaged", error)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the number of splits with faults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=sorted(RELEASES))
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--splits", nargs="+", help="default: all of the release")
    parser.add_argument("--deep", action="store_true", help="decode every frame and mask (an hour for a real release)")
    args = parser.parse_args(argv)
    release, faulty = RELEASES[args.dataset], 0
    if unknown := sorted(set(args.splits or ()) - release.splits.keys()):
        raise ValueError(f"{args.dataset} has no split {unknown[0]}; it has {', '.join(release.splits)}")
    if not args.root.is_dir():
        raise FileNotFoundError(
            f"{args.root}: no such folder; --root is the folder of the data set, see its path again"
        )
    for split in args.splits or release.splits:
        meta = [args.root / "meta_expressions" / split, args.root / split / "meta_expressions.json"]
        if not args.splits and split in release.optional and not any(path.exists() for path in meta):
            print(f"{split}: not there, and not needed for training")
            continue
        findings = check_split(args.root, split, release, deep=args.deep)
        print("\n  ".join([f"{split}: {'faulty' if findings.faults else 'complete'}", *findings.lines()]))
        faulty += bool(findings.faults)
    if faulty:
        print(f"cure: {release.cure}")
    return faulty


if __name__ == "__main__":
    with told_in_one_line():
        sys.exit(1 if main() else 0)
