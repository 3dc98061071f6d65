"""MeViS from the owners' files to training, the zip and the score."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

import inference_ytvos
import main
from datasets.clips import ClipDataset
from datasets.mevis import MeViSReader, union_of
from datasets.shapes import main as write_shapes
from datasets.transforms import ClipTransform
from datasets.videos import VideoDataset
from scripts import eval_jf
from tests.small_model import write_small_checkpoint
from util.masks import read_mask, write_mask
from util.metrics import boundary_accuracy, region_similarity
from util.rle import encode_mask
from util.submission import FOLDER


@pytest.fixture(scope="module")
def mevis(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mevis") / "mevis"
    sizes = ["--num_videos", "2", "--num_valid_videos", "2", "--num_frames", "5", "--height", "64", "--width", "96"]
    write_shapes(["mevis", str(root), *sizes, "--num_workers", "1", "--seed", "3"])
    return root


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def truth_of(root: Path, split: str, video: str, expression_id: str, index: int, size: tuple[int, int]) -> np.ndarray:
    """The union by its definition."""
    entry = read(root / split / "meta_expressions.json")["videos"][video]["expressions"][expression_id]
    masks, union = read(root / split / "mask_dict.json"), np.zeros(size, bool)
    for number in entry["anno_id"]:
        if masks[str(number)][index] is not None:
            union |= coco_mask.decode(masks[str(number)][index]).astype(bool)
    return union


def copy(root: Path, target: Path, split: str = "valid_u") -> Path:
    shutil.copytree(root / split, target / split)
    return target


def change(path: Path, edit: Any) -> None:
    content = read(path)
    edit(content)
    path.write_text(json.dumps(content))


def test_layout(mevis: Path) -> None:
    meta = read(mevis / "train" / "meta_expressions.json")["videos"]
    expressions = [e for entry in meta.values() for e in entry["expressions"].values()]
    assert any(len(e["anno_id"]) > 1 for e in expressions) and any(len(e["anno_id"]) == 1 for e in expressions)
    assert all(len(e["anno_id"]) == len(e["obj_id"]) for e in expressions)
    masks = read(mevis / "train" / "mask_dict.json")
    assert {str(n) for e in expressions for n in e["anno_id"]} <= masks.keys()
    assert all(len(frames) == 5 for frames in masks.values())
    assert not (mevis / "valid" / "mask_dict.json").exists()
    assert all(
        set(e) == {"exp"}
        for entry in read(mevis / "valid" / "meta_expressions.json")["videos"].values()
        for e in entry["expressions"].values()
    )


def test_masks_are_unions(mevis: Path) -> None:
    reader = MeViSReader(mevis, "valid_u")
    several = [e for e in reader.expressions if len(e.annotation_ids) > 1]
    assert several and all(e.has_object and e.obj_id is None for e in reader.expressions)
    for expression in reader.expressions:
        chosen = [expression.frames[4], expression.frames[1]]
        masks = reader.read_objects([expression], chosen)
        assert masks.shape == (1, 2, 64, 96)
        for mask, index in zip(masks[0], (4, 1), strict=True):
            expected = truth_of(mevis, "valid_u", expression.video, expression.expression_id, index, (64, 96))
            assert np.array_equal(mask, expected)


def test_training_clips_show_the_union(mevis: Path) -> None:
    reader = MeViSReader(mevis, "train")
    plain = ClipTransform(short_sides=(64,), max_long_side=None, augment=False)
    dataset = ClipDataset(reader, num_frames=5, transform=plain)
    for index, (expression, _) in enumerate(dataset.samples):
        sample = dataset[0, index]
        if sample.name == expression.name:  # all frames, in order
            assert torch.equal(
                sample.targets.masks, torch.from_numpy(reader.read_objects([expression], expression.frames)[0])
            )
    with pytest.raises(ValueError, match=r"meta\.json does not give the category"):
        ClipDataset(reader, num_frames=5, transform=plain, num_classes=65)


def test_withheld_split(mevis: Path) -> None:
    reader = MeViSReader(mevis, "valid")
    assert not reader.has_annotations and not any(e.has_object for e in reader.expressions)
    with pytest.raises(FileNotFoundError, match=r"mask_dict\.json: not there"):
        reader.require_annotations()


def test_faults_are_named(mevis: Path, tmp_path: Path) -> None:
    root = copy(mevis, tmp_path)
    masks = root / "valid_u" / "mask_dict.json"
    number = MeViSReader(root, "valid_u").expressions[0].annotation_ids[0]
    change(masks, lambda content: content.pop(number))
    with pytest.raises(ValueError, match=f"is about annotation {number}, which"):
        MeViSReader(root, "valid_u")
    assert MeViSReader(root, "valid_u", skip_broken=True).broken
    masks.write_text("[]")
    with pytest.raises(ValueError, match=r"mask_dict\.json: not a list of masks"):
        MeViSReader(root, "valid_u", skip_broken=True)


def test_union_checks_what_it_reads() -> None:
    full = encode_mask(np.ones((4, 6), bool))
    masks = {"1": [full, None], "2": [None, None], "3": [full], "4": [{"size": [4, 6]}, None]}
    assert union_of(masks, ("1", "2"), 0, (4, 6), "x").all() and not union_of(masks, ("1",), 1, (4, 6), "x").any()
    for ids, position, size, words in (
        (("3",), 1, (4, 6), "annotation 3 has masks of 1 frames only"),
        (("1",), 0, (6, 4), r"annotation 1 is \[4, 6\] \(h, w\), the frame \[6, 4\]"),
        (("4",), 0, (4, 6), "not a mask in COCO"),
    ):
        with pytest.raises(ValueError, match=words):
            union_of(masks, ids, position, size, "here")


def write_results(mevis: Path, folder: Path, rng: np.random.Generator) -> dict[tuple[str, str], tuple[float, float]]:
    """Disturbed truth for every expression, and its J and F by definition."""
    reader, expected = MeViSReader(mevis, "valid_u"), {}
    for expression in reader.expressions:
        target = folder / expression.video / expression.expression_id
        target.mkdir(parents=True)
        scores = []
        for index, frame in enumerate(expression.frames):
            truth = truth_of(mevis, "valid_u", expression.video, expression.expression_id, index, (64, 96))
            result = np.roll(truth, int(rng.integers(0, 4)), int(rng.integers(2))) if index else np.zeros_like(truth)
            write_mask(target / f"{frame}.png", result)
            scores.append((region_similarity(result, truth), boundary_accuracy(result, truth)))
        expected[expression.video, expression.expression_id] = tuple(np.mean(scores, 0))
    return expected


def arguments(root: Path, results: Path) -> list[str]:
    split = root / "valid_u"
    paths = ["--annotations", str(split / "mask_dict.json"), "--meta", str(split / "meta_expressions.json")]
    return ["--results", str(results), *paths, "--num_workers", "0"]


def test_score_is_per_expression_and_missing_videos_count(mevis: Path, tmp_path: Path, capsys) -> None:
    results = tmp_path / "Annotations"
    expected = write_results(mevis, results, np.random.default_rng(0))
    summary = eval_jf.main(arguments(mevis, results))
    assert summary["num_expressions"] == len(expected)
    assert summary["J"] == pytest.approx(np.mean([j for j, _ in expected.values()]), abs=1e-9)
    assert summary["F"] == pytest.approx(np.mean([f for _, f in expected.values()]), abs=1e-9)
    assert 0.1 < summary["J&F"] < 1
    gone = next(iter(expected))[0]
    shutil.rmtree(results / gone)
    capsys.readouterr()
    summary = eval_jf.main(arguments(mevis, results))
    kept = [j if video != gone else 0 for (video, _), (j, _) in expected.items()]
    assert summary["J"] == pytest.approx(np.mean(kept), abs=1e-9)
    assert f"1 videos have no results and score 0: {gone}" in capsys.readouterr().out
    with pytest.raises(ValueError, match="missing or malformed"):
        eval_jf.main([*arguments(mevis, results), "--missing", "error"])
    next(results.rglob("*.png")).unlink()
    with pytest.raises(ValueError, match="1 masks are missing"):  # half a video is a mistake
        eval_jf.main(arguments(mevis, results))
    with pytest.raises(ValueError, match="expressions mean several objects"):
        eval_jf.main([*arguments(mevis, results), "--permute_captions"])


def test_annotations_of_the_other_sort_and_damaged_ones_are_refused(mevis: Path, tmp_path: Path) -> None:
    """A folder of PNGs in place of the mask_dict.json would score every expression as one without an object."""
    results, root = tmp_path / "Annotations", copy(mevis, tmp_path)
    write_results(mevis, results, np.random.default_rng(0))
    masks, meta = root / "valid_u" / "mask_dict.json", root / "valid_u" / "meta_expressions.json"
    argv = ["--results", str(results), "--meta", str(meta), "--num_workers", "0", "--annotations"]
    with pytest.raises(ValueError, match="have `anno_id`"):
        eval_jf.main([*argv, str(results)])
    original = masks.read_text()
    for value, message in ((None, "not a list of masks"), ([7], "not a mask")):
        change(masks, lambda content, value=value: content.update(dict.fromkeys(content, value)))
        with pytest.raises(ValueError, match=message):
            eval_jf.main([*argv, str(masks)])
        masks.write_text(original)
    expressions = {"0": {"exp": "it", "obj_id": 1}}
    meta.write_text(json.dumps({"videos": {"v": {"frames": ["0"], "expressions": expressions}}}))
    (results / "v" / "0").mkdir(parents=True)
    write_mask(results / "v" / "0" / "0.png", np.zeros((4, 4), bool))
    with pytest.raises(ValueError, match="expression 0 of video v has no `anno_id`"):
        eval_jf.main([*argv, str(masks)])


@pytest.mark.parametrize("split", ["valid_u", "valid"])
def test_zip_has_videos_at_its_root(mevis: Path, tmp_path: Path, split: str) -> None:
    checkpoint = write_small_checkpoint(tmp_path / "small.pth")
    output = tmp_path / "results"
    options = ["--checkpoint", str(checkpoint), "--data_root", str(mevis), "--split", split, "--dataset", "mevis"]
    inference_ytvos.main([*options, "--output_dir", str(output), "--device", "cpu", "--test.threshold", "0.3"])
    meta = read(mevis / split / "meta_expressions.json")["videos"]
    wanted = {f"{v}/{e}/{f}.png" for v, entry in meta.items() for e in entry["expressions"] for f in entry["frames"]}
    assert set(zipfile.ZipFile(output / "submission.zip").namelist()) == wanted
    assert read_mask(output / FOLDER / sorted(wanted)[0], (64, 96)).shape == (64, 96)
    if split == "valid_u":
        assert 0 <= eval_jf.main(arguments(mevis, output / FOLDER))["J"] <= 1


def test_finetunes_and_evaluates_while_training(mevis: Path, tiny_options: list[str], tmp_path: Path) -> None:
    data = ["--data.dataset", "mevis", "--data.root", str(mevis), "--data.eval_split", "valid_u"]
    record = main.main([*tiny_options, *data, "--optim.epochs", "1", "--optim.batch_size", "4"])
    assert record["train"]["loss"] > 0 and 0 < record["eval"]["J&F"] < 1
    assert record["eval"]["num_expressions"] == len(MeViSReader(mevis, "valid_u").expressions)
    options = ["--checkpoint", str(Path(tiny_options[-1]) / "checkpoint.pth"), "--data_root", str(mevis)]
    options += ["--split", "valid_u", "--dataset", "mevis", "--output_dir", str(tmp_path / "out"), "--device", "cpu"]
    inference_ytvos.main(options)
    summary = eval_jf.main(arguments(mevis, tmp_path / "out" / FOLDER))
    assert summary["J&F"] == pytest.approx(record["eval"]["J&F"], abs=1e-3)


def test_videos_know_what_each_expression_means(mevis: Path) -> None:
    video = VideoDataset(mevis, "valid_u", reader=MeViSReader)[0]
    truths = video.truths(2)
    assert truths.shape == (len(video.expressions), 64, 96)
    for truth, expression in zip(truths, video.expressions, strict=True):
        expected = truth_of(mevis, "valid_u", video.name, expression.expression_id, 2, (64, 96))
        assert np.array_equal(truth, expected)
