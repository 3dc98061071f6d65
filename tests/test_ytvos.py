import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.mevis import MeViSReader
from datasets.ytvos import YTVOSReader
from tests.small_ytvos import change_meta, ids, meta_path, write_frame, write_json, write_tree


def expression_of(videos: dict, video: str = "video0", key: str = "0") -> dict:
    return videos[video]["expressions"][key]


def test_annotated_split(tmp_path: Path) -> None:
    reader = YTVOSReader(write_tree(tmp_path), "train")
    assert list(reader.videos) == ["video0", "video1"] and reader.has_annotations
    first = reader.expressions[0]
    assert (first.video, first.expression_id, first.obj_id, first.kind) == ("video0", "0", 1, "colour")
    assert first.caption == "the red square on the left" and first.name == "video0/0"
    assert first.frames == ("00000", "00005", "00010", "00015", "00020", "00025")
    assert [reader.category(expression) for expression in reader.expressions] == ["person", "dog"] * 2


def test_pixels(tmp_path: Path) -> None:
    reader = YTVOSReader(write_tree(tmp_path), "train")
    frame, mask = reader.read_frame("video0", "00005"), reader.read_mask("video0", "00005")
    assert frame.shape == (48, 64, 3) and frame.dtype == np.uint8
    np.testing.assert_array_equal(mask, ids(1, 6, (48, 64)))
    red, green = frame[mask == 1].mean(0), frame[mask == 2].mean(0)
    assert red[0] > red[1] + 100 and green[1] > green[0] + 100  # RGB, and not BGR
    names = ("00010", "00000", "00010")
    np.testing.assert_array_equal(
        reader.read_frames("video0", names), [reader.read_frame("video0", name) for name in names]
    )
    np.testing.assert_array_equal(
        reader.read_masks("video0", names), [reader.read_mask("video0", name) for name in names]
    )


def test_split_without_annotations(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        reader = YTVOSReader(write_tree(tmp_path, "valid", annotated=False), "valid")
    assert not reader.has_annotations and reader.categories == {}
    assert all(expression.obj_id is None and expression.kind is None for expression in reader.expressions)
    assert "all 2 videos of valid are taken" in caplog.text
    with pytest.raises(FileNotFoundError, match=r"Annotations: not there.*choose one that has"):
        reader.require_annotations()
    with pytest.raises(ValueError, match=r"meta\.json does not give the category of expression video0/0"):
        reader.category(reader.expressions[0])


def test_withheld_objects_need_no_categories(tmp_path: Path) -> None:
    write_tree(tmp_path, "valid", annotated=False)
    write_json(tmp_path / "valid" / "meta.json", {"videos": {"video0": {"objects": {"1": {"frames": []}}}}})
    assert len(YTVOSReader(tmp_path, "valid").expressions) == 4
    write_tree(tmp_path)
    write_json(tmp_path / "train" / "meta.json", {"videos": {"video0": {"objects": {"1": {"frames": []}}}}})
    for skip_broken in (False, True):
        with pytest.raises(ValueError, match=r"train/meta\.json: video video0, object 1, has no 'category'"):
            YTVOSReader(tmp_path, "train", skip_broken=skip_broken)


def test_valid_leaves_out_the_videos_of_test(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_tree(tmp_path, "valid", num_videos=3, annotated=False)
    write_json(meta_path(tmp_path, "test"), {"videos": {"video1": {}, "elsewhere": {}}})
    with caplog.at_level(logging.INFO):
        reader = YTVOSReader(tmp_path, "valid")
    assert list(reader.videos) == ["video0", "video2"]
    assert {expression.video for expression in reader.expressions} == {"video0", "video2"}
    assert "2 of the 3 videos of valid remain" in caplog.text


def test_train_does_not_look_at_test(tmp_path: Path) -> None:
    write_tree(tmp_path)
    write_json(meta_path(tmp_path, "test"), {"videos": {"video1": {}}})
    assert len(YTVOSReader(tmp_path, "train").videos) == 2


@pytest.mark.parametrize("missing", ["", "meta_expressions/train", "train/JPEGImages"])
def test_missing_folder(tmp_path: Path, missing: str) -> None:
    write_tree(tmp_path / "data")
    folder = tmp_path / "data" / missing
    folder.rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match=f"{folder}: no such folder"):
        YTVOSReader(tmp_path / "data", "train")


def test_a_split_that_is_not_there_comes_with_those_that_are(tmp_path: Path) -> None:
    write_tree(tmp_path)
    write_tree(tmp_path, "valid", annotated=False)
    with pytest.raises(FileNotFoundError, match=f"vaild: no such folder; {tmp_path} has the splits train, valid;"):
        YTVOSReader(tmp_path, "vaild")
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "meta_expressions.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=f"vaild: no such folder; {tmp_path} has the splits dev;"):
        MeViSReader(tmp_path, "vaild")


def test_missing_and_broken_meta(tmp_path: Path) -> None:
    write_tree(tmp_path)
    path = meta_path(tmp_path, "train")
    path.write_text(path.read_text()[:100])
    with pytest.raises(ValueError, match=r"meta_expressions\.json: broken JSON, line \d+.*again"):
        YTVOSReader(tmp_path, "train")
    path.write_text("[]")
    with pytest.raises(ValueError, match=r"meta_expressions\.json: has no 'videos'"):
        YTVOSReader(tmp_path, "train")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"meta_expressions\.json: no such file"):
        YTVOSReader(tmp_path, "train")


@pytest.mark.parametrize("bad", ["../x", "/etc", "a/b", "a\\b", "..", "", "C:x", "a\nb", "a\0b"])
@pytest.mark.parametrize("place", ["video", "frame", "expression"])
def test_names_that_leave_the_folder(tmp_path: Path, bad: str, place: str) -> None:
    def change(videos: dict) -> None:
        video = videos["video0"]
        if place == "frame":
            video["frames"][1] = bad
        elif place == "video":
            videos[bad] = videos.pop("video0")
        else:
            video["expressions"][bad] = video["expressions"].pop("0")

    change_meta(write_tree(tmp_path), "train", change)
    with pytest.raises(ValueError, match=rf"meta_expressions\.json: .*{place}.* cannot name a file or folder"):
        YTVOSReader(tmp_path, "train")


@pytest.mark.parametrize("split", ["../train", "/tmp", ""])
def test_split_that_leaves_the_folder(tmp_path: Path, split: str) -> None:
    with pytest.raises(ValueError, match="split"):
        YTVOSReader(write_tree(tmp_path), split)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda videos: expression_of(videos).update(exp=" \t"), r"video video0, expression 0, has no words"),
        (lambda videos: expression_of(videos).update(exp="..."), r"expression 0, has no words .*give it a sentence"),
        (lambda videos: expression_of(videos).pop("exp"), r"expression 0, has no 'exp' that is a JSON string"),
        (lambda videos: expression_of(videos).update(obj_id="7"), r"about object 7, which .*meta\.json does not have"),
        (lambda videos: expression_of(videos).update(obj_id="x"), r"object id 'x'; it must be a number from 1 to 255"),
        (lambda videos: expression_of(videos).update(obj_id=True), r"object id True"),
        (lambda videos: expression_of(videos).update(obj_id="256"), r"object id '256'"),
    ],
)
def test_unusable_expression(tmp_path: Path, change, message: str, caplog: pytest.LogCaptureFixture) -> None:
    change_meta(write_tree(tmp_path), "train", change)
    with pytest.raises(ValueError, match=r"meta_expressions\.json: " + "(?s:.*)" + message):
        YTVOSReader(tmp_path, "train")
    reader = YTVOSReader(tmp_path, "train", skip_broken=True)
    assert [expression.name for expression in reader.expressions] == ["video0/1", "video1/0", "video1/1"]
    assert list(reader.broken) == ["video0/0"] and reader.broken["video0/0"] in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda videos: videos["video0"].update(frames=[]), "video video0 lists no frames"),
        (lambda videos: videos["video0"]["frames"].append("00000"), "video video0 lists a frame twice"),
        (lambda videos: videos["video0"].update(frames=[0, 5]), "video video0, frame 0 cannot name a file"),
        (lambda videos: videos["video0"].pop("frames"), "video video0 has no 'frames' that is a JSON list"),
        (lambda videos: videos["video0"].pop("expressions"), "video video0 has no 'expressions'"),
        (lambda videos: videos.update(video0=3), "video video0 has no 'frames'"),
    ],
)
def test_unusable_video(tmp_path: Path, change, message: str) -> None:
    change_meta(write_tree(tmp_path), "train", change)
    with pytest.raises(ValueError, match=r"meta_expressions\.json: " + message):
        YTVOSReader(tmp_path, "train")


def test_video_absent_from_categories(tmp_path: Path) -> None:
    path = write_tree(tmp_path) / "train" / "meta.json"
    content = json.loads(path.read_text())
    del content["videos"]["video1"]
    write_json(path, content)
    with pytest.raises(ValueError, match=r"video video1, expression 0, is about object 1, which .*meta\.json"):
        YTVOSReader(tmp_path, "train")
    path.unlink()  # categories are not needed by class-agnostic heads
    assert len(YTVOSReader(tmp_path, "train").expressions) == 4


def test_damaged_pixels(tmp_path: Path) -> None:
    reader = YTVOSReader(write_tree(tmp_path), "train")
    frame, mask = reader.frame_path("video0", "00000"), reader.mask_path("video0", "00000")
    frame.write_bytes(frame.read_bytes()[:-200])
    with pytest.raises(ValueError, match=rf"{frame}: damaged or truncated.*again"):
        reader.read_frame("video0", "00000")
    frame.unlink()
    for read in (reader.read_frame, reader.read_mask):
        with pytest.raises(FileNotFoundError, match=r"00000\.jpg is missing"):
            read("video0", "00000")
    with pytest.raises(FileNotFoundError, match=r"is missing, and so is its folder .*video7;"):
        reader.read_frame("video7", "00000")
    mask = reader.mask_path("video0", "00005")
    mask.write_bytes(mask.read_bytes()[:-30])
    with pytest.raises(ValueError, match=rf"{mask}: unreadable"):
        reader.read_mask("video0", "00005")
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(mask)
    with pytest.raises(ValueError, match=rf"{mask}: .*palette or 8-bit grey"):
        reader.read_mask("video0", "00005")
    mask.unlink()
    with pytest.raises(FileNotFoundError, match=rf"{mask}: no such annotation"):
        reader.read_mask("video0", "00005")


def test_mask_of_another_size(tmp_path: Path) -> None:
    reader = YTVOSReader(write_tree(tmp_path), "train")
    mask = reader.mask_path("video0", "00000")
    Image.fromarray(np.ones((24, 64), np.uint8)).save(mask)
    with pytest.raises(ValueError, match=rf"{mask}: 24 x 64 .* where its frame has 48 x 64"):
        reader.read_mask("video0", "00000")


def test_frames_of_several_sizes(tmp_path: Path) -> None:
    reader = YTVOSReader(write_tree(tmp_path), "train")
    write_frame(tmp_path / "train", "video0", "00010", np.ones((20, 30), np.uint8), 0)
    for read in (reader.read_frames, reader.read_masks):
        with pytest.raises(ValueError, match=r"00010\.jpg is 20 x 30 .* frame 00005 is 48 x 64.*resize"):
            read("video0", ("00005", "00010"))
