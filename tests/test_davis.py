"""Ref-DAVIS17 from the owners' files to the score, on a generated release with a tiny model."""

import csv
import json
import os
import shutil
import subprocess
import sys
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import inference_davis
from datasets.davis_release import ANNOTATORS, DavisRelease
from datasets.shapes import main as write_shapes
from datasets.shapes_files import video_generator
from datasets.shapes_referred import generate_referred_video
from datasets.shapes_scene import VideoSettings
from datasets.videos import VideoDataset
from inference_davis import MergedObjects
from models.predictor import Predictor
from scripts import eval_davis, prepare_davis
from scripts.benchmark_metrics import plain_scores
from tests.small_model import write_small_checkpoint
from util.masks import read_object_ids, write_object_ids
from util.metrics import boundary_accuracy, region_similarity
from util.submission import SubmissionError

ROOT = Path(prepare_davis.__file__).parents[1]
OPTIONS = ["--num_videos", "4", "--num_frames", "6", "--height", "64", "--width", "96", "--seed", "3"]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("davis") / "ref-davis"
    write_shapes(["davis", str(root), *OPTIONS, "--num_workers", "1"])
    return root


@pytest.fixture(scope="module")
def prepared(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("prepared")
    prepare_davis.main(["--root", str(release), "--output_dir", str(root)])
    return root


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_checkpoint(tmp_path_factory.mktemp("run") / "checkpoint.pth")


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def meta(root: Path, split: str = "valid") -> dict:
    return json.loads((root / "meta_expressions" / split / "meta_expressions.json").read_text())["videos"]


def test_the_generated_release_has_the_same_bytes_and_what_is_odd_about_the_real_one(release: Path, tmp_path: Path):
    write_shapes(["davis", str(tmp_path / "again"), *OPTIONS, "--num_workers", "2"])
    assert contents(tmp_path / "again") == contents(release)
    texts = release / "davis_text_annotations"
    assert (texts / "Davis17_annot1.txt").read_text(encoding="utf-8").startswith('clasic-car 1 "')
    with pytest.raises(UnicodeDecodeError):
        (texts / "Davis17_annot2.txt").read_text(encoding="utf-8")
    assert (release / "DAVIS/JPEGImages/480p/classic-car/00005.jpg").is_file()
    values = {value for path in release.rglob("*.png") for value in np.unique(np.array(Image.open(path))).tolist()}
    assert {0, 1, 2, 255} <= values
    assert (release / "DAVIS/ImageSets/2017/val.txt").read_text().split() == ["shapes-valid-000", "shapes-valid-001"]


def test_the_release_is_read_with_names_and_letters_put_right(release: Path) -> None:
    found = DavisRelease(release)
    assert {"classic-car", "dogs-scale", "motorbike"} <= found.captions.keys()
    video = generate_referred_video(
        video_generator(3, "train", 0), VideoSettings(num_frames=6, height=64, width=96), 0, in_first_frame=True
    )
    assert list(found.captions["classic-car"]) == list(range(1, len(video.shapes) + 1))
    for object_id, sentences in found.captions["classic-car"].items():
        options = video.sentences[object_id - 1]
        expected = [options[k % len(options)] for k in range(4)]
        assert list(sentences) == expected[:2] + [f"{sentence}, déjà vu" for sentence in expected[2:]]


def test_the_converted_layout(release: Path, prepared: Path) -> None:
    texts = {
        a.file: (release / "davis_text_annotations" / a.file).read_text(a.encoding).splitlines() for a in ANNOTATORS
    }
    for video, entry in meta(prepared).items():
        lines = [[line for line in texts[a.file] if line.startswith(f"{video} ")] for a in ANNOTATORS]
        assert list(entry["expressions"]) == [str(i) for i in range(4 * len(lines[0]))]
        for key, expression in entry["expressions"].items():
            number, annotator = divmod(int(key), 4)
            assert f'{video} {expression["obj_id"]} "{expression["exp"]}"' == lines[annotator][number]
        assert entry["frames"] == [f"{t:05d}" for t in range(6)]
    videos = VideoDataset(prepared, "train")  # the reader takes it, categories included
    assert len(videos) == 4 and videos[2].name == "motorbike"
    semantics = json.loads((release / "DAVIS/davis_semantics.json").read_text())
    for expression in videos[2].expressions:
        assert videos.reader.category(expression) == semantics["motorbike"][str(expression.obj_id)]
    assert np.array_equal(
        videos[2].masks(3), read_object_ids(release / "DAVIS/Annotations_unsupervised/480p/motorbike/00003.png")
    )


@pytest.mark.parametrize("options", [[], ["--copy"]])
def test_nothing_of_the_release_changes_and_a_second_run_changes_nothing(
    release: Path, tmp_path: Path, options: list[str]
) -> None:
    before = contents(release)
    for _ in range(2):
        prepare_davis.main(["--root", str(release), "--output_dir", str(tmp_path / "out"), *options])
    assert contents(release) == before
    folder = tmp_path / "out" / "valid" / "JPEGImages" / "shapes-valid-000"
    assert folder.is_symlink() == (not options)
    assert (folder / "00000.jpg").read_bytes() == before["DAVIS/JPEGImages/480p/shapes-valid-000/00000.jpg"]


def test_links_may_become_copies_and_a_copy_that_stopped_is_completed(release: Path, tmp_path: Path) -> None:
    arguments = ["--root", str(release), "--output_dir", str(tmp_path)]
    prepare_davis.main(arguments)
    prepare_davis.main([*arguments, "--copy"])
    copied = tmp_path / "train" / "Annotations" / "motorbike"
    assert not copied.is_symlink()
    (copied / "00002.png").unlink()
    prepare_davis.main([*arguments, "--copy"])
    assert (copied / "00002.png").is_file()
    assert (release / "DAVIS/Annotations_unsupervised/480p/motorbike/00002.png").is_file()


@pytest.mark.parametrize("options", [[], ["--copy"]])
def test_what_is_something_else_is_left_alone(release: Path, tmp_path: Path, options: list[str]) -> None:
    mine = tmp_path / "train" / "JPEGImages" / "motorbike" / "00000.jpg"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="motorbike"):
        prepare_davis.main(["--root", str(release), "--output_dir", str(tmp_path), *options])
    assert mine.read_bytes() == b"mine"


def test_a_prepared_set_can_be_moved_with_its_release(release: Path, tmp_path: Path) -> None:
    shutil.copytree(release, tmp_path / "one")
    prepare_davis.main(["--root", str(tmp_path / "one")])
    (tmp_path / "one").rename(tmp_path / "two")
    assert VideoDataset(tmp_path / "two", "valid")[0].masks(0).shape == (64, 96)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (
            "davis_text_annotations/Davis17_annot1_full_video.txt",
            "shapes-valid-000 1",
            "shapes-valid-000 9",
            "nothing about",
        ),
        ("davis_text_annotations/Davis17_annot2.txt", "shapes-valid-000 2", "shapes-valid-000 1", "second sentence"),
        ("davis_text_annotations/Davis17_annot1.txt", "shapes-valid-000 1", "shapes-valid-000", "line "),
        ("davis_text_annotations/Davis17_annot1.txt", "shapes-valid-000 1", "../x 1", "cannot name"),
        ("DAVIS/ImageSets/2017/val.txt", "shapes-valid-000", "other", "no sentences about video other"),
        ("DAVIS/davis_semantics.json", '"shapes-valid-000"', '"x"', "davis_semantics.json"),
    ],
)
def test_damaged_files_are_named(release: Path, tmp_path: Path, file: str, old: str, new: str, message: str) -> None:
    shutil.copytree(release, tmp_path / "root")
    path = tmp_path / "root" / file
    text = path.read_text(encoding="latin-1")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="latin-1")
    with pytest.raises(ValueError, match=message):
        prepare_davis.main(["--root", str(tmp_path / "root")])


@pytest.mark.parametrize(
    "absent", ["DAVIS", "davis_text_annotations/Davis17_annot2.txt", "DAVIS/ImageSets/2017/val.txt"]
)
def test_missing_files_are_named(release: Path, tmp_path: Path, absent: str) -> None:
    shutil.copytree(release, tmp_path / "root")
    path = tmp_path / "root" / absent
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(FileNotFoundError, match=path.name):
        prepare_davis.main(["--root", str(tmp_path / "root")])


def test_a_frame_without_annotation_is_named(release: Path, tmp_path: Path) -> None:
    shutil.copytree(release, tmp_path / "root")
    (tmp_path / "root/DAVIS/Annotations_unsupervised/480p/shapes-valid-001/00004.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"shapes-valid-001: frame 00004"):
        prepare_davis.main(["--root", str(tmp_path / "root")])


def test_pixels_go_to_the_most_probable_object_above_a_half() -> None:
    probabilities = torch.rand(3, 2, 5, 7)  # objects, frames
    merged = MergedObjects((2, 5, 7))
    for i, object_id in enumerate((1, 2, 5)):
        merged.add(object_id, probabilities[i])
    stacked = torch.cat((torch.full((1, 2, 5, 7), 0.1), torch.where(probabilities < 0.5, 0.0, probabilities)))
    assert torch.equal(merged.ids, torch.tensor([0, 1, 2, 5], dtype=torch.uint8)[stacked.argmax(0)])
    tie = MergedObjects((1, 1, 2))
    for object_id in (1, 2):
        tie.add(object_id, torch.tensor([[[0.5, 0.49]]]))
    assert tie.ids.tolist() == [[[1, 0]]]  # the first of equals; 0.5 counts


def arguments(checkpoint: Path, data_root: Path, output_dir: Path) -> list[str]:
    paths = ["--checkpoint", checkpoint, "--data_root", data_root, "--output_dir", output_dir, "--device", "cpu"]
    return [*map(str, paths), "--split", "valid"]


@pytest.fixture(scope="module")
def results(checkpoint: Path, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the program with the tiny model."""
    folder = tmp_path_factory.mktemp("results") / "out"
    inference_davis.main(arguments(checkpoint, prepared, folder))
    return folder


def test_the_program_writes_what_the_model_says_clip_by_clip(checkpoint: Path, prepared: Path, results: Path) -> None:
    predictor = Predictor.from_checkpoint(checkpoint, device="cpu")
    seen = set()
    for video in VideoDataset(prepared, "valid"):
        for start in (0, 4):  # windows of 4 frames: 4 and 2
            frames = torch.cat(list(video.windows(100)))[start : start + 4]
            for annotator in range(4):
                captions = [e.caption for e in video.expressions if int(e.expression_id) % 4 == annotator]
                predictions = predictor.predict(predictor.encode(frames), captions, keep_probabilities=True)
                stacked = torch.stack([p.probabilities for p in predictions])
                stacked = torch.cat((torch.full_like(stacked[:1], 0.1), torch.where(stacked < 0.5, 0.0, stacked)))
                for t, expected in enumerate(stacked.argmax(0).numpy()):
                    path = results / f"anno_{annotator}" / video.name / f"{start + t:05d}.png"
                    assert np.array_equal(read_object_ids(path), expected)
                    seen |= set(np.unique(expected).tolist())
    assert len(seen) > 1, "an empty result shows nothing"
    with Image.open(path) as image:
        assert image.mode == "P" and image.getpalette()[3:9] == [128, 0, 0, 0, 128, 0]


def test_finished_videos_are_skipped_and_damaged_ones_done_again(
    checkpoint: Path, prepared: Path, results: Path, tmp_path: Path
):
    shutil.copytree(results, tmp_path / "out")
    argv, before = arguments(checkpoint, prepared, tmp_path / "out"), contents(results)
    stamp = (tmp_path / "out/anno_2/shapes-valid-000/00003.png").stat().st_mtime_ns
    (tmp_path / "out/anno_1/shapes-valid-001/00002.png").unlink()
    inference_davis.main(argv)
    assert (tmp_path / "out/anno_2/shapes-valid-000/00003.png").stat().st_mtime_ns == stamp
    assert contents(tmp_path / "out") == before
    (tmp_path / "out/anno_1/shapes-valid-001/00002.png").write_bytes(b"damaged")
    with pytest.raises(SubmissionError, match=r"anno_1/shapes-valid-001/00002\.png"):
        inference_davis.main(argv)
    inference_davis.main(argv)
    assert contents(tmp_path / "out") == before
    with pytest.raises(ValueError, match=r"test\.window 4 -> 3"):
        inference_davis.main([*argv, "--test.window", "3"])
    (tmp_path / "out" / "notes.txt").write_text("mine")
    inference_davis.main([*argv, "--test.window", "3", "--overwrite"])
    assert (tmp_path / "out" / "notes.txt").is_file()


def test_other_data_sets_are_refused(checkpoint: Path, shapes_root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"not 4 for each object|not of one object"):
        inference_davis.main(arguments(checkpoint, shapes_root, tmp_path / "out"))


@pytest.mark.slow
def test_two_processes_write_what_one_does(checkpoint: Path, prepared: Path, results: Path, tmp_path: Path) -> None:
    argv = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(ROOT / "inference_davis.py")]
    argv = [sys.executable, *argv, *arguments(checkpoint, prepared, tmp_path / "out")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(argv, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "out") == contents(results)


def score(results: Path, prepared: Path, *more: str) -> dict:
    return eval_davis.main(["--results", str(results), "--data_root", str(prepared), "--num_workers", "0", *more])


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def plain_summary(results: Path, prepared: Path) -> dict[str, list[float]]:
    """J and F means of each annotator, over all pairings of results with objects that a brute force tries."""
    means: dict[str, list[float]] = {}
    for annotator in range(4):
        of_objects = []
        for video, entry in meta(prepared).items():
            truth = np.stack(
                [read_object_ids(prepared / "valid/Annotations" / video / f"{f}.png") for f in entry["frames"]]
            )
            paths = [results / f"anno_{annotator}" / video / f"{f}.png" for f in entry["frames"]]
            pairs = plain_scores(truth, np.stack([read_object_ids(path) for path in paths]))
            quality = (pairs.j.mean(2) + pairs.f.mean(2)) / 2
            rows = max(
                permutations(range(quality.shape[0]), quality.shape[1]),
                key=lambda rows: sum(quality[r, g] for g, r in enumerate(rows)),
            )
            of_objects += [(pairs.j[r, g].mean(), pairs.f[r, g].mean()) for g, r in enumerate(rows)]
        means[f"anno_{annotator}"] = np.mean(of_objects, axis=0).tolist()
    return means


def test_scores_equal_the_plain_formulation(results: Path, prepared: Path, tmp_path: Path, capsys) -> None:
    summary = score(results, prepared, "--output_dir", str(tmp_path))
    expected = plain_summary(results, prepared)
    for name, (j, f) in expected.items():
        assert summary[name]["J-Mean"] == pytest.approx(j, abs=1e-6)
        assert summary[name]["F-Mean"] == pytest.approx(f, abs=1e-6)
        assert summary[name]["J&F"] == pytest.approx((j + f) / 2, abs=1e-6)
    for measure in eval_davis.MEASURES:
        assert summary["mean"][measure] == pytest.approx(np.mean([summary[f"anno_{k}"][measure] for k in range(4)]))
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == summary
    rows = read_table(tmp_path / "davis_global.csv")
    assert [row["annotator"] for row in rows] == ["anno_0", "anno_1", "anno_2", "anno_3", "mean"]
    assert float(rows[4]["J&F"]) == pytest.approx(summary["mean"]["J&F"], abs=1e-6)


def test_expressions_are_scored_without_assignment(results: Path, prepared: Path, tmp_path: Path) -> None:
    summary = score(results, prepared, "--output_dir", str(tmp_path))
    rows = {(row["video"], row["expression_id"]): row for row in read_table(tmp_path / "davis_expressions.csv")}
    total = []
    for video, entry in meta(prepared).items():
        for key, expression in entry["expressions"].items():
            j, f = [], []
            for frame in entry["frames"]:
                truth = read_object_ids(prepared / "valid/Annotations" / video / f"{frame}.png")
                result = read_object_ids(results / f"anno_{int(key) % 4}" / video / f"{frame}.png")
                masks = result == int(expression["obj_id"]), truth == int(expression["obj_id"])
                j.append(region_similarity(*masks, void=truth == 255))
                f.append(boundary_accuracy(*masks, void=truth == 255))
            assert float(rows[video, key]["J"]) == pytest.approx(np.mean(j), abs=1e-6)
            assert float(rows[video, key]["F"]) == pytest.approx(np.mean(f), abs=1e-6)
            total.append(np.mean(j))
    assert summary["expressions"]["J"] == pytest.approx(np.mean(total), abs=1e-6)
    assert summary["expressions"]["num_expressions"] == len(total) == len(rows)


def test_the_annotation_itself_scores_one_in_any_order_of_objects(prepared: Path, tmp_path: Path) -> None:
    for annotator in range(4):
        for path in (prepared / "valid" / "Annotations").glob("*/*.png"):
            ids = read_object_ids(path)
            ids = np.where((ids > 0) & (ids < 255), (ids + annotator) % 9 + 1, 0).astype(np.uint8)
            target = tmp_path / f"anno_{annotator}" / path.parent.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            write_object_ids(target, ids)
    summary = score(tmp_path, prepared)
    assert summary["mean"]["J&F"] == summary["mean"]["J-Recall"] == 1
    assert summary["mean"]["J-Decay"] == 0


def test_missing_results_are_an_error_or_empty_and_old_tables_go(results: Path, prepared: Path, tmp_path: Path) -> None:
    shutil.copytree(results, tmp_path / "out")
    score(tmp_path / "out", prepared)
    shutil.rmtree(tmp_path / "out" / "anno_1" / "shapes-valid-000")
    with pytest.raises(SubmissionError, match=r"anno_1/shapes-valid-000/00000\.png: missing"):
        score(tmp_path / "out", prepared)
    assert not list((tmp_path / "out").glob("*.csv"))
    allowed = score(tmp_path / "out", prepared, "--allow_missing")
    for path in (results / "anno_1" / "shapes-valid-000").iterdir():
        target = tmp_path / "out" / "anno_1" / "shapes-valid-000" / path.name
        target.parent.mkdir(exist_ok=True)
        write_object_ids(target, np.zeros((64, 96), np.uint8))
    assert score(tmp_path / "out", prepared) == allowed
    write_object_ids(target, np.zeros((6, 9), np.uint8))
    with pytest.raises(SubmissionError, match="6 x 9"):
        score(tmp_path / "out", prepared, "--allow_missing")
    write_object_ids(target, np.full((64, 96), 21, np.uint8))
    with pytest.raises(SubmissionError, match=rf"{target}: has the object 21; 20 are allowed"):
        score(tmp_path / "out", prepared, "--allow_missing")


def test_a_changed_result_changes_the_table(results: Path, prepared: Path, tmp_path: Path) -> None:
    shutil.copytree(results, tmp_path / "out")
    before = score(tmp_path / "out", prepared)
    for path in (tmp_path / "out" / "anno_3").glob("*/*.png"):
        write_object_ids(path, read_object_ids(prepared / "valid/Annotations" / path.parent.name / path.name) % 255)
    after = score(tmp_path / "out", prepared)
    assert after["anno_3"]["J&F"] == 1 > before["anno_3"]["J&F"]
    assert after["anno_0"] == before["anno_0"]
    assert float(read_table(tmp_path / "out" / "davis_global.csv")[3]["J&F"]) == 1


def test_the_scoring_program_with_several_processes(results: Path, prepared: Path, tmp_path: Path) -> None:
    expected = score(results, prepared, "--output_dir", str(tmp_path))
    tables = contents(tmp_path)
    argv = [sys.executable, eval_davis.__file__, "--results", str(results), "--data_root", str(prepared)]
    done = subprocess.run([*argv, "--output_dir", str(tmp_path)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == expected
    assert contents(tmp_path) == tables
    done = subprocess.run([*argv, "--split", "nowhere"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and "nowhere" in done.stderr


def test_expressions_about_objects_that_come_later_leave_the_protocol_alone(prepared: Path, tmp_path: Path) -> None:
    """Object 9 is not in the first frame, so it is none of the protocol; its expressions are scored all the same.

    The other object is never found, and an empty mask would be a better match of its empty frames than the result is.
    """
    frames, root, results = ["00000", "00001", "00002", "00003"], tmp_path / "data", tmp_path / "results"
    later = {f"{k}": {"exp": "the late one", "obj_id": "9"} for k in range(4, 8)}
    first = {f"{k}": {"exp": "the first one", "obj_id": "1"} for k in range(4)}
    for t, frame in enumerate(frames):
        truth, result = np.zeros((2, 40, 50), np.uint8)
        if t == 0:
            truth[5:20, 5:20] = 1
        else:
            truth[20:30, 30:45] = 9
        result[30:36, 5:10] = 1
        result[truth == 9] = 9
        for path, ids in (
            (root / "valid/Annotations/v", truth),
            *((results / f"anno_{k}/v", result) for k in range(4)),
        ):
            path.mkdir(parents=True, exist_ok=True)
            write_object_ids(path / f"{frame}.png", ids)
    path = root / "meta_expressions" / "valid" / "meta_expressions.json"
    path.parent.mkdir(parents=True)
    scores = {}
    for name, expressions in (("with", first | later), ("without", first)):
        path.write_text(json.dumps({"videos": {"v": {"frames": frames, "expressions": expressions}}}))
        scores[name] = score(results, root)
    assert scores["with"]["mean"] == scores["without"]["mean"]
    rows = read_table(results / "davis_expressions.csv")
    assert len(rows) == 4
    assert scores["with"]["expressions"]["J"] == pytest.approx((0 + 1) / 2)


def write_one_object(root: Path, results: Path, num_frames: int) -> Path:
    """A video of one object that every annotator's result finds; returns its meta file."""
    frames, ids = [f"{t:05d}" for t in range(num_frames)], np.zeros((12, 16), np.uint8)
    ids[3:9, 4:10] = 1
    for folder in (root / "valid/Annotations/v", *(results / f"anno_{k}/v" for k in range(4))):
        folder.mkdir(parents=True)
        for frame in frames:
            write_object_ids(folder / f"{frame}.png", ids)
    path = root / "meta_expressions" / "valid" / "meta_expressions.json"
    path.parent.mkdir(parents=True)
    expressions = {f"{k}": {"exp": "it", "obj_id": "1"} for k in range(4)}
    path.write_text(json.dumps({"videos": {"v": {"frames": frames, "expressions": expressions}}}))
    return path


def test_a_long_video_has_no_decay_and_the_line_is_json_all_the_same(tmp_path: Path, capsys) -> None:
    write_one_object(tmp_path / "data", tmp_path / "results", num_frames=300)
    summary = score(tmp_path / "results", tmp_path / "data")
    assert summary["mean"]["J&F"] == 1 and np.isnan(summary["mean"]["J-Decay"])
    line = capsys.readouterr().out.splitlines()[-1]
    told = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert told["mean"]["J-Decay"] is None and told["mean"]["J&F"] == 1


def test_expressions_about_no_object_are_refused(tmp_path: Path) -> None:
    """Object 0 would be the last one of a list."""
    path = write_one_object(tmp_path / "data", tmp_path / "results", num_frames=2)
    path.write_text(path.read_text().replace('"obj_id": "1"', '"obj_id": "0"'))
    with pytest.raises(ValueError, match="expression 0 of video v is about no object"):
        score(tmp_path / "results", tmp_path / "data")
    (tmp_path / "data" / "valid" / "JPEGImages" / "v").mkdir(parents=True)
    for t in range(2):
        Image.new("RGB", (16, 12)).save(tmp_path / "data" / "valid" / "JPEGImages" / "v" / f"{t:05d}.jpg")
    with pytest.raises(ValueError, match="video v: expression 0 is about no object"):
        inference_davis.list_davis_jobs(VideoDataset(tmp_path / "data", "valid"))
