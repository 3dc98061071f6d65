"""Reader of RefCOCO, RefCOCO+ and RefCOCOg in COCO's format: one image and one annotation for each sentence.

<root>/train2014/<file name>
<root>/<set>/instances_<set>_<split>.json      by scripts/prepare_refcoco.py, or as others distribute it
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from datasets.annotated_frames import caption_of
from datasets.files import member, read_json, read_picture
from datasets.refcoco_release import converted_path, image_path
from util.rle import MAX_PIXELS, RLE, check_rle
from util.submission import check_name

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)  # there are hundreds of thousands
class ImageSample:
    """A sentence about an object of an image.

    Attributes:
        ref_set: `refcoco`, `refcoco+` ...
        number: of the sentence in its split, from 1.
        file_name: of the image.
        size: (h, w) of the image.
        caption: the sentence in lower case, its spaces squeezed.
        category: COCO's id of the object's category, at most 90.
        box: x, y, w, h in pixels.
        segmentation: polygons [x1, y1, x2, y2, ...], each an array, or run lengths.
    """

    ref_set: str
    number: int
    file_name: str
    size: tuple[int, int]
    caption: str
    category: int
    box: tuple[float, float, float, float]
    segmentation: tuple[np.ndarray, ...] | RLE

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.ref_set}/{self.file_name}/{self.number}"


class RefCOCOReader:
    """A split of one or several of the sets.

    Args:
        root: of `train2014/` and the sets.
        split: one that all the sets have.
        sets: names of the sets.
        skip_broken: leave out sentences without words or whose annotation is malformed, with a warning.

    Attributes:
        samples: all sentences, set by set.
        broken: {name: why it was left out}.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, or a sentence unusable.
    """

    def __init__(self, root: str | Path, split: str, sets: Sequence[str], *, skip_broken: bool = False) -> None:
        self.root, self.split, self.sets = Path(root), split, tuple(sets)
        self.skip_broken, self.broken = skip_broken, {}
        self.samples: list[ImageSample] = []
        if not self.sets:
            raise ValueError("no set of RefCOCO is named; data.refcoco_sets needs at least one")
        for name in self.sets:
            path = converted_path(self.root, name, split)
            if not path.is_file():
                raise FileNotFoundError(f"{path}: no such file; make it with scripts/prepare_refcoco.py")
            before = len(self.samples)
            self._add(path, name)
            logger.info("%s: %d sentences", path, len(self.samples) - before)
        if not self.samples:
            raise ValueError(f"{self.root}: the split {split} of {', '.join(self.sets)} has no usable sentences")

    def read_image(self, sample: ImageSample) -> np.ndarray:
        """(h, w, 3) uint8 RGB.

        Raises:
            FileNotFoundError: it is missing.
            ValueError: it is damaged, or of another size than its annotation says.
        """
        path = image_path(self.root, sample.file_name)
        image = read_picture(path)
        if image.shape[:2] != sample.size:
            raise ValueError(
                f"{path} is {image.shape[0]} x {image.shape[1]} (h x w), its annotation says {sample.size[0]} x "
                f"{sample.size[1]}; take both from the same release"
            )
        return image

    def read_rle(self, sample: ImageSample) -> RLE:
        """The object, compressed. Raises ValueError when its segmentation is malformed."""
        if isinstance(sample.segmentation, dict):
            return sample.segmentation
        try:
            return coco_mask.merge(coco_mask.frPyObjects(list(sample.segmentation), *sample.size))
        except (TypeError, ValueError, IndexError) as error:
            raise ValueError(f"{sample.name}: malformed polygons ({error})") from error

    def read_mask(self, sample: ImageSample) -> np.ndarray:
        """The object, (h, w) bool. Raises as `read_rle` does."""
        return coco_mask.decode(self.read_rle(sample)).astype(bool)

    def _add(self, path: Path, name: str) -> None:
        content = read_json(path)
        entries, annotations = (member(content, key, list, f"{path}:") for key in ("images", "annotations"))
        if any(not isinstance(entry, dict) for entry in entries + annotations):
            raise ValueError(f"{path}: an image or annotation is not a JSON object; convert the release again")
        if any(isinstance(image.get("id"), list | dict) for image in entries):
            raise ValueError(f"{path}: an image's id is no number; convert the release again")
        images = {image.get("id"): image for image in entries}
        shared: dict[Any, Any] = {}  # sentences about one object share its segmentation
        for annotation in annotations:
            where = f"{path}: annotation {annotation.get('id')}"
            try:
                self.samples.append(_sample(images, annotation, name, where, shared))
            except ValueError as error:
                if not self.skip_broken:
                    raise
                self.broken[where] = str(error)
                logger.warning("left out: %s", error)


def _sample(images: dict[Any, Any], annotation: Any, name: str, where: str, shared: dict[Any, Any]) -> ImageSample:
    try:
        image = images.get(annotation.get("image_id"))
        if image is None:
            raise ValueError("it is of no image in the file")
        size = (int(image["height"]), int(image["width"]))
        if min(size) < 1 or size[0] * size[1] > MAX_PIXELS:
            raise ValueError(f"no image is {size[0]} x {size[1]}")
        box = tuple(float(side) for side in annotation["bbox"])
        if not all(-math.inf < side < math.inf for side in box):
            raise ValueError(f"its box is {box}")
        original = annotation.get("original_id", ("sentence", annotation["id"]))
        if original not in shared:
            shared[original] = _segmentation(annotation["segmentation"], size, where)
        x, y, w, h = box
        number, category = int(annotation["id"]), int(annotation["category_id"])
        file_name = check_name(image["file_name"], f"{where}: image")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{where} is malformed ({error!r}); convert the release again") from error
    caption = caption_of(image.get("caption"), f"{where}: the caption")
    return ImageSample(name, number, file_name, size, caption, category, (x, y, w, h), shared[original])


def _segmentation(value: Any, size: tuple[int, int], where: str) -> tuple[np.ndarray, ...] | RLE:
    if isinstance(value, dict):
        rle = check_rle(value, where)
        if tuple(rle["size"]) != size:
            raise ValueError(f"run lengths of a {rle['size']} mask for an image of {size}")
        return rle
    polygons = tuple(np.asarray(polygon, np.float64) for polygon in value)
    if any(p.ndim != 1 or p.size % 2 or not np.isfinite(p).all() for p in polygons):
        raise ValueError("a polygon is a list of numbers, x and y in turn")
    # its edges are walked pixel by pixel, outside the image too; real ones leave it by a little
    if any(p.size and np.abs(p).max() > 2 * max(size) for p in polygons):
        raise ValueError(f"a polygon is far outside its image of {size}")
    areas = tuple(p for p in polygons if p.size >= 6)  # a point or a line, as COCO has some, covers nothing
    if not areas:
        raise ValueError("an object needs a polygon of at least three points, x and y in turn")
    return areas
