import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from util.masks import read_mask, write_mask
from util.results import ResultFolder
from util.submission import SubmissionError, VideoMasks, check_name, check_zip, find_faults, write_submission

VIDEOS = [VideoMasks("dog", (6, 9), ("00000", "00005"), ("0", "1")), VideoMasks("cat", (8, 4), ("00003",), ("0",))]


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    """A complete result."""
    root = tmp_path / "Annotations"
    generator = np.random.default_rng(0)
    for video in VIDEOS:
        for name in video.paths():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            write_mask(root / name, generator.random(video.size) > 0.5)
    return root


def rgb(path: Path) -> None:
    Image.new("RGB", (9, 6)).save(path)


def ones(path: Path) -> None:
    Image.fromarray(read_mask(path).astype(np.uint8)).save(path)


def small(path: Path) -> None:
    write_mask(path, np.zeros((3, 3), dtype=bool))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


DAMAGE = {Path.unlink: "missing", rgb: "8-bit grey", ones: "0 and 255", small: "3 x 3", truncate: "unreadable"}


def test_a_complete_result_is_zipped_under_annotations(annotations: Path, tmp_path: Path) -> None:
    path = tmp_path / "submission.zip"
    assert write_submission(annotations, VIDEOS, path) == 5
    check_zip(path, VIDEOS)
    with zipfile.ZipFile(path) as archive:
        assert sorted(archive.namelist()) == [
            "Annotations/cat/0/00003.png",
            "Annotations/dog/0/00000.png",
            "Annotations/dog/0/00005.png",
            "Annotations/dog/1/00000.png",
            "Annotations/dog/1/00005.png",
        ]
        archive.extractall(tmp_path / "server")
    for video in VIDEOS:
        for name in video.paths():
            expected = read_mask(annotations / name)
            assert np.array_equal(read_mask(tmp_path / "server" / "Annotations" / name, video.size), expected)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["Annotations", "server", "submission.zip"]


def test_equal_masks_give_equal_bytes_and_stray_files_stay_out(annotations: Path, tmp_path: Path) -> None:
    write_submission(annotations, VIDEOS, tmp_path / "first.zip")
    (annotations / "dog" / "0" / "notes.txt").write_text("stray")
    small(annotations / "dog" / "0" / "00010.png")
    write_submission(annotations, VIDEOS, tmp_path / "second.zip")
    assert (tmp_path / "first.zip").read_bytes() == (tmp_path / "second.zip").read_bytes()


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_a_damaged_result_is_not_zipped(annotations: Path, tmp_path: Path, damage) -> None:
    path = tmp_path / "submission.zip"
    write_submission(annotations, VIDEOS, path)
    damage(annotations / "dog" / "1" / "00005.png")
    with pytest.raises(SubmissionError, match=rf"(?s)1 masks.*dog/1/00005\.png.*{DAMAGE[damage]}") as caught:
        write_submission(annotations, VIDEOS, path)
    assert [fault.video for fault in caught.value.faults] == ["dog"]
    assert not path.exists()  # the zip of the older result is not left to be sent


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_a_damaged_zip_is_refused(annotations: Path, tmp_path: Path, damage) -> None:
    damage(annotations / "dog" / "1" / "00005.png")
    path = tmp_path / "by_hand.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(annotations.rglob("*.png")):
            archive.write(file, Path("Annotations") / file.relative_to(annotations))
    with pytest.raises(SubmissionError, match=rf"dog/1/00005\.png.*{DAMAGE[damage]}"):
        check_zip(path, VIDEOS)


def test_a_zip_without_the_top_folder_or_no_zip_at_all_is_refused(annotations: Path, tmp_path: Path) -> None:
    path = tmp_path / "by_hand.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in annotations.rglob("*.png"):
            archive.write(file, file.relative_to(annotations))
    with pytest.raises(ValueError, match=r"5 files.*cat/0/00003\.png"):
        check_zip(path, VIDEOS)
    path.write_bytes(b"no zip")
    with pytest.raises(ValueError, match="not a readable zip"):
        check_zip(path, VIDEOS)


def test_many_faults_are_counted_and_the_first_few_listed(tmp_path: Path) -> None:
    video = VideoMasks("dog", (6, 9), tuple(f"{frame:05}" for frame in range(50)), ("0", "1"))
    assert len(find_faults(tmp_path / "nothing", [video])) == 100
    with pytest.raises(SubmissionError) as caught:
        write_submission(tmp_path / "nothing", [video], tmp_path / "submission.zip")
    message = str(caught.value)
    assert "100 masks are missing" in message
    assert "dog/0/00000.png: missing" in message
    assert "95 more" in message
    assert len(message.splitlines()) == 7


def test_nothing_to_submit_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no expression"):
        write_submission(tmp_path, [VideoMasks("dog", (6, 9), ("00000",), ())], tmp_path / "submission.zip")


def test_a_full_disk_leaves_no_half_zip(annotations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    with pytest.raises(OSError, match=r"submission\.zip: No space left"):
        write_submission(annotations, VIDEOS, tmp_path / "submission.zip")
    assert [p.name for p in tmp_path.iterdir()] == ["Annotations"]


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "/etc", "a/b", "a\\b", ".hidden", "a\0b", "a\nb", "C:x", "x" * 300]
)
def test_names_that_are_no_component_of_a_path_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"video .* cannot name a file or folder"):
        check_name(name, "video")
    for masks in ((name, ("0",), ("0",)), ("v", (name,), ("0",)), ("v", ("0",), (name,))):
        with pytest.raises(ValueError, match="cannot name"):
            VideoMasks(masks[0], (6, 9), masks[1], masks[2])


@pytest.mark.parametrize("name", ["0062f687f1", "bmx-trees", "my video (2)", "видео", "00000"])
def test_ordinary_names_are_kept(name: str) -> None:
    assert check_name(name, "video") == name


def test_a_folder_remembers_whose_results_it_holds(tmp_path: Path) -> None:
    folder = ResultFolder(tmp_path / "out")
    folder.check_identity({"checkpoint": "a"})
    folder.write_identity({"checkpoint": "a", "window": 36})
    folder.check_identity({"checkpoint": "a", "window": 36})
    with pytest.raises(ValueError, match=r"window 36 -> 8.*--overwrite"):
        folder.check_identity({"checkpoint": "a", "window": 8})
    with pytest.raises(ValueError, match="extra"):
        folder.check_identity({"checkpoint": "a", "window": 36, "extra": 1})
    (tmp_path / "out" / "inference.json").write_text("{")
    with pytest.raises(ValueError, match="broken JSON"):
        folder.check_identity({})


def test_results_of_unknown_origin_are_not_taken_over(annotations: Path) -> None:
    folder = ResultFolder(annotations.parent)
    with pytest.raises(ValueError, match="no inference run wrote"):
        folder.check_identity({"checkpoint": "a"})


def test_annotations_of_a_data_set_are_never_deleted(annotations: Path) -> None:
    """`--output_dir DATA/valid --overwrite` would put results in the place of the ground truth."""
    before = sorted(annotations.rglob("*"))
    with pytest.raises(ValueError, match="choose another --output_dir"):
        ResultFolder(annotations.parent).clear()
    assert sorted(annotations.rglob("*")) == before


def test_clearing_deletes_results_alone(annotations: Path) -> None:
    folder = ResultFolder(annotations.parent)
    folder.write_identity({})
    mine = annotations.parent / "notes.txt"
    mine.write_text("keep")
    folder.clear()
    assert list(annotations.parent.iterdir()) == [mine]


def test_a_video_is_finished_while_its_masks_and_captions_stay_the_same(annotations: Path) -> None:
    folder, video = ResultFolder(annotations.parent), VIDEOS[0]
    folder.write_identity({})
    assert not folder.is_finished(video, ["a dog", "the dog"])
    folder.mark_finished(video, ["a dog", "the dog"])
    assert folder.is_finished(video, ["a dog", "the dog"])
    assert not folder.is_finished(video, ["a dog", "the cat"])
    assert not folder.is_finished(video, ["a dog", "the dog"], source="other frames")
    folder.mask_path("dog", "1", "00005").unlink()
    assert not folder.is_finished(video, ["a dog", "the dog"])
    small(folder.mask_path("dog", "1", "00005"))
    assert folder.is_finished(video, ["a dog", "the dog"])
    folder.forget("dog")
    assert not folder.is_finished(video, ["a dog", "the dog"])
