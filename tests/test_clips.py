import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.clips import ClipDataset, Sample
from datasets.transforms import ClipTransform
from datasets.ytvos import YTVOSReader
from tests.small_ytvos import change_meta, write_tree
from util.frames import normalise

PLAIN = ClipTransform(short_sides=(48,), max_long_side=64, augment=False)
AUGMENTED = ClipTransform(short_sides=(32, 40), max_long_side=64, crop_short_sides=(48, 60), crop_sizes=(24, 50))


def dataset(root: Path, transform: ClipTransform = PLAIN, split: str = "train", **options) -> ClipDataset:
    options = {"num_frames": 3, **options}
    reader = YTVOSReader(root, split, skip_broken=options.get("skip_broken", False))
    return ClipDataset(reader, transform=transform, **options)


def same(first: Sample, second: Sample) -> bool:
    tensors = [(first.frames, second.frames)]
    tensors += [(getattr(first.targets, name), getattr(second.targets, name)) for name in vars(first.targets)]
    return first.caption == second.caption and first.name == second.name and all(torch.equal(*pair) for pair in tensors)


def test_one_sample_per_expression_and_anchor(tmp_path: Path) -> None:
    clips = dataset(write_tree(tmp_path))
    assert len(clips) == 2 * 2 * 2  # videos, expressions, anchors 0 and 3
    assert [(expression.name, anchor) for expression, anchor in clips.samples[:3]] == [
        ("video0/0", 0),
        ("video0/0", 3),
        ("video0/1", 0),
    ]


def test_plain_sample_is_what_the_files_hold(tmp_path: Path) -> None:
    """With all frames of the video in the clip and no augmentation nothing is left to chance."""
    clips = dataset(write_tree(tmp_path), num_frames=6)
    sample = clips[0, 1]
    reader, frames = clips.reader, clips.reader.videos["video0"]
    assert sample.name == "video0/1" and sample.caption == "a green dog in bright light"
    pixels = torch.from_numpy(reader.read_frames("video0", frames)).permute(0, 3, 1, 2)
    assert torch.equal(sample.frames, normalise(pixels))
    masks = torch.from_numpy(reader.read_masks("video0", frames)) == 2
    assert torch.equal(sample.targets.masks, masks)
    assert sample.targets.visible.tolist() == [True] * 3 + [False] * 3
    assert sample.targets.labels.tolist() == [0] * 6


def test_draws_depend_on_seed_epoch_and_index_alone(tmp_path: Path) -> None:
    write_tree(tmp_path, num_frames=12)
    clips, again = dataset(tmp_path, AUGMENTED, seed=3), dataset(tmp_path, AUGMENTED, seed=3)
    keys = [(epoch, index) for epoch in range(2) for index in range(len(clips))]
    samples = {key: clips[key] for key in keys}
    torch.manual_seed(1)
    np.random.seed(1)
    for key in reversed(keys):
        assert same(samples[key], again[key])
    assert any(not same(samples[0, index], samples[1, index]) for index in range(len(clips)))
    other = dataset(tmp_path, AUGMENTED, seed=4)
    assert any(not same(samples[key], other[key]) for key in keys)


def test_every_clip_shows_its_object(tmp_path: Path) -> None:
    """Object 2 is absent from the second half, so clips around its last anchor are often replaced."""
    clips = dataset(write_tree(tmp_path, num_frames=12), AUGMENTED, num_frames=1)
    replaced = 0
    for epoch in range(3):
        for index, (expression, _) in enumerate(clips.samples):
            sample = clips[epoch, index]
            assert sample.targets.visible.any()
            replaced += sample.name != expression.name
    assert replaced > 0


def add_absent(root: Path, per_video: int) -> Path:
    def add(videos: dict) -> None:
        for entry in videos.values():
            for number in range(per_video):
                entry["expressions"][f"absent{number}"] = {"exp": f"the ring of colour {number}", "obj_id": "0"}

    change_meta(root, "train", add)
    return root


def is_absent(sample: Sample) -> bool:
    return "/absent" in sample.name


def test_sentences_without_an_object_are_a_share_of_the_clips(tmp_path: Path) -> None:
    add_absent(write_tree(tmp_path, num_frames=12), per_video=6)
    present = dataset(tmp_path, AUGMENTED).samples
    for share, count in ((0.2, 4), (0.5, 16), (0.9, 48)):  # 16 clips have an object; 48 at most have none
        clips = dataset(tmp_path, AUGMENTED, absent_share=share)
        assert clips.samples[: len(present)] == present
        absent = clips.samples[len(present) :]
        assert len(absent) == len(set(absent)) == count
        assert absent == dataset(tmp_path, AUGMENTED, absent_share=share).samples[len(present) :]
    samples = [clips[0, index] for index in range(len(clips))]
    assert all(map(is_absent, samples[16:]))
    for sample in filter(is_absent, samples):
        targets = sample.targets
        assert not targets.visible.any() and not targets.masks.any() and (targets.boxes == 0).all()
    others = [dataset(tmp_path, AUGMENTED, absent_share=0.2, seed=seed).samples[16:] for seed in range(4)]
    assert any(other != others[0] for other in others)


def test_sentences_without_an_object_have_no_category(tmp_path: Path) -> None:
    clips = dataset(add_absent(write_tree(tmp_path), per_video=2), absent_share=0.5, num_classes=65)
    labels = {int(label) for index in range(8, 12) for label in clips[0, index].targets.labels}
    assert labels == {0}


def test_a_share_of_sentences_without_an_object_needs_some(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"every expression has its object in the video; set data\.absent_share to 0"):
        dataset(write_tree(tmp_path), absent_share=0.3)


def test_videos_shorter_than_the_clip(tmp_path: Path) -> None:
    clips = dataset(write_tree(tmp_path, num_frames=2), num_frames=5)
    assert len(clips) == 4 and clips[0, 0].frames.shape[0] == 5


def test_labels(tmp_path: Path) -> None:
    clips = dataset(write_tree(tmp_path), num_classes=65)
    assert clips[0, 0].targets.labels.tolist() == [42] * 3 and clips[0, 2].targets.labels.tolist() == [13] * 3
    with pytest.raises(ValueError, match="set it to 65"):
        dataset(tmp_path, num_classes=2)
    (tmp_path / "train" / "meta.json").unlink()
    assert dataset(tmp_path)[0, 0].targets.labels.tolist() == [0] * 3
    with pytest.raises(ValueError, match=r"meta\.json does not give the category .* model\.num_classes 1"):
        dataset(tmp_path, num_classes=65)


def test_split_that_cannot_be_trained_on(tmp_path: Path) -> None:
    write_tree(tmp_path, "valid", annotated=False)
    with pytest.raises(FileNotFoundError, match=r"Annotations: not there; the split valid has no annotations"):
        dataset(tmp_path, split="valid")
    (tmp_path / "valid" / "Annotations").mkdir()
    with pytest.raises(ValueError, match=r"meta_expressions\.json: no expression names its object"):
        dataset(tmp_path, split="valid")


def test_no_object_anywhere(tmp_path: Path) -> None:
    write_tree(tmp_path, num_videos=1)
    for path in (tmp_path / "train" / "Annotations" / "video0").iterdir():
        Image.fromarray(np.zeros((48, 64), np.uint8)).save(path)
    with pytest.raises(ValueError, match=r"no readable clip with a visible object in 50 draws.*check the annotations"):
        dataset(tmp_path)[0, 0]


def test_objects_that_vanish_when_shrunk_are_replaced(tmp_path: Path) -> None:
    """Object 1 of video0 is one pixel, which a picture a sixth of the size leaves out."""
    write_tree(tmp_path)
    for path in (tmp_path / "train" / "Annotations" / "video0").iterdir():
        mask = np.zeros((48, 64), np.uint8)
        mask[0, 0], mask[20:40, 20:40] = 1, 2
        Image.fromarray(mask).save(path)
    clips = dataset(tmp_path, ClipTransform(short_sides=(8,), max_long_side=64, augment=False))
    names = [clips[0, index].name for index in range(len(clips))]
    assert "video0/0" not in names and names[2:] == [expression.name for expression, _ in clips.samples[2:]]


def test_broken_files_stop_or_are_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root, listed = write_tree(tmp_path / "data"), tmp_path / "run" / "broken.txt"
    for path in (root / "train" / "JPEGImages" / "video0").iterdir():
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"video0/000\d\d\.jpg: damaged or truncated"):
        dataset(root)[0, 0]
    clips = dataset(root, skip_broken=True, broken_list=listed)
    samples = [clips[epoch, index] for epoch in range(2) for index in range(len(clips))]
    assert {sample.name for sample in samples} == {"video1/0", "video1/1"}
    assert same(samples[0], dataset(root, skip_broken=True)[0, 0])
    assert "skipped video0/0 around frame 00000" in caplog.text
    lines = listed.read_text().splitlines()
    assert len(lines) == len(set(lines)) == len(clips.broken) == 4
    again = dataset(root, skip_broken=True, broken_list=listed)  # as another process does
    for index in range(len(again)):
        assert again[0, index].name.startswith("video1/")
    assert listed.read_text().splitlines() == lines and len(again.broken) == 4
    assert lines[0].startswith("video0/0 around frame 00000: ") and ".jpg: damaged" in lines[0]


def test_a_missing_mask_is_skipped_too(tmp_path: Path) -> None:
    root = write_tree(tmp_path)
    for path in (root / "train" / "Annotations" / "video0").iterdir():
        path.unlink()
    program = rf"scripts/check_data\.py ytvos --root {root} lists all"
    with pytest.raises(FileNotFoundError, match=f"no such annotation.*; python {program}"):
        dataset(root)[0, 0]
    assert dataset(root, skip_broken=True)[0, 0].name.startswith("video1/")


def test_unusable_expressions_are_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    change_meta(write_tree(tmp_path), "train", lambda videos: videos["video0"]["expressions"]["0"].update(exp=""))
    listed = tmp_path / "broken.txt"
    with caplog.at_level(logging.WARNING):
        clips = dataset(tmp_path, skip_broken=True, broken_list=listed)
    assert len(clips) == 6 and "has no words" in caplog.text
    assert listed.read_text().startswith("video0/0: ") and "expression 0, has no words" in listed.read_text()
