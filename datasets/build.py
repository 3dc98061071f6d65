"""Loaders from a configuration; the only file here that sees one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import torch
from torch.utils.data import DataLoader

from datasets.clips import ClipDataset
from datasets.collate import collate
from datasets.sampler import ClipSampler
from datasets.transforms import ClipTransform
from datasets.videos import VideoDataset
from datasets.ytvos import YTVOSReader
from util.batch import Batch
from util.config import Config


class ClipLoader(DataLoader):
    """A DataLoader whose workers' complaints about files arrive as they were raised, without a traceback inside."""

    def __iter__(self) -> Iterator[Batch]:
        try:
            yield from super().__iter__()
        except (FileNotFoundError, ValueError) as error:
            if "DataLoader worker" not in str(error):
                raise
            message = str(error).rstrip().rsplit("\n", 1)[-1].partition(": ")[2]
            raise type(error)(message) from error


def build_clip_dataset(config: Config) -> ClipDataset:
    """The training clips that a configuration describes. Raises as the reader and the dataset do."""
    data = config.data
    transform = ClipTransform(
        short_sides=data.short_sides,
        max_long_side=data.max_long_side,
        augment=data.augment,
        flip_probability=data.flip_probability,
        photometric=data.photometric,
        crop_probability=data.crop_probability,
        crop_short_sides=data.crop_short_sides,
        crop_sizes=data.crop_sizes,
    )
    return ClipDataset(
        _READERS[data.dataset](data.root, data.train_split, skip_broken=data.skip_broken),
        num_frames=data.num_frames,
        transform=transform,
        num_classes=config.model.num_classes,
        seed=config.train.seed,
        skip_broken=data.skip_broken,
        broken_list=Path(config.train.output_dir) / "broken_samples.txt",
    )


def build_train_loader(config: Config, rank: int = 0, world_size: int = 1) -> tuple[DataLoader, ClipSampler]:
    """The loader of training batches, and its sampler, whose position is set before each epoch.

    Args:
        config: the experiment.
        rank: this process.
        world_size: number of processes.
    """
    dataset = build_clip_dataset(config)
    sampler = ClipSampler(len(dataset), config.optim.batch_size, rank, world_size, config.train.seed)
    loader = ClipLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=config.data.num_workers,
        persistent_workers=config.data.num_workers > 0,
        pin_memory=config.train.device != "cpu" and torch.cuda.is_available(),
        worker_init_fn=use_one_thread,
        # a generator of its own: the loader would otherwise draw from the one that dropout and resuming rely on
        generator=torch.Generator().manual_seed(config.train.seed),
    )
    return loader, sampler


def build_eval_videos(config: Config, split: str | None = None) -> VideoDataset:
    """The whole videos of `split`, by default `data.eval_split`. Raises as the reader does."""
    data = config.data
    return VideoDataset(data.root, split or data.eval_split, skip_broken=data.skip_broken)


def use_one_thread(worker_id: int) -> None:
    """Keep a loader process to one core; there are as many processes as the configuration asks for."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


_READERS = {"ytvos": YTVOSReader}
