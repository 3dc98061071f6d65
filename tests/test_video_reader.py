"""Any video as frames: files, folders, pictures, arrays, and the odd ones, each with an error that says what it is."""

import os
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.small_videos import (
    RATE,
    moving_square,
    turn,
    write_encrypted,
    write_mp4,
    write_sound,
    write_with,
    write_without_frames,
)
from util.frame_source import Limited, Recorded
from util.video_reader import open_video

FRAMES = moving_square()


def read(video: object) -> np.ndarray:
    return np.stack([frame.image for frame in open_video(video).frames()])


def assert_same(actual: np.ndarray, expected: np.ndarray, tolerance: float = 4) -> None:
    """On the mean over pixels; video codecs lose something."""
    assert actual.shape == expected.shape
    assert np.abs(actual.astype(float) - expected).mean() < tolerance


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("a.mp4", "libx264", "yuv420p"),
        ("a.mov", "libx264", "yuv420p"),
        ("a.avi", "mpeg4", "yuv420p"),
        ("a.webm", "libvpx", "yuv420p"),
        ("a.mkv", "libx264", "yuv420p"),
        ("a.h264", "libx264", "yuv420p"),
    ],
)
def test_files_of_every_kind_give_their_frames(tmp_path: Path, name: str, codec: str, pixels: str) -> None:
    path = write_with(tmp_path / name, FRAMES, codec, pixels)
    assert_same(read(path), FRAMES, tolerance=8)
    source = open_video(path)
    assert source.name == "a"
    if name == "a.h264":  # a bare stream has neither a count nor a duration
        assert source.num_frames is None
    else:
        assert source.num_frames == pytest.approx(len(FRAMES), abs=1)


def test_a_gif(tmp_path: Path) -> None:
    images = [Image.fromarray(frame) for frame in FRAMES]
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:], duration=100)
    assert_same(read(tmp_path / "a.gif"), FRAMES, tolerance=8)


def test_a_folder_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    for t, frame in enumerate(FRAMES):
        Image.fromarray(frame).save(tmp_path / f"{t * 5}.png")  # 10.png sorts before 5.png
    (tmp_path / "notes.txt").write_text("no frame")
    np.testing.assert_array_equal(read(tmp_path), FRAMES)
    Image.fromarray(FRAMES[0][:-2]).save(tmp_path / "99.png")
    with pytest.raises(ValueError, match=r"99\.png is 46 x 64 .* resize them"):
        read(tmp_path)


def test_odd_names_in_a_folder(tmp_path: Path) -> None:
    """A raised 2 is a digit and no number; names of one number follow one another by their letters."""
    names = ["1.png", "01.png", "²1.png", "x².png", "Ab3.png", "ab3.png", "٣.png"]
    for name in names:
        Image.fromarray(FRAMES[0]).save(tmp_path / name)
    order = [path.name for path in open_video(tmp_path).paths]
    assert order == ["01.png", "1.png", "٣.png", "Ab3.png", "ab3.png", "x².png", "²1.png"]


def test_only_formats_of_photographs_are_opened(tmp_path: Path) -> None:
    """Pillow would start Ghostscript for PostScript, whatever the name of the file is."""
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n%%EOF\n")
    with pytest.raises(ValueError, match=r"a\.png: .*cannot identify"):
        open_video(tmp_path / "a.png")


def test_a_picture_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held turned by 90 degrees
    Image.fromarray(FRAMES[0]).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read(tmp_path / "a.png"), np.rot90(FRAMES[:1], -1, axes=(1, 2)))


def test_arrays_and_iterators() -> None:
    np.testing.assert_array_equal(read(list(FRAMES)), FRAMES)
    np.testing.assert_array_equal(read(FRAMES), FRAMES)
    assert not open_video(iter(FRAMES)).replayable
    np.testing.assert_array_equal(read(iter(FRAMES)), FRAMES)


@pytest.mark.parametrize(
    "frames",
    [[FRAMES[0].astype(float)], [FRAMES[0][..., 0]], [FRAMES[0], FRAMES[0][:5]], [FRAMES[0][:0]], [], iter(())],
)
def test_arrays_that_are_no_frames(frames: Iterable[np.ndarray]) -> None:
    with pytest.raises(ValueError, match=r"frame|no frames"):
        read(frames)


def test_rotation_is_applied(tmp_path: Path) -> None:
    upright = write_mp4(tmp_path / "a.mp4", FRAMES)
    turned = turn(write_mp4(tmp_path / "b.mp4", FRAMES))
    assert_same(read(turned), np.rot90(read(upright), -1, axes=(1, 2)), tolerance=1e-9)


def test_odd_sizes(tmp_path: Path) -> None:
    frames = moving_square(size=(47, 63))
    np.testing.assert_array_equal(read(write_with(tmp_path / "a.avi", frames, "ffv1", "bgr0")), frames)


def test_a_variable_rate_keeps_its_times(tmp_path: Path) -> None:
    times = [0.0, 0.1, 0.15, 0.9, 1.0, 3.0]
    path = write_mp4(tmp_path / "a.mp4", FRAMES, times)
    assert [frame.time for frame in open_video(path).frames()] == pytest.approx(times, abs=1e-3)


def test_a_video_that_starts_late_starts_at_zero(tmp_path: Path) -> None:
    path = write_mp4(tmp_path / "a.mp4", FRAMES, [5 + t / RATE for t in range(len(FRAMES))])
    assert next(iter(open_video(path).frames())).time == 0


def broken(path: Path) -> Path:
    path.write_bytes(os.urandom(5000))
    return path


def headless(path: Path) -> Path:
    """Cut off before the index, which most encoders write last."""
    data = write_with(path, FRAMES, "libx264", "yuv420p").read_bytes()
    path.write_bytes(data[: data.index(b"moov") - 4])
    return path


def empty(path: Path) -> Path:
    path.touch()
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (broken, "not a readable video"),
        (headless, "not a readable video"),
        (empty, "the file is empty"),
        (write_encrypted, "encrypted"),
        (write_sound, "has no video, only audio"),
        (write_without_frames, r"has no video, only nothing|not one frame|not a readable video"),
    ],
    ids=["broken", "headless", "empty", "encrypted", "sound", "no frames"],
)
def test_odd_files_are_refused_with_a_reason(tmp_path: Path, make, message: str) -> None:
    path = make(tmp_path / "a.mp4")
    with pytest.raises(ValueError, match=message) as error:
        read(path)
    assert str(path) in str(error.value)


def test_a_file_that_breaks_off_gives_what_it_has(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_with(tmp_path / "a.avi", moving_square(30), "mjpeg", "yuvj420p")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    assert 5 < len(read(path)) < 30


def test_what_is_not_there() -> None:
    with pytest.raises(FileNotFoundError, match="no such video"):
        open_video("nowhere.mp4")
    with pytest.raises(ValueError, match="camera:99"):
        list(open_video("camera:99").frames())
    with pytest.raises(ValueError, match="not int"):
        open_video(3)


def test_names_are_never_protocols(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg reads URLs and lists of other files; a file called like one is a file."""
    monkeypatch.chdir(tmp_path)
    write_mp4(tmp_path / "concat:a.mp4", FRAMES)
    assert len(read("concat:a.mp4")) == len(FRAMES)
    with pytest.raises(FileNotFoundError):
        open_video("http://127.0.0.1:9/a.mp4")


@pytest.mark.parametrize("name", ["a.m3u8", "a.mp4", "a.txt"])
def test_a_playlist_does_not_reach_other_files(tmp_path: Path, name: str) -> None:
    write_with(tmp_path / "other.ts", FRAMES, "mpeg2video", "yuv420p")
    lists = {
        "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nother.ts\n#EXT-X-ENDLIST\n",
        "concat": "ffconcat version 1.0\nfile other.ts\n",
    }
    for text in lists.values():
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match="not a readable video"):
            read(tmp_path / name)


def test_a_limit_ends_early_and_a_record_can_be_read_again() -> None:
    assert len(list(Limited(open_video(FRAMES), 2).frames())) == 2
    with pytest.raises(ValueError, match="max_frames is 0"):
        Limited(open_video(FRAMES), 0)
    record = Recorded(open_video(iter(FRAMES)))
    first = np.stack([frame.image for frame in record.frames()])
    np.testing.assert_array_equal(first, FRAMES)
    assert_same(np.stack([frame.image for frame in record.frames()]), FRAMES)


def test_a_size_that_changes_within_a_file_is_fitted(tmp_path: Path) -> None:
    """MPEG-TS files can be joined end to end, and then change their size in the middle."""
    parts = [write_with(tmp_path / f"{h}.ts", moving_square(size=(h, 64)), "mpeg2video", "yuv420p") for h in (48, 80)]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    frames = read(path)
    assert frames.shape[1:3] == (48, 64)
    assert cv2.absdiff(frames[0], FRAMES[0]).mean() < 8
