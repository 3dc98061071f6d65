"""RefCOCO, RefCOCO+ and RefCOCOg as their owners distribute them, and the conversion to COCO's format.

{refcoco,refcoco+,refcocog}/instances.json, refs(unc).p | refs(umd).p | refs(google).p
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from datasets.files import member, read_json
from util.submission import check_name


@dataclass(frozen=True)
class RefSet:
    """One of the sets, as one of its owners divided it into splits.

    Attributes:
        name: of the set in settings and file names.
        folder: where its files lie.
        pickle: file of its sentences.
        released: sentences of each split in the real release, for a message.
    """

    name: str
    folder: str
    pickle: str
    released: Mapping[str, int] = field(default_factory=dict)


_SETS = (
    RefSet("refcoco", "refcoco", "refs(unc).p", {"train": 120624, "val": 10834, "testA": 5657, "testB": 5095}),
    RefSet("refcoco+", "refcoco+", "refs(unc).p", {"train": 120191, "val": 10758, "testA": 5726, "testB": 4889}),
    RefSet("refcocog", "refcocog", "refs(umd).p", {"train": 80512, "val": 4896, "test": 9602}),
    RefSet("refcocog_google", "refcocog", "refs(google).p", {"train": 85474, "val": 9536}),
    RefSet("refcoco_google", "refcoco", "refs(google).p"),
)
REF_SETS = {ref_set.name: ref_set for ref_set in _SETS}
MAIN_SETS = ("refcoco", "refcoco+", "refcocog")  # what is pretrained on


def converted_path(root: Path, name: str, split: str) -> Path:
    """Where the converted annotations of a split lie.

    Raises:
        ValueError: the set is unknown, or the split cannot name a file.
    """
    if name not in REF_SETS:
        raise ValueError(f"unknown set {name!r}; known: {', '.join(REF_SETS)}")
    return root / REF_SETS[name].folder / f"instances_{name}_{check_name(split, 'split')}.json"


def image_path(root: Path, file_name: str) -> Path:
    """Where an image lies."""
    return root / "train2014" / file_name


def read_refs(path: Path) -> list[dict[str, Any]]:
    """The sentences of a set: a dict with `ann_id`, `image_id`, `split` and `sentences` for each referred object.

    A pickle can hold code that runs when it is read. This one may hold only what it needs: lists, dicts, strings and
    numbers. Python 2 wrote the real files, so their strings are bytes, decoded here.

    Raises:
        FileNotFoundError: it is missing.
        ValueError: it holds something else, or is damaged.
    """
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{path}: no such file; unpack the set's annotations there") from None
    try:
        refs = _read_pickle(data)
    except Exception as error:  # a damaged pickle raises nearly anything
        raise ValueError(f"{path}: not a pickle of plain lists and dicts ({error}); download it again") from error
    if not isinstance(refs, list) or not refs:
        raise ValueError(f"{path}: not a list of referred objects; take the file from the set's release")
    return [_checked(ref, f"{path}: entry {number}") for number, ref in enumerate(refs)]


def convert(root: Path, ref_set: RefSet) -> dict[str, dict[str, Any]]:
    """{split: annotations in COCO's format}: one image for each sentence, with one annotation of the same id.

    Images carry `caption`, `original_id` and `dataset_name`. Segmentations stay as they are.

    Args:
        root: of the three folders.
        ref_set: what is converted.

    Raises:
        FileNotFoundError, ValueError: a file is missing or malformed, or a sentence is about an object that
            instances.json does not have.
    """
    folder = root / ref_set.folder
    path = folder / "instances.json"
    refs, instances = read_refs(folder / ref_set.pickle), read_json(path)
    images, annotations = (_by_id(instances, key, path) for key in ("images", "annotations"))
    categories = member(instances, "categories", list, f"{path}:")
    splits: dict[str, dict[str, Any]] = {}
    for ref in refs:
        where = f"{folder / ref_set.pickle}: the object {ref['ann_id']} of image {ref['image_id']}"
        if ref["ann_id"] not in annotations or ref["image_id"] not in images:
            raise ValueError(f"{where} is not in {path}; take both files from the same release")
        split = check_name(ref["split"], f"{where}: split")
        content = splits.setdefault(split, {"images": [], "annotations": [], "categories": categories})
        for sentence in ref["sentences"]:
            _add(content, images[ref["image_id"]], annotations[ref["ann_id"]], sentence["sent"], ref_set.name)
    return splits


def _add(
    content: dict[str, Any], image: dict[str, Any], annotation: dict[str, Any], caption: str, dataset_name: str
) -> None:
    number = len(content["images"]) + 1
    kept = {key: image[key] for key in ("file_name", "height", "width")}
    own = {"id": number, "original_id": image["id"], "caption": caption, "dataset_name": dataset_name}
    content["images"].append(kept | own)
    kept = {key: annotation[key] for key in ("segmentation", "area", "bbox", "iscrowd", "category_id")}
    content["annotations"].append(kept | {"id": number, "image_id": number, "original_id": annotation["id"]})


def _by_id(instances: Any, key: str, path: Path) -> dict[int, dict[str, Any]]:
    wanted = {
        "images": ("id", "file_name", "height", "width"),
        "annotations": ("id", "segmentation", "area", "bbox", "iscrowd", "category_id"),
    }[key]
    entries = member(instances, key, list, f"{path}:")
    for number, entry in enumerate(entries):
        if absent := [name for name in wanted if not isinstance(entry, dict) or name not in entry]:
            raise ValueError(f"{path}: {key}, entry {number}, has no {absent[0]!r}; it is not COCO's format")
        if isinstance(entry["id"], bool) or not isinstance(entry["id"], int):
            raise ValueError(f"{path}: {key}, entry {number}, has the id {entry['id']!r}; it is not COCO's format")
        if key == "images":
            check_name(entry["file_name"], f"{path}: images, entry {number}, file")
    return {entry["id"]: entry for entry in entries}


class _PlainUnpickler(pickle.Unpickler):
    """Reads nothing but builtin containers, strings and numbers, which need no look-up of a name."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, and data has no need of that")


def _read_pickle(data: bytes) -> Any:
    try:
        return _PlainUnpickler(io.BytesIO(data), encoding="utf-8").load()
    except UnicodeDecodeError:
        return _PlainUnpickler(io.BytesIO(data), encoding="latin-1").load()


def _checked(ref: Any, where: str) -> dict[str, Any]:
    kinds = {"ann_id": int, "image_id": int, "split": str, "sentences": list}
    for key, kind in kinds.items():
        if not isinstance(ref, dict) or not isinstance(ref.get(key), kind):
            raise ValueError(f"{where} has no {key!r} of type {kind.__name__}; take the file from the set's release")
    for sentence in ref["sentences"]:
        if not isinstance(sentence, dict) or not isinstance(sentence.get("sent"), str):
            raise ValueError(f"{where} has a sentence without 'sent'; take the file from the set's release")
    return ref
