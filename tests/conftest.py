"""What several test files share: a generated data set and the settings of a model that trains in seconds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from util.cli import parse
from util.config import Config

ROOT = Path(__file__).parent.parent

TINY_MODEL = """
model:
  backbone: timm/resnet10t
  backbone_options: {channels: [32, 32, 64, 64]}
  hidden_dim: 32
  num_heads: 4
  num_queries: 3
  num_encoder_layers: 1
  num_decoder_layers: 2
  feedforward_dim: 64
  mask_dim: 32
  text_encoder: %s
  text_encoder_pretrained: false
  freeze_text_encoder: false
data:
  num_frames: 2
  short_sides: [48]
  max_long_side: 80
  crop_probability: 0.0
  num_workers: 0
optim: {epochs: 2, lr: 1e-3, lr_drops: [1], batch_size: 2, warmup_steps: 2}
train: {device: cpu, log_every_steps: 1, num_threads: 1}
test: {short_side: 48}
"""


def pytest_configure(config: pytest.Config) -> None:
    """Tiny models are fastest on one thread, and nothing may be downloaded; both hold for child processes too."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(scope="session")
def shapes_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The generated benchmark in the Ref-YouTube-VOS layout: two videos a split of 4 small frames each."""
    from datasets.shapes import main as write_shapes

    root = tmp_path_factory.mktemp("data") / "shapes"
    sizes = ["--num_videos", "2", "--num_frames", "4", "--height", "64", "--width", "96"]
    write_shapes(["ytvos", str(root), *sizes, "--seed", "1", "--num_workers", "1"])
    return root


@pytest.fixture(scope="session")
def tiny_config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A YAML file with the settings of a tiny model; `data.root` and `train.output_dir` are for the test to choose."""
    path = tmp_path_factory.mktemp("configs") / "tiny.yaml"
    path.write_text(TINY_MODEL % (ROOT / "configs" / "text_encoder_small"))
    return path


@pytest.fixture
def tiny_options(tiny_config_file: Path, shapes_root: Path, tmp_path: Path) -> list[str]:
    """Arguments of `main.py` that train the tiny model on the generated benchmark, in `tmp_path / "run"`."""
    output = str(tmp_path / "run")
    return ["--config", str(tiny_config_file), "--data.root", str(shapes_root), "--train.output_dir", output]


@pytest.fixture
def tiny_config(tiny_options: list[str]) -> Config:
    """The configuration that `tiny_options` describe."""
    return parse(tiny_options)
