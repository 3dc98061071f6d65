"""What several test files share: a generated data set and the settings of a model that trains in seconds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from util.cli import parse
from util.config import Config

ROOT = Path(__file__).parent.parent


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
def tiny_model(shapes_root: Path) -> list[str]:
    """Arguments of `main.py` that train the model of configs/smoke.yaml on the generated benchmark, on one CPU core."""
    options = ["--config", str(ROOT / "configs" / "smoke.yaml"), "--data.root", str(shapes_root)]
    options += ["--model.text_encoder", str(ROOT / "configs" / "text_encoder_small"), "--data.num_workers", "0"]
    return [*options, "--train.device", "cpu", "--train.num_threads", "1", "--train.log_every_steps", "1"]


@pytest.fixture
def tiny_options(tiny_model: list[str], tmp_path: Path) -> list[str]:
    """The same, with `tmp_path / "run"` as the folder of the run; its path is the last argument."""
    return [*tiny_model, "--train.output_dir", str(tmp_path / "run")]


@pytest.fixture
def tiny_config(tiny_options: list[str]) -> Config:
    """The configuration that `tiny_options` describe."""
    return parse(tiny_options)
