"""Starting weights in every layout that they are published in, made from random networks of torchvision and timm."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models import SwinTransformer
from torchvision.models.video import SwinTransformer3d

from models.backbones import BACKBONES, build_backbone
from models.backbones.swin import SwinBackbone, SwinSize
from models.backbones.video_swin import VideoSwinBackbone
from models.backbones.weights import SOURCES, load_starting_weights
from tests.small_model import disturb

DEPTHS, HEADS = [2, 1, 2, 1], [1, 2, 2, 4]
SMALL = SwinSize(16, tuple(DEPTHS), tuple(HEADS), drop_path=0.2)


def _load(path: Path, state: dict, kind: type = SwinBackbone) -> SwinBackbone | VideoSwinBackbone:
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    backbone = kind(SMALL)
    load_starting_weights(backbone, "swin_t_p4w7" if kind is SwinBackbone else "video_swin_t_p4w7", str(path))
    return backbone.eval()


def _normed(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:]).permute(0, 3, 1, 2)


def _authors_swin(network: SwinTransformer) -> dict[str, Tensor]:
    """torchvision's state as the Swin authors name it, written down independently of the program."""
    state = {}
    for key, value in network.state_dict().items():
        key = key.replace("mlp.0.", "mlp.fc1.").replace("mlp.3.", "mlp.fc2.")
        key = key.replace("features.0.0.", "patch_embed.proj.").replace("features.0.2.", "patch_embed.norm.")
        for i in range(4):
            key = re.sub(rf"^features\.{2 * i + 1}\.", f"layers.{i}.blocks.", key)
            key = re.sub(rf"^features\.{2 * i + 2}\.", f"layers.{i}.downsample.", key)
        state[key] = value.view(49, 49) if key.endswith("index") else value
    return state | {"layers.0.blocks.1.attn_mask": torch.zeros(64, 49, 49)}


@torch.no_grad()
@pytest.mark.parametrize("layout", ["torchvision", "authors"])
def test_files_of_torchvision_and_of_the_swin_authors(tmp_path: Path, layout: str) -> None:
    torch.manual_seed(0)
    whole = disturb(SwinTransformer([4, 4], 16, DEPTHS, HEADS, [7, 7])).eval()
    state = whole.state_dict() if layout == "torchvision" else {"model": _authors_swin(whole)}
    backbone = _load(tmp_path / "swin.pth", state)
    frames = torch.randn(1, 1, 3, 64, 64)
    x, maps = frames[0], []
    for i, part in enumerate(whole.features):
        x = part(x)
        maps += [_normed(x)] * (i % 2)
    assert all(torch.equal(a, b) for a, b in zip(backbone(frames), maps, strict=True))


@torch.no_grad()
def test_a_file_of_timm(tmp_path: Path) -> None:
    """At 224 x 224 timm's Swin computes the same function; elsewhere it pads differently."""
    torch.manual_seed(0)
    network = timm.create_model("swin_tiny_patch4_window7_224", embed_dim=16, depths=DEPTHS, num_heads=HEADS).eval()
    disturb(network)
    frames = torch.randn(1, 1, 3, 224, 224)
    expected = network.forward_intermediates(frames[0], intermediates_only=True, output_fmt="NCHW")
    for suffix in (".safetensors", ".pth"):
        maps = _load(tmp_path / f"timm{suffix}", network.state_dict())(frames)
        for a, b in zip(maps, expected, strict=True):
            torch.testing.assert_close(a, _normed(b.permute(0, 2, 3, 1)), atol=2e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("layout", ["torchvision", "authors"])
def test_kinetics_weights_are_summed_over_the_two_frames_of_a_patch(tmp_path: Path, layout: str) -> None:
    """Where every frame comes twice, a patch of two frames sees what the patch of one frame sees."""
    torch.manual_seed(0)
    whole = disturb(SwinTransformer3d([2, 4, 4], 16, DEPTHS, HEADS, [8, 7, 7])).eval()
    state = whole.state_dict()
    if layout == "authors":
        renamed = {}
        for key, value in state.items():
            key = key.replace("mlp.0.", "mlp.fc1.").replace("mlp.3.", "mlp.fc2.")
            for i in range(4):
                key = re.sub(rf"^features\.{2 * i}\.", f"layers.{i}.blocks.", key)
                key = re.sub(rf"^features\.{2 * i + 1}\.", f"layers.{i}.downsample.", key)
            renamed[key.replace("head.", "cls_head.fc_cls.") if "head" in key else f"backbone.{key}"] = value
        state = {"meta": {"epoch": 30}, "state_dict": renamed}
    backbone = _load(tmp_path / "video.pth", state, VideoSwinBackbone)
    assert backbone.patch_embed.proj.weight.shape == (16, 3, 1, 4, 4)
    frames = torch.randn(1, 3, 3, 64, 64)
    x = whole.patch_embed(frames.repeat_interleave(2, dim=1).transpose(1, 2))
    for i, part in enumerate(whole.features):
        x = part(x)
        if i % 2 == 0:
            torch.testing.assert_close(backbone(frames)[i // 2], x.flatten(0, 1).permute(0, 3, 1, 2))


def test_stage_norms_begin_as_the_identity(tmp_path: Path) -> None:
    backbone = _load(tmp_path / "swin.pth", SwinTransformer([4, 4], 16, DEPTHS, HEADS, [7, 7]).state_dict())
    for norm in backbone.norms:
        assert (norm.weight == 1).all() and (norm.bias == 0).all()


def test_a_file_of_another_network_is_an_error(tmp_path: Path) -> None:
    wider = SwinTransformer([4, 4], 32, DEPTHS, HEADS, [7, 7]).state_dict()
    with pytest.raises(ValueError, match=r"swin\.pth.*not hold the weights of swin_t_p4w7.*is \(32,\), not \(16,\)"):
        _load(tmp_path / "swin.pth", wider)
    deeper = SwinTransformer([4, 4], 16, [2, 1, 3, 1], HEADS, [7, 7]).state_dict()
    with pytest.raises(ValueError, match=r"left over stages\.2\.2\."):
        _load(tmp_path / "swin.pth", deeper)
    shallower = SwinTransformer([4, 4], 16, [1, 1, 2, 1], HEADS, [7, 7]).state_dict()
    with pytest.raises(ValueError, match=r"missing stages\.0\.1\."):
        _load(tmp_path / "swin.pth", shallower)
    with pytest.raises(ValueError, match="is not a dictionary of weights"):
        _load(tmp_path / "swin.pth", {"model": {"epoch": 3}})


@pytest.mark.parametrize("name", BACKBONES)
def test_what_cannot_be_downloaded_names_the_file_and_its_place(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("timm.models.load_state_dict_from_hf", fail)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    assert SOURCES[name].name == ("kinetics" if name.startswith("video") else "imagenet")
    with (
        torch.device("meta"),
        pytest.raises(FileNotFoundError, match=rf"{name}.*no network.*(huggingface\.co|download\.pytorch\.org).*\.pth"),
    ):
        build_backbone(name, weights=SOURCES[name].name)
    with torch.device("meta"), pytest.raises(ValueError, match=f"takes '{SOURCES[name].name}'"):
        build_backbone(name, weights="kinetics" if SOURCES[name].name == "imagenet" else "imagenet")
