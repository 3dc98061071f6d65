"""Reader of the Ref-YouTube-VOS layout: which videos, frames and expressions there are, and their pixels.

<root>/meta_expressions/<split>/meta_expressions.json
<root>/<split>/JPEGImages/<video>/<frame>.jpg
<root>/<split>/Annotations/<video>/<frame>.png      where the split is annotated
<root>/<split>/meta.json                            categories of the objects, where known
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datasets.files import member, picture_size, read_json, read_picture
from util.masks import read_object_ids
from util.submission import check_name

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Expression:
    """A sentence about one object of a video.

    Attributes:
        video: name of the video.
        frames: names of its frames, in order.
        expression_id: key of the sentence within the video.
        caption: the sentence in lower case, its spaces squeezed.
        obj_id: pixel value of the object in the annotations; 0 where the video has no such object, None where it is
            withheld.
        kind: what singles the object out (`colour`, `motion` ...), None where the data set does not say.
        annotation_ids: of the objects where a sentence can mean several (MeViS), empty elsewhere.
    """

    video: str
    frames: tuple[str, ...]
    expression_id: str
    caption: str
    obj_id: int | None = None
    kind: str | None = None
    annotation_ids: tuple[str, ...] = ()

    @property
    def is_known(self) -> bool:
        """Whether it is known what the sentence means, if only that it means nothing in the video."""
        return self.obj_id is not None or bool(self.annotation_ids)

    @property
    def has_object(self) -> bool:
        """Whether it is known to mean something in the video."""
        return bool(self.obj_id or self.annotation_ids)

    @property
    def name(self) -> str:
        """`<video>/<expression id>`, for messages."""
        return f"{self.video}/{self.expression_id}"

    def mask(self, ids: np.ndarray) -> np.ndarray:
        """Object ids of any shape -> bool of that shape, where the object is."""
        return select_object(ids, self.obj_id)


class YTVOSReader:
    """A split of a data set in the Ref-YouTube-VOS layout.

    The split `valid` leaves out the videos that the `test` meta lists, if that file exists: the released `valid` meta
    lists both sets.

    Args:
        root: folder of the data set.
        split: `train`, `valid`, `test` or any other folder of this layout.
        skip_broken: leave out expressions without words or without their object, with a warning.

    Attributes:
        videos: {video: names of its frames}.
        expressions: all sentences, video by video.
        broken: {`<video>/<expression id>`: why it was left out}.

    Raises:
        FileNotFoundError: the split or its meta_expressions.json is missing.
        ValueError: a JSON file is damaged, a name would leave the folder, or an expression is unusable.
    """

    layout = "ytvos"  # as programs name it

    def __init__(self, root: str | Path, split: str, *, skip_broken: bool = False) -> None:
        self.root, self.split, self.skip_broken = Path(root), check_name(split, "split"), skip_broken
        self.broken: dict[str, str] = {}
        self.meta_path, self._categories_path, self._frames_root, self._masks_root = self._locate()
        for folder in (self.root, self.meta_path.parent, self._frames_root):
            if not folder.is_dir():
                known = self._splits() if self.root.is_dir() else []
                has = f"; {self.root} has the splits {', '.join(known)}" if known and split not in known else ""
                raise FileNotFoundError(
                    f"{folder}: no such folder{has}; data.root and the split must lead to the layout in the README"
                )
        self.videos: dict[str, tuple[str, ...]] = {}
        self.expressions: list[Expression] = []
        for name, entry in self._exclude_test(videos_of(self.meta_path)).items():
            self._add_video(name, entry)
        for message in self.broken.values():
            logger.warning("left out: %s", message)
        logger.info("%s: %d videos, %d expressions", self.meta_path, len(self.videos), len(self.expressions))

    @functools.cached_property
    def categories(self) -> dict[str, dict[int, str]]:
        """{video: {object id: category}}, empty without a meta.json.

        It is read when an expression first names its object: where objects are withheld, nothing is asked of the file.
        """
        if not self._categories_path.is_file():
            return {}
        categories: dict[str, dict[int, str]] = {}
        for video, entry in videos_of(self._categories_path).items():
            where = f"{self._categories_path}: video {video}"
            categories[video] = {
                object_id(key, where): member(value, "category", str, f"{where}, object {key},")
                for key, value in member(entry, "objects", dict, where).items()
            }
        return categories

    @property
    def has_annotations(self) -> bool:
        """Whether the split has a folder of masks."""
        return self._masks_root.is_dir()

    def frame_path(self, video: str, frame: str) -> Path:
        """Where a frame lies."""
        return self._frames_root / video / f"{frame}.jpg"

    def mask_path(self, video: str, frame: str) -> Path:
        """Where the annotation of a frame lies."""
        return self._masks_root / video / f"{frame}.png"

    def read_frame(self, video: str, frame: str) -> np.ndarray:
        """One frame, (h, w, 3) uint8 RGB.

        Raises:
            FileNotFoundError: it is missing.
            ValueError: it is truncated or no picture.
        """
        return read_picture(self.frame_path(video, frame))

    def frame_size(self, video: str, frame: str) -> tuple[int, int]:
        """(h, w) of a frame, from its header. Raises as `read_frame` does."""
        return picture_size(self.frame_path(video, frame))

    def read_mask(self, video: str, frame: str) -> np.ndarray:
        """The objects of one frame, (h, w) uint8 of object ids, 0 for background.

        Raises:
            FileNotFoundError: the annotation or its frame is missing.
            ValueError: it is truncated, not a picture of ids, or of another size than its frame.
        """
        return read_object_ids(self.mask_path(video, frame), self.frame_size(video, frame))

    def read_frames(self, video: str, frames: Sequence[str]) -> np.ndarray:
        """Several frames, (T, h, w, 3) uint8 RGB.

        Raises as `read_frame` does, and ValueError when their sizes differ.
        """
        return self._stack({frame: self.read_frame(video, frame) for frame in frames}, video, frames)

    def read_masks(self, video: str, frames: Sequence[str]) -> np.ndarray:
        """The objects of several frames, (T, h, w) uint8.

        Raises as `read_mask` does, and ValueError when their sizes differ.
        """
        return self._stack({frame: self.read_mask(video, frame) for frame in frames}, video, frames)

    def read_objects(self, expressions: Sequence[Expression], frames: Sequence[str]) -> np.ndarray:
        """The masks that expressions about one video mean, (E, T, h, w) bool.

        Raises as `read_masks` does.
        """
        ids = self.read_masks(expressions[0].video, frames)
        return np.stack([expression.mask(ids) for expression in expressions])

    def require_annotations(self) -> None:
        """Raise FileNotFoundError unless the split has masks."""
        if not self.has_annotations:
            raise FileNotFoundError(
                f"{self._masks_root}: not there; the split {self.split} has no annotations, choose one that has"
            )

    def category(self, expression: Expression) -> str:
        """Category of the object an expression is about.

        Raises:
            ValueError: there is no meta.json, or the object is withheld or not in the video.
        """
        if not expression.obj_id or not self.categories:
            raise ValueError(
                f"{self._categories_path} does not give the category of expression {expression.name}; "
                "add the file, or train class-agnostic heads with model.num_classes 1"
            )
        return self.categories[expression.video][expression.obj_id]

    def _stack(self, read: dict[str, np.ndarray], video: str, frames: Sequence[str]) -> np.ndarray:
        first = read[frames[0]].shape[:2]
        for frame, image in read.items():
            if image.shape[:2] != first:
                raise ValueError(
                    f"{self.frame_path(video, frame)} is {image.shape[0]} x {image.shape[1]} (h x w) but frame "
                    f"{frames[0]} is {first[0]} x {first[1]}; all frames of a video must have one size, resize them"
                )
        return np.stack([read[frame] for frame in frames])

    def _locate(self) -> tuple[Path, Path, Path, Path]:
        """Where the expressions, the categories, the frames and the masks lie."""
        folder = self.root / self.split
        return self._meta_expressions(self.split), folder / "meta.json", folder / "JPEGImages", folder / "Annotations"

    def _splits(self) -> list[str]:
        """Names of the splits that there are, for messages."""
        return sorted(path.parent.name for path in self.root.glob("meta_expressions/*/meta_expressions.json"))

    def _meta_expressions(self, split: str) -> Path:
        return self.root / "meta_expressions" / split / "meta_expressions.json"

    def _exclude_test(self, videos: dict[str, Any]) -> dict[str, Any]:
        if self.split != "valid":
            return videos
        test_path = self._meta_expressions("test")
        if not test_path.is_file():
            logger.info("no %s: all %d videos of valid are taken", test_path, len(videos))
            return videos
        test = videos_of(test_path)
        kept = {name: entry for name, entry in videos.items() if name not in test}
        logger.info("%s lists test videos: %d of the %d videos of valid remain", test_path, len(kept), len(videos))
        return kept

    def _add_video(self, video: str, entry: Any) -> None:
        check_name(video, f"{self.meta_path}: video")
        where = f"{self.meta_path}: video {video}"
        frames = self.videos[video] = frame_names(entry, where)
        for key, value in member(entry, "expressions", dict, where).items():
            check_name(key, f"{where}, expression")
            if isinstance(value, dict) and value.get("obj_id") is not None:
                _ = self.categories  # a damaged file is no fault of the expression
            try:
                self.expressions.append(self._expression(video, frames, key, value))
            except ValueError as error:
                if not self.skip_broken:
                    raise
                self.broken[f"{video}/{key}"] = str(error)

    def _expression(self, video: str, frames: tuple[str, ...], key: str, value: Any) -> Expression:
        where = f"{self.meta_path}: video {video}, expression {key},"
        caption = " ".join(member(value, "exp", str, where).lower().split())
        if not any(character.isalnum() for character in caption):
            raise ValueError(f"{where} has no words ({value['exp']!r}); give it a sentence or remove it")
        kind = value.get("kind")
        meant = self._object(video, value, where)
        return Expression(video, frames, key, caption, kind=None if kind is None else str(kind), **meant)

    def _object(self, video: str, value: dict[str, Any], where: str) -> dict[str, Any]:
        """The fields of `Expression` that say what a sentence means."""
        if value.get("obj_id") is None:
            return {}
        obj_id = object_id(value["obj_id"], where, or_no_object=True)
        if obj_id and self.categories and obj_id not in self.categories.get(video, {}):
            raise ValueError(
                f"{where} is about object {obj_id}, which {self._categories_path} does not have; "
                "take both files from the same release"
            )
        return {"obj_id": obj_id}


def videos_of(path: Path) -> dict[str, Any]:
    """{video: entry} of a meta file. Raises FileNotFoundError or ValueError."""
    return member(read_json(path), "videos", dict, f"{path}:")


def frame_names(entry: Any, where: str) -> tuple[str, ...]:
    """Names of the frames of a video's entry, in order; ValueError, which begins with `where`, if they are unusable."""
    frames = tuple(check_name(frame, f"{where}, frame") for frame in member(entry, "frames", list, where))
    if not frames or len(set(frames)) != len(frames):
        raise ValueError(f"{where} lists {'a frame twice' if frames else 'no frames'}; correct the file")
    return frames


def select_object(ids: np.ndarray, obj_id: int | None) -> np.ndarray:
    """Where `ids` show an object; nowhere if there is none (0), since those pixels are the background."""
    return (ids == obj_id) & bool(obj_id)


def object_id(value: Any, where: str, *, or_no_object: bool = False) -> int:
    """The number of an object in a palette PNG; ValueError, which begins with `where`, if it is none.

    With `or_no_object`, 0 may say that there is no object.
    """
    text = str(value)
    if or_no_object and not isinstance(value, bool) and text == "0":
        return 0
    if isinstance(value, bool) or not (text.isascii() and text.isdigit() and 1 <= int(text) <= 255):
        raise ValueError(f"{where} has the object id {value!r}; it must be a number from 1 to 255")
    return int(text)
