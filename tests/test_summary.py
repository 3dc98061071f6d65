from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import hubconf
from models.backbones import BACKBONES
from models.predictor import Predictor
from models.summary import count_parameters, measure_clip
from tests.published_file import TEXT_ENCODER, small_published_model, write_published
from tests.small_model import small_model
from util.memory import PeakMemory

ROOT = Path(__file__).parent.parent


def test_parameters_are_counted_once_and_by_whether_they_train() -> None:
    model = small_model(freeze_text_encoder=True)
    parts = {part.name: part for part in count_parameters(model)}
    everything = list(model.parameters())
    assert parts["all"].trained == sum(p.numel() for p in everything if p.requires_grad)
    assert parts["all"].trained + parts["all"].frozen == sum(p.numel() for p in everything)
    assert parts["text_encoder"].frozen == sum(p.numel() for p in model.text_encoder.encoder.parameters())
    assert parts["query_embed"].trained == 3 * 32 and parts["query_embed"].frozen == 0
    shared = nn.ModuleDict({"one": nn.Linear(2, 3), "two": nn.Linear(2, 3)})
    shared["two"].weight = shared["one"].weight
    assert [(part.name, part.trained) for part in count_parameters(shared)] == [("one", 9), ("two", 3), ("all", 12)]


def test_operations_grow_with_the_clip() -> None:
    predictor = Predictor(small_model(), short_side=64, device="cpu")
    one, two = (measure_clip(predictor, t, (64, 96), repeats=1, caption="a dog") for t in (1, 2))
    assert one.seconds > 0 and one.peak_gb >= 0
    assert 1.8 * one.gflop < two.gflop < 2.2 * one.gflop
    convolution = 2 * 16 * 24 * 16 * 32 * 9 / 1e9  # of the mask features alone
    assert one.gflop > convolution


def test_the_peak_is_that_of_the_work_inside() -> None:
    """Also when the process needed more before, and where it keeps memory that it has freed."""
    big = torch.ones(60_000_000)
    del big
    free = [torch.ones(4_000_000) for _ in range(20)]  # small enough to come from the heap
    after = torch.ones(1000)
    del free
    with PeakMemory() as memory:
        work = torch.ones(25_000_000)
        del work
    del after
    assert 0.08 < memory.gb < 0.13


def test_the_program_tells_what_a_published_file_holds(tmp_path: Path) -> None:
    path = write_published(tmp_path / "published.pth", small_published_model())
    options = ["--text_encoder", TEXT_ENCODER, "--size", "64", "96", "--num_frames", "2", "--repeats", "1"]
    command = [sys.executable, "-m", "models", "--checkpoint", str(path), "--device", "cpu", *options]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for words in ("layout: published, epoch 5", "* model.num_queries                3", "  model.backbone", "resnet50"):
        assert words in output
    assert "a sentence about 2 x 64 x 96, float32, cpu" in output and "frames a second" in output
    (tmp_path / "page.pth").write_text("<html>")
    command[4] = str(tmp_path / "page.pth")
    failed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert failed.returncode == 1 and failed.stderr.strip().endswith("fetch it again")
    assert failed.stderr.startswith("error: ") and "Traceback" not in failed.stderr


def test_torch_hub_gives_a_predictor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user loads it, from another folder and a process of its own."""
    path = write_published(tmp_path / "published.pth", small_published_model())
    script = f"""
import torch
options = dict(source="local", checkpoint={str(path)!r}, text_encoder={str(ROOT / TEXT_ENCODER)!r}, device="cpu")
predictor = torch.hub.load({str(ROOT)!r}, "referformer_resnet50", short_side=64, **options)
features = predictor.encode(torch.zeros(2, 64, 96, 3, dtype=torch.uint8))
print(predictor.predict(features, ["a dog"])[0].masks.shape, type(predictor.model).__name__)
try:
    torch.hub.load({str(ROOT)!r}, "referformer_swin_l", **options)
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert lines == [
        "torch.Size([2, 64, 96]) ReferFormer",
        f"{path}: a checkpoint with the backbone resnet50, not swin_l_p4w7",
    ]


def test_torch_hub_reads_a_checkpoint_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_published(tmp_path / "published.pth", small_published_model())
    read, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda file, *args, **options: read.append(file) or load(file, *args, **options))
    options = {"text_encoder": str(ROOT / TEXT_ENCODER), "device": "cpu"}
    assert hubconf.referformer_resnet50(path, **options).model.backbone is not None
    assert read == [path]


def test_torch_hub_has_an_entry_for_every_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = []
    monkeypatch.setattr(hubconf, "_of_backbone", lambda checkpoint, backbone, options: wanted.append(backbone))
    for name in (name for name in vars(hubconf) if name.startswith("referformer_")):
        getattr(hubconf, name)("some.pth")
        assert wanted[-1].removesuffix("_p4w7") == name.removeprefix("referformer_")
    assert wanted == list(BACKBONES)
