import dataclasses
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest
import torch

from datasets.build import build_eval_videos, build_train_loader
from tests.small_ytvos import write_tree
from util.batch import Batch
from util.config import Config, DataConfig, ModelConfig, OptimConfig, TrainConfig


def config_of(root: Path, num_workers: int = 0, batch_size: int = 2, **data) -> Config:
    small = {
        "num_frames": 2,
        "short_sides": (32, 40),
        "max_long_side": 64,
        "crop_short_sides": (48,),
        "crop_sizes": (24, 48),
    }
    return Config(
        data=DataConfig(root=str(root), num_workers=num_workers, **{**small, **data}),
        optim=OptimConfig(batch_size=batch_size),
        train=TrainConfig(output_dir=str(root / "run"), device="cpu"),
    )


def batches(config: Config, positions: list[tuple[int, int]], rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
    loader, sampler = build_train_loader(config, rank, world_size)
    for position in positions:
        sampler.set_position(*position)
        yield from loader


def assert_equal(first: Batch, second: Batch) -> None:
    assert first.captions == second.captions and first.names == second.names
    for name in ("frames", "padding_mask", "frame_sizes"):
        assert torch.equal(getattr(first, name), getattr(second, name))
    for left, right in zip(first.targets, second.targets, strict=True):
        for field in dataclasses.fields(left):
            assert torch.equal(getattr(left, field.name), getattr(right, field.name))


def test_workers_and_resuming_change_nothing(tmp_path: Path) -> None:
    write_tree(tmp_path)
    alone = list(batches(config_of(tmp_path), [(0, 0), (1, 0)]))
    assert len(alone) == 2 * 6
    for first, second in zip(alone, batches(config_of(tmp_path, 2), [(0, 0), (1, 0)]), strict=True):
        assert_equal(first, second)
    for first, second in zip(alone[4:], batches(config_of(tmp_path, 2), [(0, 4), (1, 0)]), strict=True):
        assert_equal(first, second)


def test_two_ranks_see_the_global_batches_of_one(tmp_path: Path) -> None:
    write_tree(tmp_path)
    whole = batches(config_of(tmp_path, batch_size=4), [(3, 0)])
    halves = [batches(config_of(tmp_path), [(3, 0)], rank, 2) for rank in range(2)]
    for batch, first, second in zip(whole, *halves, strict=True):
        assert batch.names == first.names + second.names
        for target, half in zip(batch.targets, first.targets + second.targets, strict=True):
            assert torch.equal(target.masks, half.masks)


def test_batches_are_what_the_model_expects(tmp_path: Path) -> None:
    for batch in batches(config_of(write_tree(tmp_path)), [(0, 0)]):
        _, num_frames, channels, height, width = batch.frames.shape
        assert (num_frames, channels) == (2, 3) and height % 32 == width % 32 == 0
        for caption, target, size in zip(batch.captions, batch.targets, batch.frame_sizes.tolist(), strict=True):
            assert caption == " ".join(caption.lower().split())
            assert list(target.masks.shape[1:]) == size and target.visible.any()
            assert ((target.boxes >= 0) & (target.boxes <= 1)).all()


def test_the_global_random_state_is_left_alone(tmp_path: Path) -> None:
    write_tree(tmp_path)
    state = torch.get_rng_state()
    for num_workers in (0, 1):
        list(batches(config_of(tmp_path, num_workers), [(0, 0), (1, 0)]))
        assert torch.equal(state, torch.get_rng_state())


class ThreadCount(torch.utils.data.Dataset):
    def __getitem__(self, key: tuple[int, int]) -> tuple[int, int]:
        return torch.get_num_threads(), cv2.getNumThreads()


def test_workers_use_one_thread(tmp_path: Path) -> None:
    loader, sampler = build_train_loader(config_of(write_tree(tmp_path), 1))
    counting = torch.utils.data.DataLoader(
        ThreadCount(), batch_sampler=sampler, num_workers=1, worker_init_fn=loader.worker_init_fn
    )
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    try:
        counts = {int(count) for batch in counting for part in batch for count in part}
    finally:
        cv2.setNumThreads(before)
    assert counts == {1}


@pytest.mark.parametrize("num_workers", [0, 1])
def test_errors_arrive_as_one_clear_line(tmp_path: Path, num_workers: int) -> None:
    write_tree(tmp_path)
    folder = tmp_path / "train" / "JPEGImages"
    for path in folder.glob("*/*.jpg"):
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=rf"^{folder}/video\d/\d+\.jpg: damaged or truncated picture.*again$"):
        list(batches(config_of(tmp_path, num_workers), [(0, 0)]))
    for path in folder.glob("*/*.jpg"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=rf"^{folder}/video\d/\d+\.jpg is missing"):
        list(batches(config_of(tmp_path, num_workers), [(0, 0)]))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_skipped_clips_are_listed_in_the_run(tmp_path: Path, num_workers: int) -> None:
    write_tree(tmp_path)
    for path in (tmp_path / "train" / "JPEGImages" / "video0").iterdir():
        path.unlink()
    seen = list(batches(config_of(tmp_path, num_workers, skip_broken=True), [(0, 0)]))
    assert len(seen) == 6 and {name.split("/")[0] for batch in seen for name in batch.names} == {"video1"}
    assert "video0/1 around frame 00000: " in (tmp_path / "run" / "broken_samples.txt").read_text()


def test_settings_reach_the_dataset(tmp_path: Path) -> None:
    config = config_of(write_tree(tmp_path), augment=False, short_sides=(24,), num_frames=3)
    config = dataclasses.replace(config, model=ModelConfig(num_classes=65))
    batch = next(batches(config, [(0, 0)]))
    assert batch.frame_sizes.tolist() == [[24, 32], [24, 32]] and batch.frames.shape[1] == 3
    assert {int(label) for target in batch.targets for label in target.labels} <= {42, 13}


def test_too_large_a_batch(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"12 clips, fewer than one batch of 7 on each of 2 processes"):
        build_train_loader(config_of(write_tree(tmp_path), batch_size=7), 0, 2)


def test_eval_videos(tmp_path: Path) -> None:
    write_tree(tmp_path)
    write_tree(tmp_path, "valid", num_videos=1)
    assert len(build_eval_videos(config_of(tmp_path))) == 1
    assert len(build_eval_videos(config_of(tmp_path), "train")) == 2
