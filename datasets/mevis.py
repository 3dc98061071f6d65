"""Reader of MeViS: videos whose expressions may mean several objects at once.

<root>/<split>/meta_expressions.json
<root>/<split>/JPEGImages/<video>/<frame>.jpg
<root>/<split>/mask_dict.json      where the split is annotated: {annotation id: [run lengths or null for each frame]}
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from datasets.files import member, read_json
from datasets.ytvos import Expression, YTVOSReader
from util.rle import check_rle


class MeViSReader(YTVOSReader):
    """A split of MeViS: `train`, `valid_u` or `valid`, the last without masks. See `YTVOSReader`."""

    layout = "mevis"

    @functools.cached_property
    def masks(self) -> dict[str, list[Any]]:
        """{annotation id: run lengths or None for each frame}, compressed as in the file.

        Raises:
            FileNotFoundError, ValueError: mask_dict.json is missing or damaged.
        """
        return read_mask_dict(self._masks_root)

    @property
    def has_annotations(self) -> bool:
        """Whether the split has a mask_dict.json."""
        return self._masks_root.is_file()

    def read_objects(self, expressions: Sequence[Expression], frames: Sequence[str]) -> np.ndarray:
        """The masks that expressions mean: the union of their objects'. See `YTVOSReader.read_objects`."""
        return np.stack([self._read_union(expression, frames) for expression in expressions])

    def _read_union(self, expression: Expression, frames: Sequence[str]) -> np.ndarray:
        positions = {frame: index for index, frame in enumerate(expression.frames)}
        size = self.frame_size(expression.video, frames[0])
        union = np.zeros((len(frames), *size), bool)
        for index, frame in enumerate(frames):
            where = f"{self._masks_root}: {expression.name}, frame {frame}"
            union[index] = union_of(self.masks, expression.annotation_ids, positions[frame], size, where)
        return union

    def _add_video(self, video: str, entry: Any) -> None:
        if self.has_annotations:
            _ = self.masks  # a damaged file is no fault of the expression
        super()._add_video(video, entry)

    def _locate(self) -> tuple[Path, Path, Path, Path]:
        folder = self.root / self.split
        paths = ("meta_expressions.json", "meta.json", "JPEGImages", "mask_dict.json")
        meta, categories, frames, masks = (folder / path for path in paths)
        return meta, categories, frames, masks

    def _splits(self) -> list[str]:
        return sorted(path.parent.name for path in self.root.glob("*/meta_expressions.json"))

    def _exclude_test(self, videos: dict[str, Any]) -> dict[str, Any]:
        return videos

    def _object(self, video: str, value: dict[str, Any], where: str) -> dict[str, Any]:
        """No `anno_id` where the objects are withheld."""
        if "anno_id" not in value:
            return {}
        ids = member(value, "anno_id", list, where)
        if not ids or not all(isinstance(number, int | str) for number in ids):
            raise ValueError(f"{where} has the annotation ids {ids!r}; at least one number is needed")
        if self.has_annotations and (absent := [number for number in ids if str(number) not in self.masks]):
            raise ValueError(
                f"{where} is about annotation {absent[0]}, which {self._masks_root} does not have; take both files "
                "from the same release"
            )
        return {"annotation_ids": tuple(str(number) for number in ids)}


def read_mask_dict(path: Path) -> dict[str, list[Any]]:
    """The content of a mask_dict.json: {annotation id: run lengths or None for each frame}.

    Raises:
        FileNotFoundError, ValueError: it is missing or damaged; its run lengths are looked at when they are used.
    """
    masks = read_json(path)
    if not isinstance(masks, dict) or not all(isinstance(frames, list) for frames in masks.values()):
        raise ValueError(f"{path}: not a list of masks for each annotation; take it from the release")
    return masks


def union_of(
    masks: Mapping[str, Sequence[Any]], annotation_ids: Sequence[str], position: int, size: tuple[int, int], where: str
) -> np.ndarray:
    """The union of several annotations' masks in one frame, (h, w) bool.

    Args:
        masks: content of mask_dict.json.
        annotation_ids: of the objects.
        position: of the frame in its video.
        size: (h, w) of the frame.
        where: for messages.

    Raises:
        ValueError: the masks are malformed, of another size, or of fewer frames than the video has.
    """
    found = []
    for number in annotation_ids:
        frames = masks[number]
        if position >= len(frames):
            raise ValueError(f"{where}: annotation {number} has masks of {len(frames)} frames only")
        if frames[position] is not None:
            rle = check_rle(frames[position], f"{where}, annotation {number}")
            if tuple(rle["size"]) != tuple(size):
                raise ValueError(f"{where}: annotation {number} is {rle['size']} (h, w), the frame {list(size)}")
            found.append(rle)
    if not found:
        return np.zeros(size, bool)
    return coco_mask.decode(coco_mask.merge(found)).astype(bool)
