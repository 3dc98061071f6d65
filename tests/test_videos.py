from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.videos import VideoDataset
from tests.small_ytvos import change_meta, ids, write_frame, write_tree


def test_annotated_videos(tmp_path: Path) -> None:
    videos = VideoDataset(write_tree(tmp_path, "valid"), "valid")
    assert len(videos) == 2 and videos.has_masks and [video.name for video in videos] == ["video0", "video1"]
    video = videos[1]
    assert video.size == (48, 64) and len(video) == 6 and video.frame_names[1] == "00005"
    assert [(e.expression_id, e.caption, e.obj_id, e.kind) for e in video.expressions] == [
        ("0", "the red square on the left", 1, "colour"),
        ("1", "a green dog in bright light", 2, "place"),
    ]
    np.testing.assert_array_equal(video.masks(4), ids(4, 6, (48, 64)))
    assert "video1" in repr(video)


def test_videos_without_annotations(tmp_path: Path) -> None:
    videos = VideoDataset(write_tree(tmp_path, "valid", annotated=False), "valid")
    assert not videos.has_masks and videos[0].masks(0) is None
    assert videos[0].expressions[0].obj_id is None


@pytest.mark.parametrize("window", [1, 2, 4, 6, 100])
def test_windows_make_up_the_video(tmp_path: Path, window: int) -> None:
    video = VideoDataset(write_tree(tmp_path), "train")[0]
    windows = list(video.windows(window))
    assert all(part.dtype == torch.uint8 and part.shape[1:] == (48, 64, 3) for part in windows)
    assert [len(part) for part in windows] == [min(window, 6 - start) for start in range(0, 6, window)]
    whole = video._reader.read_frames("video0", video.frame_names)
    np.testing.assert_array_equal(torch.cat(windows).numpy(), whole)


def test_some_frames_are_read_and_no_others(tmp_path: Path) -> None:
    root = write_tree(tmp_path)
    video = VideoDataset(root, "train")[0]
    whole = video._reader.read_frames("video0", video.frame_names)
    (root / "train" / "JPEGImages" / "video0" / f"{video.frame_names[3]}.jpg").unlink()
    found = video.frames_at(np.array([4, 0]))
    assert list(found) == [4, 0]
    assert all(np.array_equal(frame, whole[t]) for t, frame in found.items())


def test_windows_read_no_further_than_asked(tmp_path: Path) -> None:
    video = VideoDataset(write_tree(tmp_path), "train")[0]
    last = tmp_path / "train" / "JPEGImages" / "video0" / "00025.jpg"
    last.unlink()
    windows = video.windows(2)
    assert len(next(windows)) == 2 and len(next(windows)) == 2
    with pytest.raises(FileNotFoundError, match=r"00025\.jpg is missing"):
        next(windows)
    with pytest.raises(ValueError, match=r"test\.window is 0"):
        next(video.windows(0))


@pytest.mark.parametrize("window", [1, 2, 3])
def test_frames_of_several_sizes(tmp_path: Path, window: int) -> None:
    video = VideoDataset(write_tree(tmp_path), "train")[0]
    for frame in ("00010", "00015"):
        write_frame(tmp_path / "train", "video0", frame, np.ones((20, 30), np.uint8), 0)
    with pytest.raises(ValueError, match=r"00010\.jpg is 20 x 30 .*all frames of a video must have one size"):
        list(video.windows(window))


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_every_video_is_in_exactly_one_share(tmp_path: Path, world_size: int) -> None:
    videos = VideoDataset(write_tree(tmp_path, num_videos=5, num_frames=1), "train")
    shares = [[video.name for video in videos[rank::world_size]] for rank in range(world_size)]
    assert sorted(name for share in shares for name in share) == [f"video{number}" for number in range(5)]


def test_a_video_may_have_no_expressions(tmp_path: Path) -> None:
    change_meta(write_tree(tmp_path), "train", lambda videos: videos["video0"].update(expressions={}))
    assert [len(video.expressions) for video in VideoDataset(tmp_path, "train")] == [0, 2]
