"""Loaders from a configuration; the only file here that sees one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import torch
from torch.utils.data import DataLoader, Subset

from datasets.a2d import A2DReader
from datasets.annotated_frames import AnnotatedFrameReader
from datasets.clips import ClipDataset
from datasets.collate import collate
from datasets.frame_clips import FrameClipDataset, FrameWindows
from datasets.image_clips import ImageClipDataset
from datasets.jhmdb import JHMDBReader
from datasets.joint import JointDataset
from datasets.mevis import MeViSReader
from datasets.redrawing import RedrawingDataset
from datasets.refcoco import RefCOCOReader
from datasets.sampler import ClipSampler
from datasets.transforms import ClipTransform
from datasets.videos import VideoDataset
from datasets.ytvos import YTVOSReader
from util.batch import Batch
from util.config import Config
from util.interruption import leave_signals_to_main_process


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


def build_clip_dataset(config: Config) -> RedrawingDataset | JointDataset:
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
        short_sides_after_crop=data.short_sides_after_crop,
        max_long_side_after_crop=data.max_long_side_after_crop,
    )
    options = {
        "num_frames": data.num_frames,
        "transform": transform,
        "seed": config.train.seed,
        "skip_broken": data.skip_broken,
        "broken_list": Path(config.train.output_dir) / "broken_samples.txt",
    }
    if data.dataset in _FRAME_READERS:
        return FrameClipDataset(_build_frame_reader(config, data.train_split), **options)
    options["num_classes"] = config.model.num_classes
    if data.dataset == "refcoco":
        return ImageClipDataset(build_images(config, data.train_split), **options)
    reader = _READERS[data.dataset](data.root, data.train_split, skip_broken=data.skip_broken)
    videos = ClipDataset(reader, absent_share=data.absent_share, **options)
    if data.dataset != "joint":
        return videos
    if config.model.num_classes != 1:
        raise ValueError(f"model.num_classes is {config.model.num_classes}; the joint sets share no categories, set 1")
    return JointDataset([ImageClipDataset(build_images(config, "train"), **options), videos])


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
        worker_init_fn=set_up_worker,
        # a generator of its own: the loader would otherwise draw from the one that dropout and resuming rely on
        generator=torch.Generator().manual_seed(config.train.seed),
    )
    return loader, sampler


def build_eval_data(config: Config) -> VideoDataset | FrameWindows | RefCOCOReader:
    """What `data.eval_split` is evaluated on: whole videos, windows around annotated frames, or images."""
    if config.data.dataset == "refcoco":
        return build_images(config, config.data.eval_split)
    return build_eval_windows(config) if config.data.dataset in _FRAME_READERS else build_eval_videos(config)


def build_images(config: Config, split: str) -> RefCOCOReader:
    """The images and sentences of a split of `data.refcoco_sets`. Raises as the reader does."""
    data = config.data
    root = data.root if data.dataset == "refcoco" else data.refcoco_root
    return RefCOCOReader(root, split, data.refcoco_sets, skip_broken=data.skip_broken)


def build_eval_windows(config: Config) -> FrameWindows:
    """Windows around the annotated frames of `data.eval_split`, at the size of `test`. Raises as readers do."""
    data, test = config.data, config.test
    resize = ClipTransform(short_sides=(test.short_side,), max_long_side=test.max_long_side, augment=False)
    return FrameWindows(_build_frame_reader(config, data.eval_split), num_frames=data.num_frames, transform=resize)


def build_window_loader(windows: FrameWindows, indices: Sequence[int], num_workers: int) -> DataLoader:
    """Loads windows one by one, as batches of one clip, in the order of `indices`."""
    return ClipLoader(
        Subset(windows, list(indices)),
        batch_size=1,
        collate_fn=collate,
        num_workers=num_workers,
        worker_init_fn=set_up_worker,
        generator=torch.Generator(),  # of its own, so that evaluating changes no random state
    )


def _build_frame_reader(config: Config, split: str) -> AnnotatedFrameReader:
    data = config.data
    if config.model.num_classes != 1:
        raise ValueError(
            f"model.num_classes is {config.model.num_classes}; {data.dataset} has no categories, so it must be 1"
        )
    return _FRAME_READERS[data.dataset](data.root, split, cache_bytes=data.cache_bytes)


def build_eval_videos(config: Config, split: str | None = None) -> VideoDataset:
    """The whole videos of `split`, by default `data.eval_split`. Raises as the reader does."""
    data = config.data
    split, reader = split or data.eval_split, _READERS[data.dataset]
    return VideoDataset(data.root, split, skip_broken=data.skip_broken, reader=reader)


def set_up_worker(worker_id: int) -> None:
    """A loader process keeps to one core and, when the run is asked to stop, to its work: a step waits for it."""
    leave_signals_to_main_process()
    use_one_thread()


def use_one_thread() -> None:
    """Keep this process to one core; there are as many loader processes as the configuration asks for."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


_READERS = {"ytvos": YTVOSReader, "joint": YTVOSReader, "mevis": MeViSReader}
_FRAME_READERS: dict[str, type[AnnotatedFrameReader]] = {"a2d": A2DReader, "jhmdb": JHMDBReader}
