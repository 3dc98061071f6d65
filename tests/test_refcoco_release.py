"""RefCOCO from the owners' files to COCO's format, and back through the reader."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections import Counter
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from datasets.refcoco import RefCOCOReader
from datasets.refcoco_release import REF_SETS, convert, converted_path, read_refs
from datasets.shapes import main as write_shapes
from scripts import prepare_refcoco
from tests.small_coco import write_coco


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coco(tmp_path_factory.mktemp("coco") / "coco")


class Executes:
    """What a pickle that runs a command when it is read holds."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class Python2Pickler(pickle._Pickler):
    """Writes text as Python 2 does: byte strings, here in the encoding of `ENCODING`."""

    ENCODING = "utf-8"
    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_str(self, text: str) -> None:
        data = text.encode(self.ENCODING)
        self.write(pickle.BINSTRING + len(data).to_bytes(4, "little") + data)

    dispatch[str] = save_str


REF = {
    "ref_id": 0,
    "ann_id": 5,
    "image_id": 7,
    "category_id": 1,
    "split": "train",
    "sentences": [{"sent": "café crème", "sent_id": 0}],
}


def test_pickle_with_code_is_refused(tmp_path: Path) -> None:
    path, victim = tmp_path / "refs(unc).p", tmp_path / "made_by_the_pickle"
    path.write_bytes(pickle.dumps([REF, Executes(victim)], protocol=2))
    with pytest.raises(ValueError, match=r"refs\(unc\)\.p: not a pickle of plain lists.*mkdir"):
        read_refs(path)
    assert not victim.exists()
    pickle.loads(path.read_bytes())
    assert victim.exists(), "the pickle is dangerous to others"


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_pickle_of_python_2(tmp_path: Path, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Python2Pickler, "ENCODING", encoding)
    path = tmp_path / "refs.p"
    with path.open("wb") as file:
        Python2Pickler(file, protocol=2).dump([REF])
    assert b"X" + (5).to_bytes(4, "little") + b"train" not in path.read_bytes()  # no BINUNICODE
    assert read_refs(path) == [REF]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x80\x02]q\x00", "not a pickle of plain lists"),
        (b"<html>", "not a pickle of plain lists"),
        (pickle.dumps([], 2), "not a list of referred objects"),
        (pickle.dumps([REF | {"ann_id": "5"}], 2), "entry 0 has no 'ann_id' of type int"),
        (pickle.dumps([REF | {"sentences": [{}]}], 2), "entry 0 has a sentence without 'sent'"),
    ],
)
def test_damaged_pickles_are_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "refs.p"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=words) as error:
        read_refs(path)
    assert str(path) in str(error.value)
    with pytest.raises(FileNotFoundError, match="absent"):
        read_refs(tmp_path / "absent.p")


def test_every_split_is_converted(release: Path) -> None:
    found = {name: set(convert(release, ref_set)) for name, ref_set in REF_SETS.items()}
    people = {"train", "val", "testA", "testB"}
    assert found["refcoco"] == found["refcoco+"] == people
    assert found["refcocog"] == {"train", "val", "test"} and found["refcocog_google"] == {"train", "val"}
    for name, splits in found.items():
        assert all(converted_path(release, name, split).is_file() for split in splits)


@pytest.mark.parametrize("name", REF_SETS)
def test_conversion_is_one_image_and_annotation_a_sentence(release: Path, name: str) -> None:
    refs = read_refs(release / REF_SETS[name].folder / REF_SETS[name].pickle)
    expected = Counter((r["split"], r["image_id"], r["ann_id"], s["sent"]) for r in refs for s in r["sentences"])
    found: Counter = Counter()
    for split in {ref["split"] for ref in refs}:
        content = json.loads(converted_path(release, name, split).read_text())
        ids = [image["id"] for image in content["images"]]
        assert ids == [a["id"] for a in content["annotations"]] == [a["image_id"] for a in content["annotations"]]
        assert ids == list(range(1, len(ids) + 1))
        for image, annotation in zip(content["images"], content["annotations"], strict=True):
            assert image["dataset_name"] == name
            found[split, image["original_id"], annotation["original_id"], image["caption"]] += 1
    assert found == expected


def test_reader_gives_the_objects(release: Path) -> None:
    reader = RefCOCOReader(release, "val", ("refcoco", "refcoco+"))
    assert {sample.ref_set for sample in reader.samples} == {"refcoco", "refcoco+"}
    assert {type(sample.segmentation) for sample in reader.samples} == {tuple, dict}, "polygons and run lengths"
    areas = {a["id"]: a["area"] for a in json.loads((release / "refcoco/instances.json").read_text())["annotations"]}
    content = json.loads(converted_path(release, "refcoco", "val").read_text())
    for annotation, sample in zip(content["annotations"], reader.samples, strict=False):
        mask = reader.read_mask(sample)
        assert mask.shape == sample.size == reader.read_image(sample).shape[:2]
        assert mask.sum() == areas[annotation["original_id"]]
        x, y, w, h = (int(side) for side in sample.box)
        assert mask[y : y + h, x : x + w].sum() == mask.sum()
        assert mask[:, x].any() and mask[y].any() and mask[:, x + w - 1].any() and mask[y + h - 1].any()
        assert coco_mask.area(reader.read_rle(sample)) == mask.sum()


def test_sentences_share_their_objects_polygons(release: Path) -> None:
    samples = RefCOCOReader(release, "train", ("refcoco",)).samples
    by_object: dict[tuple, list] = {}
    for sample in samples:
        by_object.setdefault((sample.file_name, sample.box), []).append(sample.segmentation)
    shared = [found for found in by_object.values() if len(found) > 1]
    assert shared and all(one is found[0] for found in shared for one in found)


def test_kept_files_and_missing_images(release: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root = tmp_path / "coco"
    (root / "train2014").mkdir(parents=True)
    (root / "refcoco").symlink_to(release / "refcoco")
    path = converted_path(root, "refcoco", "val")
    before = path.stat().st_mtime_ns
    with pytest.raises(FileNotFoundError, match=r"12 of 12 are missing\); unpack train2014"):
        prepare_refcoco.main(["--root", str(root), "--sets", "refcoco"])
    assert "was there and is kept" in capsys.readouterr().out
    assert path.stat().st_mtime_ns == before
    with pytest.raises(FileNotFoundError, match=r"instances_refcocog_val\.json: no such file; make it with"):
        RefCOCOReader(root, "val", ("refcocog",))


def test_malformed_annotations_are_named(release: Path, tmp_path: Path) -> None:
    content = json.loads(converted_path(release, "refcocog", "val").read_text())
    content["images"][0]["caption"] = " . "
    content["annotations"][1]["segmentation"] = [[1, 2, 3, 4]]
    content["images"][2]["file_name"] = "../secret.jpg"
    path = converted_path(tmp_path, "refcocog", "val")
    path.parent.mkdir()
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="annotation 1: the caption has no words"):
        RefCOCOReader(tmp_path, "val", ("refcocog",))
    reader = RefCOCOReader(tmp_path, "val", ("refcocog",), skip_broken=True)
    assert len(reader.broken) == 3 and len(reader.samples) == len(content["images"]) - 3
    assert any("cannot name a file" in reason for reason in reader.broken.values())
    assert any("at least three points" in reason for reason in reader.broken.values())


def test_lines_and_points_among_the_polygons_cover_nothing(release: Path, tmp_path: Path) -> None:
    """COCO's annotations have some; pycocotools would take a first one of four numbers for a box."""
    content = json.loads(converted_path(release, "refcoco", "val").read_text())
    annotation = next(a for a in content["annotations"] if isinstance(a["segmentation"], list))
    annotation["segmentation"].insert(0, [0.0, 0.0, 50.0, 50.0])
    path = converted_path(tmp_path, "refcoco", "val")
    path.parent.mkdir()
    path.write_text(json.dumps(content))
    pair = [RefCOCOReader(root, "val", ("refcoco",)) for root in (release, tmp_path)]
    clean, mended = (next(s for s in reader.samples if s.number == annotation["id"]) for reader in pair)
    assert np.array_equal(pair[0].read_mask(clean), pair[1].read_mask(mended))
    annotation["segmentation"] = [[0.0, 0.0, 50.0, float("nan"), 3.0, 3.0]]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"annotation {annotation['id']} is malformed"):
        RefCOCOReader(tmp_path, "val", ("refcoco",))


@pytest.mark.parametrize(
    ("key", "name", "value", "words"),
    [
        ("images", "height", 10**12, "no image is"),
        ("images", "width", 0, "no image is"),
        ("images", "width", float("inf"), "infinity"),
        ("annotations", "bbox", [0, 0, float("inf"), 4], "its box is"),
        ("annotations", "segmentation", [[0, 0, 1e12, 0, 9, 9]], "far outside its image"),
    ],
)
def test_sizes_without_limit_are_refused(
    release: Path, tmp_path: Path, key: str, name: str, value: object, words: str
) -> None:
    """pycocotools walks along every edge of a polygon, whatever its length, and decodes a mask of any size."""
    content = json.loads(converted_path(release, "refcoco", "val").read_text())
    content[key][0][name] = value
    path = converted_path(tmp_path, "refcoco", "val")
    path.parent.mkdir()
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"annotation 1 is malformed.*{words}"):
        RefCOCOReader(tmp_path, "val", ("refcoco",))


@pytest.mark.parametrize("key", ["images", "annotations"])
def test_ids_that_are_no_numbers_are_named(release: Path, tmp_path: Path, key: str) -> None:
    content = json.loads(converted_path(release, "refcoco", "val").read_text())
    name = "id" if key == "images" else "image_id"
    content[key][0][name] = [1]
    path = converted_path(tmp_path, "refcoco", "val")
    path.parent.mkdir()
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"an image's id is no number|annotation 1 is malformed"):
        RefCOCOReader(tmp_path, "val", ("refcoco",))


@pytest.mark.parametrize(("key", "value"), [("file_name", "../../secret.jpg"), ("id", [1])])
def test_a_release_with_odd_images_is_refused(release: Path, tmp_path: Path, key: str, value: object) -> None:
    (tmp_path / "refcoco").mkdir()
    shutil.copy(release / "refcoco" / "refs(unc).p", tmp_path / "refcoco")
    content = json.loads((release / "refcoco" / "instances.json").read_text())
    content["images"][1][key] = value
    (tmp_path / "refcoco" / "instances.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"instances\.json: images, entry 1,"):
        convert(tmp_path, REF_SETS["refcoco"])


def test_picture_of_another_size_is_refused(release: Path) -> None:
    import dataclasses

    reader = RefCOCOReader(release, "val", ("refcoco",))
    sample = dataclasses.replace(reader.samples[0], size=(10, 10))
    with pytest.raises(ValueError, match=r"96 x 128 \(h x w\), its annotation says 10 x 10"):
        reader.read_image(sample)


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    for name, workers in (("a", "1"), ("b", "2")):
        sizes = ["--num_videos", "2", "--num_valid_videos", "1", "--height", "64", "--width", "80"]
        write_shapes(["refcoco", str(tmp_path / name), *sizes, "--seed", "4", "--num_workers", workers])
    files = [path.relative_to(tmp_path / "a") for path in sorted((tmp_path / "a").rglob("*")) if path.is_file()]
    assert len(files) > 10
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file
