"""JHMDB-Sentences from the owners' files to the score, on a generated release with a tiny model."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.io

import eval_a2d
from datasets.jhmdb import JHMDBReader, mask_path, samples_path, truth_path
from datasets.shapes import main as write_shapes
from datasets.shapes_files import video_generator
from datasets.shapes_referred import generate_referred_video
from datasets.shapes_scene import VideoSettings
from scripts import prepare_jhmdb
from tests.small_model import write_small_checkpoint
from util.rle import decode_mask

OPTIONS = ["--num_videos", "3", "--num_frames", "6", "--height", "64", "--width", "96"]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("jhmdb") / "release"
    write_shapes(["jhmdb", str(root), *OPTIONS, "--num_workers", "1"])
    return root


@pytest.fixture
def prepared(release: Path, tmp_path: Path) -> Path:
    shutil.copytree(release, tmp_path / "copy")
    prepare_jhmdb.main(["--root", str(tmp_path / "copy")])
    return tmp_path / "copy"


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def generated(index: int):
    return generate_referred_video(
        video_generator(0, "train", index), VideoSettings(num_frames=6, height=64, width=96), index
    )


def test_the_generated_release_has_the_same_bytes(release: Path, tmp_path: Path) -> None:
    write_shapes(["jhmdb", str(tmp_path / "again"), *OPTIONS, "--num_workers", "2"])
    assert contents(tmp_path / "again") == contents(release)
    assert (release / "jhmdb_annotation.txt").read_text().startswith("video_id,query\nshapes_00000,The ")
    lengths = [scipy.io.loadmat(path)["part_mask"].shape for path in sorted(release.rglob("*.mat"))]
    assert sorted(lengths) == [(64, 96, 5), (64, 96, 6), (64, 96, 6)]


def test_samples_are_three_frames_of_each_video_that_have_a_mask(prepared: Path) -> None:
    content = json.loads(samples_path(prepared).read_text())
    reader = JHMDBReader(prepared)
    assert len(content) == len(reader.samples) == 9
    for entry, sample in zip(content, reader.samples, strict=True):
        video, frame_path, masks, num_frames, query = entry
        index = int(video.rpartition("_")[2])
        truth = generated(index)
        assert num_frames == 6 and query == sample.caption == truth.sentences[0][0]
        for path in (frame_path, masks):
            assert path.startswith("jhmdb_sentences/") and (prepared / path.partition("/")[2]).is_file()
        assert sample.frame <= 6 - index % 2 and sample.image_id == f"v_{video}_f_{sample.frame}"
        expected = truth.masks[sample.frame - 1] == 1
        assert expected.any() and np.array_equal(reader.read_mask(sample), expected)
        frames, annotated = reader.read_window(sample, 5)
        assert np.array_equal(frames[annotated], truth.frames[sample.frame - 1])
    for index in range(3):
        of_video = [s.frame for s in reader.samples if s.video == f"shapes_{index:05d}"]
        assert of_video == sorted(set(of_video)) and len(of_video) == 3


def test_windows_are_clamped_to_the_video(prepared: Path) -> None:
    content = json.loads(samples_path(prepared).read_text())
    content[0][1] = content[0][1].rpartition("/")[0] + "/00001.png"
    content[1][1] = content[1][1].rpartition("/")[0] + "/00006.png"
    samples_path(prepared).write_text(json.dumps(content))
    reader, video = JHMDBReader(prepared), generated(0)
    for index, expected, place in ((0, [0, 0, 0, 1, 2], 0), (1, [3, 4, 5, 5, 5], 2)):
        frames, annotated = reader.read_window(reader.samples[index], 5)
        assert np.array_equal(frames, video.frames[expected]) and annotated == place


def test_the_ground_truth(prepared: Path) -> None:
    content = json.loads(truth_path(prepared).read_text())
    reader = JHMDBReader(prepared)
    assert [image["id"] for image in content["images"]] == [sample.image_id for sample in reader.samples]
    for sample, truth in zip(reader.samples, reader.truths, strict=True):
        assert np.array_equal(decode_mask(truth.rle), reader.read_mask(sample))


def test_files_that_are_there_are_kept_and_the_seed_decides_the_others(prepared: Path, capsys) -> None:
    before = {path: path.read_bytes() for path in (samples_path(prepared), truth_path(prepared))}
    prepare_jhmdb.main(["--root", str(prepared), "--seed", "1"])
    assert {path: path.read_bytes() for path in before} == before
    assert capsys.readouterr().out.count("is kept") == 2
    prepare_jhmdb.main(["--root", str(prepared), "--overwrite"])
    assert {path: path.read_bytes() for path in before} == before
    prepare_jhmdb.main(["--root", str(prepared), "--overwrite", "--seed", "1"])
    assert all(path.read_bytes() != old for path, old in before.items())


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (["v", "a/b"], "sample 0 is not"),
        (["v", "x/Rename_Images/act/v/00001.png", "m", float("inf"), "a man"], "sample 0 is not"),
        (["v", "x/Rename_Images/act/v/00009.png", "m", 5, "a man"], "not one of the 5 frames"),
        (["v", "x/Rename_Images/act/w/00001.png", "m", 5, "a man"], "not one of the 5 frames"),
        (["..", "x/Rename_Images/act/../00001.png", "m", 5, "a man"], "cannot name"),
        (["v", "x/Rename_Images/../v/00001.png", "m", 5, "a man"], "cannot name"),
        (["v", "x/Rename_Images/act/v/00001.png", "m", 5, ""], "no words"),
    ],
)
def test_damaged_lists_are_named(prepared: Path, entry: list, message: str) -> None:
    samples_path(prepared).write_text(json.dumps([entry]))
    with pytest.raises(ValueError, match=message):
        JHMDBReader(prepared)


def test_what_is_missing_or_damaged_is_named(release: Path, prepared: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"prepare_jhmdb\.py makes it"):
        JHMDBReader(release)
    with pytest.raises(ValueError, match="only tested on"):
        JHMDBReader(prepared, "train")
    reader = JHMDBReader(prepared)
    sample = reader.samples[0]
    path = mask_path(prepared, sample.folder, sample.video)
    scipy.io.savemat(path, {"part_mask": np.ones((64, 96), np.uint8)})
    assert reader.read_mask(dataclasses.replace(sample, frame=1)).all()
    with pytest.raises(ValueError, match="has masks of 1 frames, none of frame"):
        reader.read_mask(next(s for s in reader.samples if s.video == sample.video and s.frame > 1))
    scipy.io.savemat(path, {"other": np.ones(3)})
    with pytest.raises(ValueError, match="without part_mask"):
        reader.read_mask(sample)
    path.write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"puppet_mask\.mat: damaged"):
        reader.read_mask(sample)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"puppet_mask\.mat"):
        prepare_jhmdb.main(["--root", str(prepared), "--overwrite"])
    queries = prepared / "jhmdb_annotation.txt"
    text = queries.read_bytes()
    for content, message in (
        (text + "v,un garçon\n".encode("latin-1"), "not a text in utf-8"),
        (text + b'v,"' + b"x" * 200_000 + b'"\n', "not a CSV file"),
        (text + b"\nv,a,man\n", "line 6: not a video and a query"),
    ):
        queries.write_bytes(content)
        with pytest.raises(ValueError, match=rf"jhmdb_annotation\.txt(:|,) {message}"):
            prepare_jhmdb.main(["--root", str(prepared), "--overwrite"])
    queries.write_bytes(text)
    shutil.rmtree(prepared / "Rename_Images" / sample.folder / sample.video)
    with pytest.raises(FileNotFoundError, match=sample.video):
        prepare_jhmdb.main(["--root", str(prepared), "--overwrite"])


def test_the_program_with_a_model(prepared: Path, tmp_path: Path) -> None:
    checkpoint = write_small_checkpoint(tmp_path / "checkpoint.pth")
    argv = ["--checkpoint", str(checkpoint), "--dataset", "jhmdb", "--data_root", str(prepared), "--device", "cpu"]
    argv += ["--test.threshold", "0.3", "--num_workers", "0", "--output_dir", str(tmp_path / "out")]
    scores = eval_a2d.main(argv)
    assert scores["num_samples"] == 9 and 0 < scores["mean_IoU"] < 1
    again = ["--predictions", str(tmp_path / "out" / "predictions.json"), "--dataset", "jhmdb"]
    assert eval_a2d.main([*again, "--data_root", str(prepared)]) == pytest.approx(scores)
