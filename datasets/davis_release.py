"""Ref-DAVIS17 as its owners distribute it: videos, objects, and the sentences of four annotators."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from datasets.files import member, read_json, read_text
from util.submission import check_name

VOID = 255  # in annotations: pixels that count neither for nor against a result
SPLIT_FILES = {"train": "train.txt", "valid": "val.txt"}
# As the text files spell them, and as the folders do.
MISSPELT_VIDEOS = {"clasic-car": "classic-car", "dog-scale": "dogs-scale", "motor-bike": "motorbike"}

_LINE = re.compile(r'^(\S+)\s+(\d+)\s+"?(.*?)"?$')


@dataclass(frozen=True)
class Annotator:
    """One of the four text files, counted as four annotators.

    Attributes:
        file: its name.
        encoding: of its characters.
    """

    file: str
    encoding: str


# In the order of a converted data set: expression = object * 4 + annotator.
ANNOTATORS = (
    Annotator("Davis17_annot1.txt", "utf-8"),
    Annotator("Davis17_annot1_full_video.txt", "utf-8"),
    Annotator("Davis17_annot2.txt", "latin-1"),
    Annotator("Davis17_annot2_full_video.txt", "latin-1"),
)


class DavisRelease:
    """The two trees below one folder, `DAVIS` and `davis_text_annotations`.

    Args:
        root: that folder.

    Attributes:
        captions: {video: {object id: the four annotators' sentences}}, objects in order.
        semantics: {video: {object id: category}}; empty when there is no davis_semantics.json.

    Raises:
        FileNotFoundError: a tree or a file is missing.
        ValueError: a text file is malformed, or an annotator left an object out.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.davis, self.texts = self.root / "DAVIS", self.root / "davis_text_annotations"
        for folder in (self.davis, self.texts):
            if not folder.is_dir():
                raise FileNotFoundError(f"{folder}: no such folder; the README shows where the two downloads go")
        self.captions = self._read_captions()
        self.semantics = self._read_semantics()

    def videos(self, split: str) -> list[str]:
        """Names of the videos of `train` or `valid`. Raises FileNotFoundError or ValueError."""
        path = self.davis / "ImageSets" / "2017" / SPLIT_FILES[split]
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; unpack DAVIS 2017 (unsupervised, 480p) again")
        names = [check_name(name, f"{path}: video") for name in path.read_text(encoding="utf-8").split()]
        if not names:
            raise ValueError(f"{path}: lists no videos; unpack DAVIS 2017 again")
        return names

    def frames(self, video: str) -> Path:
        """Folder of a video's frames."""
        return self.davis / "JPEGImages" / "480p" / video

    def masks(self, video: str) -> Path:
        """Folder of a video's annotations."""
        return self.davis / "Annotations_unsupervised" / "480p" / video

    def frame_names(self, video: str) -> list[str]:
        """Names of a video's frames, each of which is annotated.

        Raises:
            FileNotFoundError: a folder or an annotation is missing.
        """
        frames, masks = ({path.stem for path in folder.glob(f"*.{kind}")} for folder, kind in self._folders(video))
        if not frames or not masks:
            folder = self._folders(video)[0 if not frames else 1][0]
            raise FileNotFoundError(f"{folder}: no such folder or nothing in it; unpack DAVIS 2017 again")
        if frames != masks:
            name = min(frames ^ masks)
            raise FileNotFoundError(
                f"video {video}: frame {name} is in only one of {self.frames(video)} and {self.masks(video)}; "
                "unpack DAVIS 2017 again"
            )
        return sorted(frames)

    def _folders(self, video: str) -> tuple[tuple[Path, str], tuple[Path, str]]:
        return (self.frames(video), "jpg"), (self.masks(video), "png")

    def _read_captions(self) -> dict[str, dict[int, tuple[str, ...]]]:
        by_annotator = [_read_lines(self.texts / annotator.file, annotator.encoding) for annotator in ANNOTATORS]
        everything = sorted({key for lines in by_annotator for key in lines})
        captions: dict[str, dict[int, tuple[str, ...]]] = {}
        for video, object_id in everything:
            for annotator, lines in zip(ANNOTATORS, by_annotator, strict=True):
                if (video, object_id) not in lines:
                    raise ValueError(
                        f"{self.texts / annotator.file}: says nothing about object {object_id} of video {video}, which "
                        "others of the four files do; take all four from one download"
                    )
            captions.setdefault(video, {})[object_id] = tuple(lines[video, object_id] for lines in by_annotator)
        return captions

    def _read_semantics(self) -> dict[str, dict[int, str]]:
        path = self.davis / "davis_semantics.json"
        if not path.is_file():
            return {}
        content, semantics = read_json(path), {}
        for video in self.captions:
            where = f"{path}: video {video}"
            objects = member(content, video, dict, str(path))
            semantics[video] = {key: member(objects, str(key), str, where) for key in self.captions[video]}
        return semantics


def _read_lines(path: Path, encoding: str) -> dict[tuple[str, int], str]:
    """{(video, object id): sentence} of one text file. Raises FileNotFoundError or ValueError."""
    lines: dict[tuple[str, int], str] = {}
    for number, line in enumerate(read_text(path, encoding).split("\n"), start=1):
        if not line.strip():
            continue
        found = _LINE.match(line.strip())
        if not found or not found[3].strip() or not 1 <= int(found[2]) < VOID:
            raise ValueError(f'{path}, line {number}: not `<video> <object id> "<expression>"` but {line.strip()!r}')
        video = check_name(MISSPELT_VIDEOS.get(found[1], found[1]), f"{path}, line {number}: video")
        key = video, int(found[2])
        if key in lines:
            raise ValueError(f"{path}, line {number}: a second sentence about object {key[1]} of video {key[0]}")
        lines[key] = " ".join(found[3].split())
    return lines
