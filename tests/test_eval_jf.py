import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.targets import read_targets
from scripts import eval_jf
from util.expression_scores import permute_captions
from util.masks import write_mask
from util.metrics import boundary_accuracy, region_similarity
from util.submission import SubmissionError

SIZE = (40, 60)
FRAMES = ["00000", "00005", "00010"]
META = {
    "videos": {
        "one": {
            "expressions": {
                "0": {"exp": "the red square", "obj_id": "1", "kind": "colour"},
                "1": {"exp": "the big one", "obj_id": "2", "kind": "size"},
                "2": {"exp": "the square", "obj_id": "1", "kind": "shape"},
                "3": {"exp": "the third, thin one", "obj_id": "4", "kind": "size"},
            },
            "frames": FRAMES,
        },
        "two": {"expressions": {"7": {"exp": "the circle", "obj_id": "3", "kind": "shape"}}, "frames": FRAMES[:2]},
    }
}


def object_ids(video: str, t: int) -> np.ndarray:
    """Objects 1 to 4 side by side, 1 shrinking and gone from frame 2."""
    ids = np.zeros(SIZE, dtype=np.uint8)
    for i in range(4):
        ids[5 : 25 - 10 * t if i == 0 else 30, 2 + 15 * i : 12 + 15 * i] = i + 1
    return ids


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Annotations, meta, and results that equal the annotations."""
    (tmp_path / "meta.json").write_text(json.dumps(META))
    for video, entry in META["videos"].items():
        (tmp_path / "truth" / video).mkdir(parents=True)
        for t, frame in enumerate(entry["frames"]):
            ids = object_ids(video, t)
            Image.fromarray(ids).save(tmp_path / "truth" / video / f"{frame}.png")
            for expression_id, expression in entry["expressions"].items():
                folder = tmp_path / "out" / "Annotations" / video / expression_id
                folder.mkdir(parents=True, exist_ok=True)
                write_mask(folder / f"{frame}.png", ids == int(expression["obj_id"]))
    return tmp_path


def arguments(tree: Path, *more: str) -> list[str]:
    folders = ["--results", str(tree / "out" / "Annotations"), "--annotations", str(tree / "truth")]
    return [*folders, "--meta", str(tree / "meta.json"), "--num_workers", "0", *more]


def result(tree: Path, video: str = "one", expression_id: str = "0", frame: str = "00000") -> Path:
    return tree / "out" / "Annotations" / video / expression_id / f"{frame}.png"


def test_a_perfect_result_scores_one(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    eval_jf.main(arguments(tree))
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {key: last[key] for key in ("J", "F", "J&F", "num_expressions")} == {
        "J": 1,
        "F": 1,
        "J&F": 1,
        "num_expressions": 5,
    }
    assert {kind: row["num_expressions"] for kind, row in last["per_kind"].items()} == {
        "colour": 1,
        "shape": 2,
        "size": 2,
    }


def test_scores_are_means_over_frames_and_then_over_expressions(tree: Path) -> None:
    wrong = np.zeros(SIZE, dtype=bool)
    wrong[6:30, 4:15] = True
    write_mask(result(tree), wrong)
    summary = eval_jf.main(arguments(tree))
    truth = object_ids("one", 0) == 1
    j, f = (region_similarity(wrong, truth) + 2) / 3, (boundary_accuracy(wrong, truth) + 2) / 3
    assert 0 < j < 1 and 0 < f < 1
    assert summary["J"] == pytest.approx((j + 4) / 5)
    assert summary["F"] == pytest.approx((f + 4) / 5)
    assert summary["J&F"] == pytest.approx((summary["J"] + summary["F"]) / 2)
    assert summary["per_kind"]["colour"]["J"] == pytest.approx(j)
    assert summary["per_kind"]["size"]["J"] == 1
    with open(tree / "out" / "jf.csv", newline="") as file:
        rows = {(row["video"], row["expression_id"]): row for row in csv.DictReader(file)}
    assert len(rows) == 5
    assert float(rows["one", "0"]["J"]) == pytest.approx(j, abs=1e-6)
    assert rows["one", "3"]["expression"] == "the third, thin one"
    assert rows["two", "7"] | {"J": "1.000000", "num_frames": "2", "kind": "shape"} == rows["two", "7"]


def test_an_old_table_is_never_shown_again(tree: Path) -> None:
    eval_jf.main(arguments(tree))
    write_mask(result(tree), np.zeros(SIZE, dtype=bool))
    assert eval_jf.main(arguments(tree))["J"] < 1
    assert "0.666667" in (tree / "out" / "jf.csv").read_text()
    result(tree).unlink()
    with pytest.raises(SubmissionError):
        eval_jf.main(arguments(tree))
    assert not (tree / "out" / "jf.csv").exists()


def test_permuted_captions_compare_with_the_next_object_that_has_expressions(tree: Path) -> None:
    targets = permute_captions(read_targets(tree / "meta.json"))
    assert [target.obj_id for target in targets] == [2, 4, 2, 1, 3]  # 1 -> 2 -> 4 -> 1; alone, 3 stays
    summary = eval_jf.main(arguments(tree, "--permute_captions"))
    # Object 1 is gone in frame 2, where the others are not, so that nothing overlaps but in the video of one object.
    assert summary["J"] == pytest.approx(1 / 5)
    assert (tree / "out" / "jf_permuted.csv").is_file()
    assert not (tree / "out" / "jf.csv").exists()


def test_a_model_that_ignores_the_caption_scores_the_same_permuted(tmp_path: Path, tree: Path) -> None:
    """Each object has one expression and every expression gets the same mask."""
    meta = {"videos": {"one": {"frames": FRAMES, "expressions": {}}}}
    for i in range(4):
        meta["videos"]["one"]["expressions"][str(i)] = {"exp": "it", "obj_id": i + 1}
        for frame in FRAMES:
            write_mask(result(tree, "one", str(i), frame), object_ids("one", 0) == 2)
    (tree / "meta.json").write_text(json.dumps(meta))
    plain, permuted = eval_jf.main(arguments(tree)), eval_jf.main(arguments(tree, "--permute_captions"))
    assert plain["J"] == pytest.approx(permuted["J"]) == pytest.approx(1 / 4)
    assert "per_kind" not in plain


def test_missing_masks_are_named_or_count_zero(tree: Path) -> None:
    result(tree).unlink()
    result(tree, "two", "7", "00005").unlink()
    with pytest.raises(SubmissionError, match=r"(?s)2 masks.*--missing zero.*one/0/00000\.png.*two/7/00005\.png"):
        eval_jf.main(arguments(tree))
    assert not (tree / "out" / "jf.csv").exists()
    assert eval_jf.main(arguments(tree, "--missing", "zero"))["J"] == pytest.approx((2 / 3 + 1 / 2 + 3) / 5)


def test_missing_masks_count_as_empty(tree: Path) -> None:
    """Object 1 of the first video is gone in its last frame, where an empty mask is right and a score of 0 is not."""
    assert not (object_ids("one", 2) == 1).any() and (object_ids("one", 0) == 1).any()
    paths = [result(tree, "one", "0", FRAMES[0]), result(tree, "one", "0", FRAMES[2])]
    for path in paths:
        write_mask(path, np.zeros(SIZE, dtype=bool))
    written = eval_jf.main(arguments(tree))
    for path in paths:
        path.unlink()
    assert eval_jf.main(arguments(tree, "--allow_missing")) == written
    assert eval_jf.main(arguments(tree, "--missing", "zero"))["J"] == pytest.approx(written["J"] - 1 / 3 / 5)
    Image.new("L", SIZE[::-1], 1).save(result(tree))
    with pytest.raises(SubmissionError, match="0 and 255"):  # a malformed one is none that is missing
        eval_jf.main(arguments(tree, "--allow_missing"))


def test_malformed_masks_are_named_or_count_zero(tree: Path) -> None:
    Image.new("L", SIZE[::-1], 1).save(result(tree))
    with pytest.raises(SubmissionError, match=r"one/0/00000\.png.*0 and 255"):
        eval_jf.main(arguments(tree))
    write_mask(result(tree), np.zeros((5, 5), dtype=bool))
    with pytest.raises(SubmissionError, match=r"one/0/00000\.png.*5 x 5"):
        eval_jf.main(arguments(tree))
    assert eval_jf.main(arguments(tree, "--missing", "zero"))["J"] == pytest.approx((2 / 3 + 4) / 5)


def test_a_missing_annotation_is_an_error_whatever_missing_says(tree: Path) -> None:
    (tree / "truth" / "one" / "00010.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"truth/one/00010\.png"):
        eval_jf.main(arguments(tree, "--missing", "zero"))


def test_missing_folders_are_named(tree: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        eval_jf.main(arguments(tree, "--annotations", str(tree / "nowhere")))


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"videos": {"v": {"frames": ["0"], "expressions": {"0": {"exp": "it"}}}}}, "no obj_id"),
        ({"videos": {"v": {"frames": ["0"], "expressions": {"0": {"exp": "it", "obj_id": "x"}}}}}, "from 1 to 255"),
        ({"videos": {"v": {"frames": ["0"], "expressions": {"0": {"exp": "it", "obj_id": "256"}}}}}, "from 1 to 255"),
        ({"videos": {"v": {"frames": [], "expressions": {"0": {"exp": "it", "obj_id": 1}}}}}, "no frames"),
        ({"videos": {"v": {"frames": ["0", "0"], "expressions": {"0": {"exp": "it", "obj_id": 1}}}}}, "a frame twice"),
        ({"videos": {"../v": {"frames": ["0"], "expressions": {"0": {"exp": "it", "obj_id": 1}}}}}, "cannot name"),
        ({"videos": {"v": {"frames": ["../0"], "expressions": {"0": {"exp": "it", "obj_id": 1}}}}}, "cannot name"),
        ({"videos": {"v": {"frames": "01", "expressions": {}}}}, "video v has no 'frames' that is a JSON list"),
        ({"videos": {"v": {"frames": ["0"]}}}, "video v has no 'expressions' that is a JSON object"),
        ({"videos": {"v": {"frames": ["0"], "expressions": {"0": "it"}}}}, "expression 0, has no 'exp'"),
        ({"videos": {"v": {"frames": ["0"], "expressions": {"0": {"exp": 7, "obj_id": 1}}}}}, "has no 'exp'"),
        ({"videos": {"v": {"frames": ["0"], "expressions": {"0": {"exp": "it", "anno_id": "12"}}}}}, "no 'anno_id'"),
        ({"videos": {}}, "no expressions"),
        ([], "has no 'videos'"),
    ],
)
def test_unusable_meta_files_are_refused(tmp_path: Path, meta: object, message: str) -> None:
    path = tmp_path / "meta.json"
    path.write_text(json.dumps(meta))
    with pytest.raises(ValueError, match=message):
        read_targets(path)


def test_a_meta_file_may_be_named_from_its_own_folder(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    assert read_targets("meta.json") == read_targets(tree / "meta.json")


def test_kinds_are_text_whatever_the_file_says(tmp_path: Path) -> None:
    expressions = {str(i): {"exp": "it", "obj_id": 1, "kind": kind} for i, kind in enumerate((7, "x"))}
    (tmp_path / "meta.json").write_text(json.dumps({"videos": {"v": {"frames": ["0"], "expressions": expressions}}}))
    assert [target.kind for target in read_targets(tmp_path / "meta.json")] == ["7", "x"]


def test_a_negative_number_of_processes_is_refused(tree: Path) -> None:
    with pytest.raises(ValueError, match="--num_workers is -1"):
        eval_jf.main(arguments(tree, "--num_workers", "-1"))


def test_videos_of_the_test_split_are_left_out_of_valid(tmp_path: Path) -> None:
    for split, videos in (("valid", META["videos"]), ("test", {"one": META["videos"]["one"]})):
        (tmp_path / split).mkdir()
        (tmp_path / split / "meta_expressions.json").write_text(json.dumps({"videos": videos}))
    assert {t.video for t in read_targets(tmp_path / "valid" / "meta_expressions.json")} == {"two"}
    assert {t.video for t in read_targets(tmp_path / "test" / "meta_expressions.json")} == {"one"}


def test_the_program_with_several_processes(tree: Path) -> None:
    write_mask(result(tree), np.zeros(SIZE, dtype=bool))
    expected = eval_jf.main(arguments(tree))
    command = [sys.executable, eval_jf.__file__, *arguments(tree, "--num_workers", "2")]
    run = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[-1]) == expected
    assert "scoring" in run.stderr
    result(tree).unlink()
    run = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.startswith("error: ") and "one/0/00000.png: missing" in run.stderr


@pytest.fixture
def tree_with_absent(tree: Path) -> Path:
    """Video `one` has two more sentences, without an object: `8` got no mask, `9` one pixel in one frame."""
    meta = json.loads((tree / "meta.json").read_text())
    for expression_id, kind in (("8", "absent_similar"), ("9", "absent_strange")):
        entry = {"exp": "the purple ring", "obj_id": "0", "kind": kind}
        meta["videos"]["one"]["expressions"][expression_id] = entry
        result(tree, "one", expression_id).parent.mkdir(parents=True)
        for t, frame in enumerate(FRAMES):
            mask = np.zeros(SIZE, dtype=bool)
            mask[0, 0] = expression_id == "9" and t == 1
            write_mask(result(tree, "one", expression_id, frame), mask)
    (tree / "meta.json").write_text(json.dumps(meta))
    return tree


def test_expressions_without_an_object_are_judged_by_emptiness(tree_with_absent: Path) -> None:
    empty = np.zeros(SIZE, dtype=bool)
    for frame in FRAMES[:2]:
        write_mask(result(tree_with_absent, "two", "7", frame), empty)  # an object that is there, not found
    summary = eval_jf.main(arguments(tree_with_absent, "--no_target"))
    assert summary["no_target_accuracy"] == 0.5
    assert summary["target_accuracy"] == 0.8
    assert summary["num_no_target"] == 2
    assert summary["no_target_accuracy_per_kind"] == {"absent_similar": 1, "absent_strange": 0}
    assert summary["num_expressions"] == 5
    assert summary["J"] == pytest.approx(0.8)
    assert "absent_similar" not in summary["per_kind"]


def test_without_the_option_they_are_left_out(tree_with_absent: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert eval_jf.main(arguments(tree_with_absent))["num_expressions"] == 5
    assert "2 expressions without an object are left out" in capsys.readouterr().out


def test_both_sorts_are_needed(tree: Path) -> None:
    with pytest.raises(ValueError, match="needs both sorts"):
        eval_jf.main(arguments(tree, "--no_target"))
