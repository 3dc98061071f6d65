"""What is missing from a download, and the held-out part of the training split."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from datasets.shapes import main as write_shapes
from datasets.videos import VideoDataset
from datasets.ytvos import YTVOSReader
from scripts import check_data, hold_out
from tests.small_ytvos import write_tree


@pytest.fixture
def ytvos(tmp_path: Path) -> Path:
    root = write_tree(tmp_path / "ytvos", num_videos=5)
    return write_tree(root, "valid", annotated=False)


def check(root: Path, capsys: pytest.CaptureFixture, *options: str) -> tuple[int, str]:
    capsys.readouterr()
    return check_data.main(["ytvos", "--root", str(root), *options]), capsys.readouterr().out


def test_complete_download(ytvos: Path, capsys: pytest.CaptureFixture) -> None:
    faulty, text = check(ytvos, capsys, "--deep")
    assert faulty == 0, text
    assert "train: complete" in text and "valid: complete" in text
    assert "test: not there, and not needed for training" in text
    assert "5 videos, 10 expressions (the real release has 3471 videos, 12913 expressions)" in text


def test_each_fault_is_named(ytvos: Path, capsys: pytest.CaptureFixture) -> None:
    train = ytvos / "train"
    (train / "JPEGImages" / "video1" / "00005.jpg").unlink()
    (train / "Annotations" / "video2" / "00010.png").unlink()
    for path in (train / "JPEGImages" / "video3").iterdir():
        path.unlink()
    (ytvos / "meta_expressions" / "valid" / "meta_expressions.json").unlink()
    faulty, text = check(ytvos, capsys)
    assert faulty == 2
    assert "video1/00005.jpg (1 of 6)" in text and "video2/00010.png (1 of 6)" in text
    assert "1 x missing folder of frames" in text and "JPEGImages/video3" in text
    assert "valid: faulty" in text and "meta_expressions/valid" in text
    assert "cure: unpack train.zip" in text


def test_damaged_files_need_a_deep_look(ytvos: Path, capsys: pytest.CaptureFixture) -> None:
    victim = ytvos / "train" / "JPEGImages" / "video4" / "00010.jpg"
    victim.write_bytes(victim.read_bytes()[:300])
    assert check(ytvos, capsys, "--splits", "train")[0] == 0
    faulty, text = check(ytvos, capsys, "--splits", "train", "--deep")
    assert faulty == 1 and "1 x damaged" in text and "video4/00010.jpg" in text


def test_missing_masks_and_unknown_splits(ytvos: Path, capsys: pytest.CaptureFixture) -> None:
    (ytvos / "train" / "Annotations").rename(ytvos / "elsewhere")
    faulty, text = check(ytvos, capsys, "--splits", "train")
    assert faulty == 1 and "the masks of the split train" in text
    with pytest.raises(ValueError, match="ytvos has no split dev"):
        check(ytvos, capsys, "--splits", "dev")


def test_a_root_that_is_not_there_is_a_wrong_path(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such folder; --root is the folder of the data set"):
        check(tmp_path / "nowhere", capsys)
    assert "unpack" not in capsys.readouterr().out


def test_mevis(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root = tmp_path / "mevis"
    sizes = ["--num_videos", "1", "--num_valid_videos", "1", "--num_frames", "3", "--height", "64", "--width", "96"]
    write_shapes(["mevis", str(root), *sizes, "--num_workers", "1"])
    assert check_data.main(["mevis", "--root", str(root), "--deep"]) == 0
    (root / "valid_u" / "mask_dict.json").unlink()
    next((root / "train" / "JPEGImages").rglob("00001.jpg")).unlink()
    capsys.readouterr()
    assert check_data.main(["mevis", "--root", str(root)]) == 2
    text = capsys.readouterr().out
    assert "the masks of the split valid_u" in text and "00001.jpg (1 of 3)" in text


def test_held_out_part_is_a_data_set(ytvos: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "held-out"
    hold_out.main(["--root", str(ytvos), "--output", str(output), "--num_videos", "2"])
    assert "3 videos in train, 2 videos in valid" in capsys.readouterr().out
    whole, train, valid = YTVOSReader(ytvos, "train"), YTVOSReader(output, "train"), YTVOSReader(output, "valid")
    assert train.videos.keys() | valid.videos.keys() == whole.videos.keys()
    assert not train.videos.keys() & valid.videos.keys() and len(valid.videos) == 2
    assert sorted(e.name for e in train.expressions + valid.expressions) == sorted(e.name for e in whole.expressions)
    videos = VideoDataset(output, "valid")
    assert videos.has_masks and all(e.has_object for video in videos for e in video.expressions)
    expression = valid.expressions[0]
    assert valid.category(expression) == whole.category(expression)
    assert (valid.read_masks(expression.video, expression.frames) == expression.obj_id).any()
    assert (output / "valid" / "JPEGImages" / expression.video).is_symlink()
    hold_out.main(["--root", str(ytvos), "--output", str(output), "--num_videos", "2"])  # again, no harm
    with pytest.raises(FileExistsError, match="is of another choice"):
        hold_out.main(["--root", str(ytvos), "--output", str(output), "--num_videos", "3"])
    with pytest.raises(ValueError, match="1 to 4 can be held out"):
        hold_out.main(["--root", str(ytvos), "--output", str(tmp_path / "x"), "--num_videos", "5"])
    with pytest.raises(ValueError, match="is the root itself"):
        hold_out.main(["--root", str(ytvos), "--output", str(ytvos), "--num_videos", "2"])


def test_a_mark_at_the_beginning_of_a_file_is_no_fault(ytvos: Path, tmp_path: Path) -> None:
    root = tmp_path / "marked"
    shutil.copytree(ytvos, root)
    path = root / "train" / "meta.json"
    path.write_text("\ufeff" + path.read_text())
    assert hold_out.hold_out(root, tmp_path / "out", 1) == {"train": 4, "valid": 1}


def test_copies_are_files(ytvos: Path, tmp_path: Path) -> None:
    counts = hold_out.hold_out(ytvos, tmp_path / "copy", 1, seed=3, copy=True)
    assert counts == {"train": 4, "valid": 1}
    assert not any(path.is_symlink() for path in (tmp_path / "copy").rglob("*"))
    meta = json.loads((tmp_path / "copy/meta_expressions/valid/meta_expressions.json").read_text())["videos"]
    (video,) = meta
    assert len(list((tmp_path / "copy/valid/Annotations" / video).iterdir())) == 6
