"""Clips from images, and joint data sets, as configurations describe them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.build import build_clip_dataset, build_train_loader
from datasets.image_clips import ImageClipDataset
from datasets.joint import JointDataset
from datasets.refcoco import RefCOCOReader
from datasets.refcoco_release import MAIN_SETS
from datasets.transforms import ClipTransform, flip_caption
from tests.small_coco import write_coco
from tests.small_ytvos import write_tree
from util.cli import parse
from util.config import Config, DataConfig, ModelConfig
from util.frames import normalise

ROOT = Path(__file__).parent.parent
PLAIN = ClipTransform(short_sides=(96,), max_long_side=None, augment=False)


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coco(tmp_path_factory.mktemp("images") / "coco")


@pytest.fixture
def reader(coco: Path) -> RefCOCOReader:
    return RefCOCOReader(coco, "train", MAIN_SETS)


def test_one_frame_is_the_image(reader: RefCOCOReader) -> None:
    dataset = ImageClipDataset(reader, num_frames=1, transform=PLAIN)
    assert len(dataset) == len(reader.samples)
    sample, source = dataset[0, 5], reader.samples[5]
    image = torch.from_numpy(reader.read_image(source)).permute(2, 0, 1)[None]
    assert torch.equal(sample.frames, normalise(image))
    assert torch.equal(sample.targets.masks[0], torch.from_numpy(reader.read_mask(source)))
    x, y, w, h = source.box
    expected = torch.tensor([(x + w / 2) / 128, (y + h / 2) / 96, w / 128, h / 96])
    torch.testing.assert_close(sample.targets.boxes[0], expected)
    assert sample.caption == source.caption and sample.name == source.name
    assert sample.targets.labels.tolist() == [0] and sample.targets.visible.all()


def test_labels_are_the_categories_of_coco(reader: RefCOCOReader) -> None:
    dataset = ImageClipDataset(reader, num_frames=1, transform=PLAIN, num_classes=91)
    assert {dataset[0, i].targets.labels.item() for i in range(20)} == {s.category for s in reader.samples[:20]}
    with pytest.raises(ValueError, match=r"num_classes is 3 but a category has the id \d"):
        ImageClipDataset(reader, num_frames=1, transform=PLAIN, num_classes=3)


def test_pseudo_clips_have_a_moving_object(reader: RefCOCOReader) -> None:
    dataset = ImageClipDataset(reader, num_frames=4, transform=PLAIN)
    sample = dataset[0, 0]
    assert sample.frames.shape == (4, 3, 96, 128) and sample.targets.masks.shape == (4, 96, 128)
    boxes = sample.targets.boxes[sample.targets.visible]
    assert len({tuple(box.tolist()) for box in boxes}) > 1
    again, other = dataset[0, 0], dataset[1, 0]
    assert torch.equal(sample.frames, again.frames) and not torch.equal(sample.frames, other.frames)


def test_mirrored_pseudo_clips_swap_sides_in_the_caption(reader: RefCOCOReader) -> None:
    dataset = ImageClipDataset(
        reader, num_frames=3, transform=dataclasses.replace(PLAIN, augment=True, flip_probability=1, crop_probability=0)
    )
    sided = [i for i, sample in enumerate(reader.samples) if flip_caption(sample.caption) != sample.caption]
    assert sided
    for index in sided[:5]:
        assert dataset[0, index].caption == flip_caption(reader.samples[index].caption)


def test_broken_images_name_themselves_or_are_skipped(coco: Path, tmp_path: Path) -> None:
    import shutil

    root = shutil.copytree(coco, tmp_path / "coco")
    reader = RefCOCOReader(root, "train", ("refcoco",))
    victim = root / "train2014" / reader.samples[0].file_name
    victim.write_bytes(victim.read_bytes()[:500])
    with pytest.raises(ValueError, match=victim.name):
        _ = ImageClipDataset(reader, num_frames=1, transform=PLAIN)[0, 0]
    listed = tmp_path / "broken.txt"
    dataset = ImageClipDataset(reader, num_frames=1, transform=PLAIN, skip_broken=True, broken_list=listed)
    assert victim.name not in dataset[0, 0].name
    assert victim.name in listed.read_text()


def test_sizes_after_a_crop_are_their_own() -> None:
    transform = ClipTransform(
        short_sides=(480,),
        max_long_side=800,
        crop_probability=0.5,
        crop_short_sides=(400,),
        crop_sizes=(384, 600),
        short_sides_after_crop=(296,),
        max_long_side_after_crop=640,
    )
    found = {True: set(), False: set()}
    for seed in range(100):
        steps = transform.draw_geometry((480, 640), np.random.default_rng(seed)).steps
        found[len(steps) == 3].add(min(steps[-1]))
        assert max(steps[-1]) <= (640 if len(steps) == 3 else 800)
    assert found == {True: {296}, False: {480}}


def test_joint_data_set_holds_every_clip_of_both() -> None:
    parts = [{(e, i): (name, e, i) for e in range(2) for i in range(n)} for name, n in (("a", 2), ("b", 3))]

    class Part(dict):
        def __len__(self) -> int:
            return super().__len__() // 2

    joint = JointDataset([Part(part) for part in parts])
    assert len(joint) == 5
    assert [joint[1, i] for i in range(5)] == [("a", 1, 0), ("a", 1, 1), ("b", 1, 0), ("b", 1, 1), ("b", 1, 2)]
    with pytest.raises(IndexError):
        _ = joint[0, 5]


def test_joint_configuration_reads_images_and_videos(coco: Path, tmp_path: Path) -> None:
    videos = write_tree(tmp_path / "videos")
    data = DataConfig(
        dataset="joint", root=str(videos), refcoco_root=str(coco), num_frames=3, short_sides=(48,), num_workers=0
    )
    config = Config(data=dataclasses.replace(data, crop_probability=0))
    dataset = build_clip_dataset(config)
    assert isinstance(dataset, JointDataset)
    num_images, num_clips = (len(part) for part in dataset.parts)
    assert num_images == len(RefCOCOReader(coco, "train", MAIN_SETS).samples) and num_clips == 8
    loader, sampler = build_train_loader(config)
    sampler.set_position(0)
    names = [batch.names[0] for batch in loader if batch.frames.shape[1] == 3]
    assert len(names) == len(dataset) and sum(name.startswith("video") for name in names) == num_clips
    with pytest.raises(ValueError, match="the joint sets share no categories, set 1"):
        build_clip_dataset(dataclasses.replace(config, model=ModelConfig(num_classes=65)))


def test_pretraining_recipe() -> None:
    """The numbers of the recipe, against the file."""
    config = parse(["--config", str(ROOT / "configs" / "pretrain_refcoco_r50.yaml")])
    data, optim = config.data, config.optim
    assert data.refcoco_sets == MAIN_SETS and data.num_frames == 1 and not config.model.freeze_text_encoder
    assert data.short_sides == tuple(range(480, 769, 32)) and data.max_long_side == 800
    assert data.short_sides_after_crop == (296, 328, 360, 392, 416, 448, 480, 512)
    assert (data.max_long_side_after_crop, data.crop_sizes, data.crop_short_sides) == (640, (384, 600), (400, 500, 600))
    assert (optim.epochs, optim.lr_drops, optim.batch_size, optim.text_encoder_lr) == (12, (8, 10), 2, 1e-5)
