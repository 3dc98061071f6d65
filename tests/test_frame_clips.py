"""Clips with one annotated frame, on a reader that holds its videos in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.annotated_frames import AnnotatedFrameReader, FrameSample, caption_of, window
from datasets.collate import collate
from datasets.frame_clips import FrameClipDataset, FrameWindows
from datasets.transforms import ClipTransform
from util.frames import normalise

PLAIN = ClipTransform(short_sides=(32,), max_long_side=None, augment=False)
FLIPPED = ClipTransform(
    short_sides=(32,), max_long_side=64, flip_probability=1.0, photometric=False, crop_probability=0
)
SIZE = (32, 48)


class MemoryReader(AnnotatedFrameReader):
    """Frame t of a video is of the grey t; the object is one square a sample, none in frames numbered above 20."""

    def __init__(self, samples: Sequence[FrameSample], num_frames: int = 12, cache_bytes: int = 0) -> None:
        super().__init__(Path("memory"), "train", samples, Path("memory/truth.json"), cache_bytes)
        self.length, self.decoded, self.broken_video = num_frames, [], None

    def num_frames(self, sample: FrameSample) -> int:
        return self.length

    def read_mask(self, sample: FrameSample) -> np.ndarray:
        mask = np.zeros(SIZE, bool)
        if sample.frame <= 20:
            mask[4:12, 8:20] = True
        return mask

    def decode(self, sample: FrameSample, indices: Sequence[int]) -> dict[int, np.ndarray]:
        if sample.video == self.broken_video:
            raise ValueError(f"{sample.video}.mp4: damaged")
        self.decoded += indices
        return {index: np.full((*SIZE, 3), index, np.uint8) for index in indices}


def sample(frame: int, video: str = "one") -> FrameSample:
    return FrameSample(video, frame, "the square on the left", f"v_{video}_f_{frame}_i_0", 0)


def greys(frames: torch.Tensor) -> list[int]:
    """Indices of normalised frames."""
    levels = normalise(torch.arange(30, dtype=torch.uint8)[:, None, None, None].expand(30, 3, 1, 1))[:, :, 0, 0]
    return [int((levels - frame[:, 0, 0]).abs().sum(1).argmin()) for frame in frames]


@pytest.mark.parametrize(
    ("frame", "num_frames", "length", "expected"),
    [
        (5, 5, 12, [3, 4, 5, 6, 7]),
        (5, 6, 12, [2, 3, 4, 5, 6, 7]),
        (5, 1, 12, [5]),
        (0, 5, 12, [0, 0, 0, 1, 2]),
        (11, 5, 12, [9, 10, 11, 11, 11]),
        (0, 5, 1, [0, 0, 0, 0, 0]),
    ],
)
def test_windows_are_centred_and_clamped(frame: int, num_frames: int, length: int, expected: list[int]) -> None:
    assert window(frame, num_frames, length) == expected


def test_a_frame_outside_the_video_has_no_window() -> None:
    with pytest.raises(ValueError, match="frame 13 is annotated in a video of 12"):
        window(12, 5, 12)


def test_a_window_is_what_is_evaluated() -> None:
    windows = FrameWindows(MemoryReader([sample(1), sample(6), sample(12)]), num_frames=5, transform=PLAIN)
    assert len(windows) == 3
    for index, (expected, annotated) in enumerate(
        [([0, 0, 0, 1, 2], 0), ([3, 4, 5, 6, 7], 2), ([9, 10, 11, 11, 11], 2)]
    ):
        clip = windows[index]
        assert greys(clip.frames) == expected and clip.annotated_frame == annotated
        assert clip.caption == "the square on the left" and clip.name == windows.reader.samples[index].image_id


def test_a_training_clip_holds_the_annotated_frame_and_its_targets_alone() -> None:
    reader = MemoryReader([sample(1), sample(6), sample(12)])
    clips = FrameClipDataset(reader, num_frames=5, transform=PLAIN)
    for epoch in range(20):
        for index, source in enumerate(reader.samples):
            clip = clips[epoch, index]
            chosen = greys(clip.frames)
            assert len(chosen) == 5 and chosen == sorted(set(chosen))
            assert chosen[clip.annotated_frame] == source.frame - 1
            assert clip.targets.masks.shape == (1, *SIZE) and clip.targets.visible.tolist() == [True]
            assert torch.equal(clip.targets.masks[0], torch.from_numpy(reader.read_mask(source)))


def test_draws_depend_on_seed_epoch_and_index_alone() -> None:
    def drawn(seed: int) -> list[list[int]]:
        clips = FrameClipDataset(MemoryReader([sample(3), sample(6)]), num_frames=4, transform=PLAIN, seed=seed)
        return [greys(clips[epoch, index].frames) for epoch in range(5) for index in range(2)]

    assert drawn(1) == drawn(1) != drawn(2)


def test_a_flip_turns_mask_and_caption_over() -> None:
    reader = MemoryReader([sample(6)])
    clip = FrameClipDataset(reader, num_frames=3, transform=FLIPPED)[0, 0]
    assert clip.caption == "the square on the right"
    assert torch.equal(clip.targets.masks[0], torch.from_numpy(reader.read_mask(sample(6)))[:, ::1].flip(1))


def test_videos_shorter_than_the_clip() -> None:
    clip = FrameClipDataset(MemoryReader([sample(2)], num_frames=2), num_frames=5, transform=PLAIN)[0, 0]
    assert greys(clip.frames)[clip.annotated_frame] == 1 and len(clip.frames) == 5


def test_samples_without_object_and_broken_ones_are_replaced(tmp_path: Path) -> None:
    reader = MemoryReader([sample(25, "empty"), sample(3, "bad"), sample(4, "good")], num_frames=30)
    clips = FrameClipDataset(reader, num_frames=3, transform=PLAIN)
    assert clips[0, 0].name != "v_empty_f_25_i_0"
    reader.broken_video = "bad"
    with pytest.raises(ValueError, match=r"bad\.mp4: damaged"):
        clips[0, 1]
    listed = tmp_path / "run" / "broken.txt"
    clips = FrameClipDataset(reader, num_frames=3, transform=PLAIN, skip_broken=True, broken_list=listed)
    assert {clips[epoch, 1].name for epoch in range(3)} == {"v_good_f_4_i_0"}
    assert listed.read_text() == "v_bad_f_3_i_0: bad.mp4: damaged\n"
    with pytest.raises(ValueError, match="v_one_f_40_i_0: the annotated frame is not one of the 30"):
        FrameClipDataset(MemoryReader([sample(40)], num_frames=30), num_frames=3, transform=PLAIN)[0, 0]


def test_a_mask_of_another_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryReader, "read_mask", lambda *_: np.ones((10, 20), bool))
    with pytest.raises(ValueError, match="the mask is 10 x 20"):
        FrameClipDataset(MemoryReader([sample(3)]), num_frames=3, transform=PLAIN)[0, 0]


def test_frames_are_decoded_once_while_they_fit() -> None:
    frame_bytes = SIZE[0] * SIZE[1] * 3
    for limit, expected in ((100 * frame_bytes, [3, 4, 5, 6, 7]), (0, [3, 4, 5, 6, 7] * 3), (2 * frame_bytes, None)):
        reader = MemoryReader([sample(6)], cache_bytes=limit)
        for _ in range(3):
            frames, _ = reader.read_window(sample(6), 5)
            assert frames[:, 0, 0, 0].tolist() == [3, 4, 5, 6, 7]
        assert expected is None or reader.decoded == expected
        assert reader._frames.nbytes <= limit


def test_batches_know_their_annotated_frames() -> None:
    clips = FrameClipDataset(MemoryReader([sample(3), sample(6)]), num_frames=4, transform=PLAIN)
    samples = [clips[0, 0], clips[0, 1]]
    batch = collate(samples)
    assert batch.annotated_frame.tolist() == [s.annotated_frame for s in samples]
    assert batch.frames.shape == (2, 4, 3, 32, 64) and batch.to("cpu").annotated_frame is not None
    assert [target.masks.shape for target in batch.targets] == [(1, *SIZE)] * 2


def test_captions() -> None:
    assert caption_of("  A  Red\tball ", "file") == "a red ball"
    for text in ("", " . ", None, 3):
        with pytest.raises(ValueError, match="file has no words"):
            caption_of(text, "file")
