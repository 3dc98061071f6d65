"""A2D-Sentences from the owners' files to the score, on a generated release with a tiny model."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

import eval_a2d
from datasets.a2d import A2DReader, samples_path, truth_path
from datasets.a2d_release import A2DRelease, mask_path, read_instance_mask, read_instances, video_path
from datasets.build import build_eval_data
from datasets.collate import collate
from datasets.shapes import main as write_shapes
from datasets.shapes_files import video_generator
from datasets.shapes_referred import generate_referred_video
from datasets.shapes_scene import VideoSettings
from frame_evaluation import predict_frames
from main import main
from models.frame_predictor import FramePredictor
from models.predictor import Predictor
from scripts import prepare_a2d
from tests.small_model import write_small_checkpoint
from util.config import Config, DataConfig, ModelConfig, TestConfig
from util.rle import decode_mask, encode_mask

ROOT = Path(eval_a2d.__file__).parent
OPTIONS = ["--num_videos", "2", "--num_valid_videos", "2", "--num_frames", "9", "--height", "64", "--width", "96"]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("a2d") / "release"
    write_shapes(["a2d", str(root), *OPTIONS, "--num_workers", "1"])
    return root


@pytest.fixture(scope="module")
def prepared(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("prepared") / "a2d"
    shutil.copytree(release, root)
    prepare_a2d.main(["--root", str(root)])
    return root


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_checkpoint(tmp_path_factory.mktemp("run") / "checkpoint.pth")


@pytest.fixture
def copy(release: Path, tmp_path: Path) -> Path:
    shutil.copytree(release, tmp_path / "copy")
    return tmp_path / "copy"


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def generated(split: str, index: int):
    return generate_referred_video(
        video_generator(0, split, index), VideoSettings(num_frames=9, height=64, width=96), index
    )


def test_the_generated_release_has_the_same_bytes_and_what_is_odd_about_the_real_one(release: Path, tmp_path: Path):
    write_shapes(["a2d", str(tmp_path / "again"), *OPTIONS, "--num_workers", "2"])
    assert contents(tmp_path / "again") == contents(release)
    texts = (release / "text_annotations" / "a2d_annotation.txt").read_text()
    assert ",1 (copy)," in texts and "missed_00000,0," in texts
    with (release / "Release" / "videoset.csv").open() as file:
        rows = list(csv.reader(file))
    assert {len(row) for row in rows} == {9} and [row[8] for row in rows] == ["0", "0", "1", "1", "0"]
    dimensions = set()
    for path in release.rglob("*.h5"):
        with h5py.File(path) as file:
            dimensions.add(file["reMask"].ndim)
            assert file["reMask"].shape[-2:] == (96, 64)
            count = len(file["instance"])
            assert file["reBBox"].shape == (4, count)
            assert (file["reMask"].ndim == 2) == (count == 1)
    with pytest.raises(SystemExit, match="even"):
        write_shapes(["a2d", str(tmp_path / "odd"), "--height", "65", "--num_workers", "1"])


def test_samples_are_every_annotated_frame_that_shows_the_instance(release: Path, prepared: Path) -> None:
    for split, generated_split in (("train", "train"), ("test", "valid")):
        expected = []
        for index in range(2):
            video, name = generated(generated_split, index), f"{split}_{index:05d}"
            frames = sorted(int(path.stem) for path in mask_path(release, name, 1).parent.glob("*.h5"))
            assert frames == [3, 5, 7]
            for i, sentences in enumerate(video.sentences):
                shown = [frame for frame in frames if (video.masks[frame - 1] == i + 1).any()]
                expected += [[sentences[0], name, frame, i] for frame in shown]
        assert json.loads(samples_path(prepared, split).read_text()) == expected


def test_masks_and_frames_are_those_of_the_generated_video(prepared: Path) -> None:
    reader = A2DReader(prepared, "test")
    seen_alone = False
    for sample in reader.samples:
        video = generated("valid", int(sample.video.rpartition("_")[2]))
        assert np.array_equal(reader.read_mask(sample), video.masks[sample.frame - 1] == sample.instance + 1)
        frames, annotated = reader.read_window(sample, 5)
        difference = np.abs(frames[annotated].astype(int) - video.frames[sample.frame - 1]).mean()
        assert difference < 12  # H.264 at half the resolution of colours
        assert difference < np.abs(frames[annotated].astype(int) - video.frames[(sample.frame + 3) % 9]).mean()
        seen_alone |= len(read_instances(mask_path(prepared, sample.video, sample.frame))) == 1
    path = next(prepared.rglob("*.h5")).with_name("alone.h5")
    mask = np.zeros((96, 64), np.uint8)  # transposed
    mask[10:20, 5:15] = 1
    with h5py.File(path, "w") as file:
        file["instance"], file["reMask"] = [7], mask
    assert np.array_equal(read_instance_mask(path, 7), mask.T.astype(bool))
    path.unlink()


def test_the_ground_truth_is_one_image_and_annotation_a_sample(prepared: Path) -> None:
    content = json.loads(truth_path(prepared).read_text())
    reader = A2DReader(prepared, "test")
    names = [f"v_{s.video}_f_{s.frame}_i_{s.instance}" for s in reader.samples]
    assert [image["id"] for image in content["images"]] == [a["image_id"] for a in content["annotations"]] == names
    assert [a["id"] for a in content["annotations"]] == list(range(1, len(names) + 1))
    assert {a["category_id"] for a in content["annotations"]} == {1}
    for sample, truth, annotation in zip(reader.samples, reader.truths, content["annotations"], strict=True):
        mask = reader.read_mask(sample)
        assert np.array_equal(decode_mask(truth.rle), mask) and truth.size == mask.shape == (64, 96)
        assert annotation["area"] == mask.sum()


def test_files_of_others_are_kept_and_the_truth_is_made_for_them(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = samples_path(copy, "test")
    path.write_text(json.dumps([["The  star of others ", "test_00000", 5, 0]]))
    prepare_a2d.main(["--root", str(copy)])
    assert "is kept" in capsys.readouterr().out
    reader = A2DReader(copy, "test")
    assert [sample.caption for sample in reader.samples] == ["the star of others"] and len(reader.truths) == 1
    prepare_a2d.main(["--root", str(copy), "--overwrite"])
    assert len(A2DReader(copy, "test").samples) > 1


def test_a_truth_of_other_samples_is_refused(copy: Path) -> None:
    prepare_a2d.main(["--root", str(copy)])
    content = json.loads(truth_path(copy).read_text())
    del content["annotations"][2]
    truth_path(copy).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"has no v_test_00000_f_\d_i_\d \(1 samples"):
        _ = A2DReader(copy, "test").truths


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "not a list of samples"),
        ("{}", "not a list of samples"),
        ('[["a ball", "v", 1]]', "sample 0 is not"),
        ('[["a ball", "v", Infinity, 0]]', "sample 0 is not"),
        ('[["a ball", "../v", 1, 0]]', "cannot name"),
        ('[["a ball", "v", 0, 0]]', "numbered from 1"),
        ('[["...", "v", 1, 0]]', "no words"),
        ("[", "broken JSON"),
    ],
)
def test_damaged_lists_are_named(copy: Path, content: str, message: str) -> None:
    samples_path(copy, "train").write_text(content)
    with pytest.raises(ValueError, match=message):
        A2DReader(copy, "train")


def test_what_is_missing_or_damaged_is_named(copy: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"prepare_a2d\.py makes it"):
        A2DReader(copy, "train")
    with pytest.raises(ValueError, match="splits train and test"):
        A2DReader(copy, "valid")
    video_path(copy, "test_00001").unlink()
    with pytest.raises(FileNotFoundError, match=r"test_00001\.mp4"):
        prepare_a2d.main(["--root", str(copy)])
    reader = A2DReader(copy, "train")
    sample = reader.samples[0]
    path = mask_path(copy, sample.video, sample.frame)
    with h5py.File(path, "a") as file:
        del file["instance"]
        file["instance"] = [8]
    with pytest.raises(ValueError, match=rf"{path.name}: (has no instance|damaged)"):
        reader.read_mask(sample)
    path.write_bytes(b"damaged")
    with pytest.raises(ValueError, match=rf"{path.name}: damaged annotation"):
        reader.read_mask(sample)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=path.name):
        reader.read_mask(sample)
    shutil.rmtree(path.parent)
    with pytest.raises(FileNotFoundError, match=sample.video):
        list(A2DRelease(copy).samples("train"))
    (copy / "text_annotations" / "a2d_annotation.txt").write_text("video_id,instance_id,query\ntrain_00000,x,a ball\n")
    with pytest.raises(ValueError, match="line 2: the instance 'x'"):
        A2DRelease(copy).queries("train")
    (copy / "Release" / "videoset.csv").write_text("a,b\n")
    with pytest.raises(ValueError, match="2 columns"):
        A2DRelease(copy).videos("train")


def training_options(tiny_model: list[str], prepared: Path, output_dir: Path) -> list[str]:
    data = [
        "--data.dataset",
        "a2d",
        "--data.root",
        str(prepared),
        "--data.eval_split",
        "test",
        "--data.num_frames",
        "3",
    ]
    return [*tiny_model, *data, "--train.output_dir", str(output_dir), "--optim.lr_drops", "[]", "--optim.epochs", "1"]


def test_training_and_evaluation_agree(tiny_model: list[str], prepared: Path, tmp_path: Path, capsys) -> None:
    options = training_options(tiny_model, prepared, tmp_path / "run")
    record = main([*options, "--test.max_long_side", "640"])
    assert record["train"]["loss"] > 0
    argv = ["--checkpoint", str(tmp_path / "run" / "checkpoint.pth"), "--data_root", str(prepared), "--device", "cpu"]
    capsys.readouterr()
    scores = eval_a2d.main([*argv, "--num_workers", "0", "--output_dir", str(tmp_path / "out")])
    assert scores == pytest.approx(record["eval"], abs=1e-6)
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == scores
    assert json.loads((tmp_path / "out" / "scores.json").read_text()) == scores
    assert scores["num_samples"] == len(A2DReader(prepared, "test").samples)
    options = [
        "--data.dataset",
        "a2d",
        "--data.root",
        str(prepared),
        "--data.eval_split",
        "test",
        "--data.num_frames",
        "3",
    ]
    options += ["--test.short_side", "48", "--test.threshold", "0.05", "--test.max_long_side", "640"]
    again = main(["--train.evaluate_only", argv[1], *options, "--train.device", "cpu", "--data.num_workers", "0"])
    assert again == pytest.approx(record["eval"], abs=1e-6)


def test_classes_and_other_data_sets_are_refused(tiny_model: list[str], prepared: Path, tmp_path: Path) -> None:
    options = training_options(tiny_model, prepared, tmp_path / "run")
    with pytest.raises(ValueError, match="a2d has no categories"):
        main([*options, "--model.num_classes", "65"])
    with pytest.raises(ValueError, match="splits train and test"):
        main([*options, "--data.eval_split", "valid"])


def evaluation_config(prepared: Path) -> Config:
    data = DataConfig(dataset="a2d", root=str(prepared), eval_split="test", num_frames=3, num_workers=0)
    return Config(model=ModelConfig(), data=data, test=TestConfig(short_side=48, max_long_side=640))


def test_results_are_the_models(checkpoint: Path, prepared: Path) -> None:
    """Each sample's own frames, caption and size reach the model, in order."""
    windows = build_eval_data(evaluation_config(prepared))
    predictor = FramePredictor(Predictor.from_checkpoint(checkpoint, device="cpu").model, threshold=0.3)
    results = predict_frames(predictor, windows)
    assert len({result.scores for result in results}) > len(results) / 2
    for index in (0, len(windows) - 1):
        expected = predictor.predict(collate([windows[index]]), [(64, 96)])[0]
        assert results[index].scores == tuple(expected.scores.tolist())
        assert [encode_mask(mask) for mask in expected.masks.numpy()] == list(results[index].masks)


def score_file(path: Path, prepared: Path, *more: str) -> dict[str, float]:
    return eval_a2d.main(["--predictions", str(path), "--data_root", str(prepared), *more])


def test_predictions_from_a_file(prepared: Path, tmp_path: Path) -> None:
    reader = A2DReader(prepared, "test")
    names = [sample.image_id for sample in reader.samples]
    perfect = [
        {"image_id": name, "category_id": 1, "segmentation": truth.rle, "score": 0.5}
        for name, truth in zip(names, reader.truths, strict=True)
    ]
    path = tmp_path / "predictions.json"
    with pytest.raises(FileNotFoundError, match=r"predictions\.json: no such predictions; eval_a2d\.py writes them"):
        score_file(path, prepared)
    path.write_text(json.dumps(perfect))
    scores = score_file(path, prepared)
    assert {value for name, value in scores.items() if name != "num_samples"} == {1.0}
    path.write_text(json.dumps(perfect[1:]))
    with pytest.raises(ValueError, match=rf"no prediction for {names[0]} \(1 samples.*--allow_missing"):
        score_file(path, prepared)
    missing = score_file(path, prepared, "--allow_missing")
    assert missing["mean_IoU"] == pytest.approx(1 - 1 / len(names)) and missing["mAP"] < 1
    empty = [*perfect[1:], perfect[0] | {"segmentation": encode_mask(np.zeros((64, 96), bool)), "score": 0.0}]
    path.write_text(json.dumps(empty))
    assert score_file(path, prepared) == pytest.approx(missing, abs=1e-6)
    for change, message in (
        ({"image_id": "v_other_f_1_i_0"}, "unknown sample"),
        ({"score": None}, "without a score"),
        ({"score": float("nan")}, f"the score of {names[0]} is nan"),
        ({"segmentation": {"size": [64, 96], "counts": "x"}}, "not a mask"),
        ({"segmentation": encode_mask(np.zeros((6, 9), bool))}, rf"{names[0]} is \[6, 9\]"),
    ):
        path.write_text(json.dumps([perfect[0] | change, *perfect[1:]]))
        (tmp_path / "scores.json").write_text("{}")
        with pytest.raises(ValueError, match=message):
            score_file(path, prepared, "--output_dir", str(tmp_path))
        assert not (tmp_path / "scores.json").exists(), "those of an older run"
    with pytest.raises(ValueError, match="either"):
        eval_a2d.main(["--data_root", str(prepared)])


@pytest.mark.slow
def test_each_sample_is_done_once_whatever_the_number_of_processes(
    checkpoint: Path, prepared: Path, tmp_path: Path
) -> None:
    """One, two and three processes write the same predictions of 7 samples."""
    shutil.copytree(prepared, tmp_path / "data")
    listed = samples_path(tmp_path / "data", "test")
    listed.write_text(json.dumps(json.loads(listed.read_text())[:7]))
    program = [str(ROOT / "eval_a2d.py"), "--checkpoint", str(checkpoint), "--data_root", str(tmp_path / "data")]
    program += ["--device", "cpu", "--test.threshold", "0.3", "--num_workers", "0", "--num_frames", "3"]
    written = []
    for count in (1, 2, 3):
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
        out = tmp_path / str(count)
        done = subprocess.run(
            [*start, *program, "--output_dir", str(out)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert len([line for line in done.stdout.splitlines() if line.startswith("{")]) == 1
        written.append(contents(out))
    assert written[0] == written[1] == written[2]
    assert json.loads(written[0]["scores.json"])["num_samples"] == 7
    assert len(json.loads(written[0]["predictions.json"])) == 3 * 7


@pytest.mark.slow
def test_two_processes_train(tiny_model: list[str], prepared: Path, tmp_path: Path) -> None:
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(ROOT / "main.py")]
    options = training_options(tiny_model, prepared, tmp_path / "run")
    done = subprocess.run(
        [*start, *options], env=os.environ | {"OMP_NUM_THREADS": "1"}, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])
    assert record["eval"]["num_samples"] == len(A2DReader(prepared, "test").samples)
