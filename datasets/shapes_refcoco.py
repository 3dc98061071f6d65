"""The generated benchmark in the layout of RefCOCO, RefCOCO+ and RefCOCOg.

train2014/COCO_train2014_%012d.jpg
{refcoco,refcoco+,refcocog}/instances.json, refs(unc).p | refs(umd).p | refs(google).p
"""

from __future__ import annotations

import dataclasses
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from datasets.shapes_files import (
    choose_counts,
    count_written,
    new_folder,
    video_generator,
    write_jpeg,
    write_json,
    write_videos,
)
from datasets.shapes_scene import SHAPES, VideoSettings
from datasets.shapes_video import generate_video

RLE_STEP = 5  # every fifth annotation is run-length encoded, the others are polygons
_MAX_OBJECTS = 16  # of an image; ids of annotations are spaced by it

# set -> {pickle: splits of the images in turn: train, then thirds of those for evaluation}
_THIRDS = {"refs(unc).p": ("val", "testA", "testB"), "refs(umd).p": ("val", "test", "test")}
_PICKLES: dict[str, dict[str, tuple[str, str, str]]] = {
    "refcoco": {"refs(unc).p": _THIRDS["refs(unc).p"], "refs(google).p": ("val", "test", "test")},
    "refcoco+": {"refs(unc).p": _THIRDS["refs(unc).p"]},
    "refcocog": {"refs(umd).p": _THIRDS["refs(umd).p"], "refs(google).p": ("val", "val", "val")},
}


def write_refcoco(
    root: Path,
    settings: VideoSettings,
    *,
    num_videos: int,
    num_valid_videos: int | None = None,
    seed: int = 0,
    num_workers: int = 2,
    overwrite: bool = False,
) -> dict[str, int]:
    """Writes images with the annotations of the three sets as their owners distribute them.

    Sentences of RefCOCO+ never say where something is; those of RefCOCOg are whole clauses. Masks are polygons, for
    some objects uncompressed run lengths. Arguments and errors are those of `shapes_ytvos.write_ytvos`; videos are
    images here, and `num_valid_videos` of them make each of the splits val, testA and testB (val and test).
    """
    counts = choose_counts(num_videos, num_valid_videos, seed, num_workers)
    settings = dataclasses.replace(settings, num_frames=1)
    num_each = counts["valid"]
    description = {"layout": "refcoco", "seed": seed, "num_images": counts, **vars(settings)}
    with new_folder(root, description, overwrite=overwrite) as folder:
        (folder / "train2014").mkdir()
        jobs = {"train": counts["train"], "valid": 3 * num_each}
        records = write_videos(partial(_write_image, folder, settings, seed), jobs, num_workers)
        images = [(-1, record) for record in records["train"]]
        images += [(index // num_each, record) for index, record in enumerate(records["valid"])]
        for name, pickles in _PICKLES.items():
            write_json(folder / name / "instances.json", _instances(records["train"] + records["valid"]))
            for file, splits in pickles.items():
                refs = _refs(name, images, splits)
                (folder / name / file).write_bytes(pickle.dumps(refs, protocol=2))
    num_expressions = sum(len(record["sentences"]) for split in records.values() for record in split)
    return count_written(records, "images", num_expressions)


def _write_image(folder: Path, settings: VideoSettings, seed: int, job: tuple[str, int]) -> dict[str, Any]:
    """Writes one image; returns its COCO entry, its annotations, and (object, sentence, kind) triples."""
    split, index = job
    video = generate_video(video_generator(seed, split, index), settings, index)
    image_id = 2 * index + (1 if split == "train" else 2)
    file_name = f"COCO_train2014_{image_id:012d}.jpg"
    write_jpeg(folder / "train2014" / file_name, video.frames[0])
    annotations = []
    for number, look in enumerate(video.scene.looks):
        mask = video.masks[0] == number + 1
        if mask.any():
            annotation_id = image_id * _MAX_OBJECTS + number
            segmentation, is_crowd = _polygons(mask), 0
            if annotation_id % RLE_STEP == 0 or not segmentation:
                segmentation, is_crowd = _run_lengths(mask), 1
            x, y, w, h = cv2.boundingRect(mask.view(np.uint8))
            annotations.append(
                {
                    "id": annotation_id,
                    "image_id": image_id,
                    "category_id": SHAPES.index(look.shape) + 1,
                    "segmentation": segmentation,
                    "iscrowd": is_crowd,
                    "area": float(mask.sum()),
                    "bbox": [float(side) for side in (x, y, w, h)],
                }
            )
    image = {"id": image_id, "file_name": file_name, "height": settings.height, "width": settings.width}
    sentences = [(e.object_id - 1, e.sentence, e.kind) for e in video.expressions]
    return {"image": image, "annotations": annotations, "sentences": sentences}


def _polygons(mask: np.ndarray) -> list[list[float]]:
    """COCO's polygons of a mask, one a piece, each [x1, y1, x2, y2, ...]; none for a mask with holes."""
    fine = 4  # outlines of a finer mask run close to the edges of its pixels, not through their centres
    enlarged = np.kron(mask.astype(np.uint8), np.ones((fine, fine), np.uint8))
    contours, hierarchy = cv2.findContours(enlarged, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if (hierarchy[0, :, 3] >= 0).any():
        return []
    return [((contour[:, 0] + 0.5) / fine).ravel().tolist() for contour in contours]


def _run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """COCO's uncompressed run lengths: column by column, zeros first."""
    values = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(values, prepend=False)).tolist()
    counts = np.diff([0, *changes, values.size]).tolist()
    return {"size": list(mask.shape), "counts": counts}


def _instances(records: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "info": {"description": "generated benchmark"},
        "licenses": [],
        "images": [record["image"] for record in records],
        "annotations": [annotation for record in records for annotation in record["annotations"]],
        "categories": [{"id": i, "name": shape, "supercategory": "shape"} for i, shape in enumerate(SHAPES, start=1)],
    }


def _refs(name: str, images: list[tuple[int, dict[str, Any]]], splits: tuple[str, str, str]) -> list[dict[str, Any]]:
    """The content of a pickle: a dict for each object that has sentences."""
    refs: list[dict[str, Any]] = []
    sentence_id = 0
    for third, record in images:
        for annotation in record["annotations"]:
            number, image_id = annotation["id"] % _MAX_OBJECTS, annotation["image_id"]
            texts = [t for o, t, kind in record["sentences"] if o == number and (name, kind) != ("refcoco+", "place")]
            if name == "refcocog":
                texts = [f"{text} that someone took a picture of" for text in texts]
            if texts:
                sentences = [_sentence(text, sentence_id + i) for i, text in enumerate(texts)]
                sentence_id += len(sentences)
                refs.append(
                    {
                        "ref_id": len(refs),
                        "ann_id": annotation["id"],
                        "image_id": image_id,
                        "category_id": annotation["category_id"],
                        "split": "train" if third < 0 else splits[third],
                        "file_name": f"COCO_train2014_{image_id:012d}_{annotation['id']}.jpg",
                        "sent_ids": [sentence["sent_id"] for sentence in sentences],
                        "sentences": sentences,
                    }
                )
    return refs


def _sentence(text: str, sentence_id: int) -> dict[str, Any]:
    raw = f"{text.capitalize()}."
    return {"sent_id": sentence_id, "raw": raw, "sent": text.lower(), "tokens": text.lower().split()}
