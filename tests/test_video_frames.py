"""Decoding by seeking, and the cache of what was decoded."""

import shutil
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from datasets.cache import ByteCache
from datasets.shapes_a2d import KEY_FRAME_DISTANCE, write_h264
from datasets.video_frames import decode_frames, index_frames

NUM_FRAMES = 37


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A square moves and the frame's number decides the brightness, so that no two frames are alike."""
    frames = np.zeros((NUM_FRAMES, 48, 64, 3), np.uint8)
    for t in range(NUM_FRAMES):
        frames[t] = 5 * t
        frames[t, 10:20, t : t + 12] = (250, 30, 30)
    path = tmp_path_factory.mktemp("video") / "video.mp4"
    write_h264(path, frames)
    return path


@pytest.fixture(scope="module")
def every_frame(video: Path) -> np.ndarray:
    with av.open(str(video)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_the_index_knows_all_frames_and_key_frames(video: Path) -> None:
    index = index_frames(video)
    assert len(index) == NUM_FRAMES and len(set(index.times)) == NUM_FRAMES
    assert list(index.times) == sorted(index.times)
    assert [index.times.index(time) for time in index.key_times] == list(range(0, NUM_FRAMES, KEY_FRAME_DISTANCE))


def test_any_frames_in_any_order_are_those_of_the_whole_video(video: Path, every_frame: np.ndarray) -> None:
    index = index_frames(video)
    rng = np.random.default_rng(0)
    choices = [rng.integers(0, NUM_FRAMES, 5).tolist() for _ in range(30)]
    for numbers in [*([t] for t in range(NUM_FRAMES)), list(range(NUM_FRAMES)), [36, 0, 36], *choices]:
        found = decode_frames(video, index, numbers)
        assert found.keys() == set(numbers)
        for number, frame in found.items():
            assert np.array_equal(frame, every_frame[number]), number


class Watched:
    """A container that counts seeks and decoded frames, and whose seeks may go astray."""

    def __init__(self, path: str, astray: int | None = None) -> None:
        self._container, self._astray = OPEN(path), astray
        self.seeks, self.decoded = 0, 0

    def __getattr__(self, name: str):
        return getattr(self._container, name)

    def seek(self, position: int, **options) -> None:
        self.seeks += 1
        wrong = self._astray is not None and position > 0
        self._container.seek(self._astray if wrong else position, **options)

    def decode(self, stream):
        for frame in self._container.decode(stream):
            self.decoded += 1
            yield frame


OPEN = av.open


@pytest.mark.parametrize(("numbers", "seeks", "most"), [([34, 35], 1, 4), ([1, 3, 33], 2, 6), ([33, 1], 2, 4)])
def test_a_seek_spares_the_frames_before(
    video: Path, monkeypatch: pytest.MonkeyPatch, numbers: list[int], seeks: int, most: int
) -> None:
    index, opened = index_frames(video), []
    monkeypatch.setattr("datasets.video_frames.av.open", lambda path, **_: opened.append(Watched(path)) or opened[-1])
    decode_frames(video, index, numbers)
    assert opened[0].seeks == seeks and opened[0].decoded <= most


def test_a_seek_that_overshoots_is_made_good(
    video: Path, every_frame: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = index_frames(video)
    monkeypatch.setattr("datasets.video_frames.av.open", lambda path, **_: Watched(path, astray=index.times[-1]))
    for number, frame in decode_frames(video, index, [9, 20]).items():
        assert np.array_equal(frame, every_frame[number])


def test_a_playlist_is_no_video(video: Path, tmp_path: Path) -> None:
    shutil.copy(video, tmp_path / "other.mp4")
    (tmp_path / "a.mp4").write_text("ffconcat version 1.0\nfile other.mp4\n")
    with pytest.raises(ValueError, match=r"a\.mp4: damaged or no video"):
        index_frames(tmp_path / "a.mp4")


def test_damaged_and_missing_videos_name_themselves(video: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.mp4: no such video"):
        index_frames(tmp_path / "absent.mp4")
    whole = video.read_bytes()
    for name, content in (("cut", whole[: len(whole) // 2]), ("empty", b""), ("text", b"<html>not found</html>" * 50)):
        path = tmp_path / f"{name}.mp4"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name}\.mp4: .*again"):
            index_frames(path)
    index = index_frames(video)
    damaged = tmp_path / "damaged.mp4"
    at = whole.index(b"mdat") + 4
    end = whole.index(b"moov") - 4
    damaged.write_bytes(whole[:at] + bytes(end - at) + whole[end:])
    with pytest.raises(ValueError, match=r"damaged\.mp4"):
        decode_frames(damaged, index, [20])
    audio = tmp_path / "audio.mp4"
    with av.open(str(audio), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(ValueError, match=r"audio\.mp4: holds no video"):
        index_frames(audio)


def test_pixels_survive_the_encoder(video: Path) -> None:
    frame = decode_frames(video, index_frames(video), [20])[20].astype(int)
    assert np.abs(frame[30:, :] - 100).mean() < 4
    assert np.abs(cv2.mean(frame[12:18, 23:29].astype(np.uint8))[0] - 250) < 12


def test_the_cache_keeps_what_was_used_last_within_its_bytes() -> None:
    cache: ByteCache[np.ndarray] = ByteCache(100)
    for key in "abc":
        cache.put(key, np.zeros(30, np.uint8))
    assert cache.nbytes == 90 and cache.get("a") is not None
    cache.put("d", np.zeros(30, np.uint8))  # b was used least lately
    assert [key for key in "abcd" if cache.get(key) is not None] == ["a", "c", "d"]
    cache.put("e", np.zeros(80, np.uint8))
    assert [key for key in "acde" if cache.get(key) is not None] == ["e"] and cache.nbytes == 80
    cache.put("e", np.zeros(10, np.uint8))
    assert cache.nbytes == 10
    cache.put("e", np.zeros(101, np.uint8))
    assert cache.nbytes == 0 and cache.get("e") is None
    nothing: ByteCache[np.ndarray] = ByteCache(0)
    nothing.put("a", np.zeros(1, np.uint8))
    assert nothing.get("a") is None
