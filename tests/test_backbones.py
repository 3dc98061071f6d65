from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.ops import FrozenBatchNorm2d

from models.backbones import STRIDES, Backbone, build_backbone
from models.backbones.resnet import FrozenResNet
from models.backbones.timm_network import TimmBackbone
from tests.small_model import disturb

SMALL_SWIN = {"embed_dim": 16, "depths": (2, 1, 1, 1), "num_heads": (1, 1, 2, 2)}
SMALL_RESNET = {"channels": [32, 32, 64, 64]}


@pytest.fixture(scope="module")
def frozen_resnet() -> FrozenResNet:
    """ResNet-50 whose frozen norms are as uneven as trained ones."""
    torch.manual_seed(0)
    backbone = build_backbone("resnet50")
    for norm in (m for m in backbone.modules() if isinstance(m, FrozenBatchNorm2d)):
        norm.weight.uniform_(0.3, 0.9)
        norm.bias.normal_(0, 0.1)
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.5, 2)
    return backbone


def _torchvision_maps(body: nn.Module, x: Tensor) -> list[Tensor]:
    x = body.maxpool(body.relu(body.bn1(body.conv1(x))))
    maps = []
    for stage in (body.layer1, body.layer2, body.layer3, body.layer4):
        x = stage(x)
        maps.append(x)
    return maps


def test_folded_norms_equal_those_of_torchvision(frozen_resnet: FrozenResNet) -> None:
    theirs = resnet50(norm_layer=FrozenBatchNorm2d)
    theirs.load_state_dict(
        {**frozen_resnet.body.state_dict(), "fc.weight": theirs.fc.weight, "fc.bias": theirs.fc.bias}
    )
    frames = torch.randn(1, 2, 3, 64, 96)
    ours, expected = frozen_resnet(frames), _torchvision_maps(theirs, frames.flatten(0, 1))
    for a, b in zip(ours, expected, strict=True):
        assert (a - b).abs().max() <= 1e-4 * b.abs().max()

    directions = [torch.randn_like(b) for b in expected[1:]]
    for maps in (ours, expected):
        sum((m * d).mean() for m, d in zip(maps[1:], directions, strict=True)).backward()
    frozen = ("conv1.", "layer1.")  # stem and first stage
    compared = 0
    for (name, a), (_, b) in zip(frozen_resnet.body.named_parameters(), theirs.named_parameters(), strict=False):
        if name.startswith(frozen):
            assert a.grad is None and not a.requires_grad, name
        else:
            assert (a.grad - b.grad).abs().max() <= 1e-3 * b.grad.abs().max(), name
            compared += 1
    assert compared == 52 - 10  # convolutions of ResNet-50 without its stem, and without layer1's
    frozen_resnet.zero_grad()


def test_recomputing_a_resnet_gives_the_same_gradients(frozen_resnet: FrozenResNet) -> None:
    frames = torch.randn(1, 1, 3, 64, 64)
    results = []
    for recompute in (False, True):
        frozen_resnet.recompute = recompute
        frozen_resnet(frames)[-1].square().mean().backward()
        results.append([p.grad for p in frozen_resnet.parameters() if p.requires_grad])
        frozen_resnet.zero_grad(set_to_none=True)
    frozen_resnet.recompute = False
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def _check_contract(backbone: Backbone, sizes: list[tuple[int, int]]) -> None:
    """Four maps of the stated channels, in (B T, c, h, w), of the frame's size over the strides, rounded up."""
    assert backbone.strides == STRIDES
    for h, w in sizes:
        maps = backbone(torch.randn(1, 2, 3, h, w))
        expected = [(2, c, -(-h // s), -(-w // s)) for c, s in zip(backbone.channels, STRIDES, strict=True)]
        assert [tuple(m.shape) for m in maps] == expected
        assert all(m.isfinite().all() for m in maps)


def test_resnets_keep_the_contract(frozen_resnet: FrozenResNet) -> None:
    assert frozen_resnet.channels == (256, 512, 1024, 2048)
    with torch.no_grad():
        _check_contract(frozen_resnet, [(64, 96), (61, 94)])
        _check_contract(build_backbone("resnet101"), [(32, 32)])


@pytest.mark.parametrize(
    ("name", "options", "channels"),
    [
        ("resnet10t", SMALL_RESNET, (32, 32, 64, 64)),
        ("convnext_atto", {"dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1)}, (8, 16, 24, 32)),
        ("mobilenetv3_small_050", {}, (8, 16, 24, 288)),  # five maps, of which stride 2 is not used
        ("swin_tiny_patch4_window7_224", SMALL_SWIN, (16, 32, 64, 128)),  # channels last, and built for 224 x 224
    ],
)
def test_timm_networks_keep_the_contract(name: str, options: dict, channels: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(f"timm/{name}", options=options)
    assert backbone.channels == channels
    # 64 / 4 = 16 rows are as many as the Swin's channels, so the shape alone does not tell which is which.
    _check_contract(backbone, [(64, 96), (64, 64)])
    assert tuple(backbone(torch.randn(1, 1, 3, 61, 94))[0].shape[-2:]) == (16, 24)  # no pixel is left out


def test_a_channels_last_network_is_not_turned_over_by_chance() -> None:
    """At a height of 4 c, channels-last maps look like channels-first ones by their second dimension."""
    torch.manual_seed(0)
    backbone = build_backbone("timm/swin_tiny_patch4_window7_224", options=SMALL_SWIN).eval()
    frames = torch.randn(1, 1, 3, 64, 64)
    expected = [m.permute(0, 3, 1, 2) for m in backbone.body(frames[0])]
    for a, b in zip(backbone(frames), expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet18", {}, "timm/resnet18"),
        ("timm/no_such_network", {}, "no_such_network.*list_models"),
        ("timm/vit_tiny_patch16_224", {"depth": 4, "embed_dim": 48, "num_heads": 3}, r"it lacks \[4, 8, 32\]"),
        ("timm/resnet10t", {"chanels": [8, 8, 8, 8]}, "chanels"),
        ("resnet50", {"channels": [8, 8, 8, 8]}, "backbone_options"),
    ],
)
def test_a_name_or_option_that_does_not_fit_is_an_error(name: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_backbone(name, options=options)


def test_settings_for_other_networks_are_an_error() -> None:
    with pytest.raises(ValueError, match="drop_path"):
        build_backbone("resnet50", drop_path=0.2)
    with pytest.raises(ValueError, match="temporal_shift"):
        build_backbone("resnet50", temporal_shift=0.1)
    with pytest.raises(ValueError, match="temporal_shift"):
        build_backbone("timm/convnext_atto", temporal_shift=0.1)
    with pytest.raises(ValueError, match="backbone_weights"):
        build_backbone("timm/resnet10t", weights="somewhere.pth")


def test_drop_path_reaches_the_network() -> None:
    torch.manual_seed(0)
    frames = torch.randn(1, 1, 3, 32, 32)
    rates = []
    for drop_path in (0.0, 0.9):
        options = {"dims": (8, 8, 8, 8), "depths": (2, 2, 2, 2)}
        backbone = build_backbone("timm/convnext_atto", options=options, drop_path=drop_path).train()
        rates.append(max(m.drop_prob for m in backbone.modules() if type(m).__name__ == "DropPath") if drop_path else 0)
        assert torch.equal(backbone(frames)[-1], backbone(frames)[-1]) == (drop_path == 0)
    assert rates == [0, pytest.approx(0.9)]


def test_weights_of_a_file(tmp_path: Path, frozen_resnet: FrozenResNet) -> None:
    """torchvision's files also hold the classifier and counters of its norms."""
    state = dict(frozen_resnet.body.state_dict())
    extra = {"fc.weight": torch.zeros(1000, 2048), "bn1.num_batches_tracked": torch.tensor(0)}
    path = tmp_path / "resnet50.pth"
    torch.save(state | extra, path)
    loaded = build_backbone("resnet50", weights=str(path)).body.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer3.10.conv1.weight": torch.zeros(1)}, r"resnet50\.pth' does not hold.*layer3\.10\."),
        ({"layer4.2.conv3.weight": torch.zeros(3)}, r"layer4\.2\.conv3\.weight"),
        ({"epoch": 3}, "is not a dictionary of weights"),
        ({"code": Path("here")}, "could run code"),
    ],
)
def test_a_file_of_other_weights_is_an_error(
    tmp_path: Path, frozen_resnet: FrozenResNet, change: dict, message: str
) -> None:
    path = tmp_path / "resnet50.pth"
    torch.save(dict(frozen_resnet.body.state_dict()) | change, path)
    with pytest.raises(ValueError, match=message):
        build_backbone("resnet50", weights=str(path))


def test_a_missing_file_of_weights_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        build_backbone("resnet50", weights=str(tmp_path / "nowhere.pth"))


def test_weights_that_cannot_be_downloaded_name_the_cure() -> None:
    """Tests run offline, so no download succeeds."""
    with pytest.raises(FileNotFoundError, match="backbone_weights"):
        build_backbone("timm/resnet10t", weights="imagenet")


def _shifting(share: float) -> TimmBackbone:
    torch.manual_seed(0)
    return disturb(build_backbone("timm/resnet10t", options=SMALL_RESNET, temporal_shift=share)).eval()


def test_one_frame_passes_unchanged() -> None:
    plain = build_backbone("timm/resnet10t", options=SMALL_RESNET).eval()
    shifting = _shifting(0.25)
    plain.load_state_dict(shifting.state_dict())  # the shift has no weights of its own
    still = torch.randn(2, 1, 3, 64, 64)
    for a, b in zip(shifting(still), plain(still), strict=True):
        assert torch.equal(a, b)
    moving = torch.randn(1, 2, 3, 64, 64)
    assert not torch.allclose(shifting(moving)[-1], plain(moving)[-1])


def test_exactly_the_stated_channels_are_shifted() -> None:
    backbone = _shifting(0.25)
    backbone.shift.num_frames = 3
    x = torch.randn(2 * 3, 8, 4, 5)
    shifted = backbone.shift._shift(None, (x,)).unflatten(0, (2, 3))
    clips = x.unflatten(0, (2, 3))
    for clip, before in zip(shifted, clips, strict=True):
        for t in range(3):
            assert torch.equal(clip[t, 0:2], before[max(t - 1, 0), 0:2])  # from the frame before
            assert torch.equal(clip[t, 2:4], before[min(t + 1, 2), 2:4])  # from the frame after
            assert torch.equal(clip[t, 4:], before[t, 4:])


def test_the_shift_is_in_front_of_every_block() -> None:
    backbone = _shifting(0.25)
    blocks = [m for name, m in backbone.body.named_modules() if name.endswith(".conv1") and "layer" in name]
    assert len(blocks) == 4
    hooked = [m for m in backbone.body.modules() if m._forward_pre_hooks]
    assert {id(m) for m in blocks} == {id(m) for m in hooked}


def test_frames_exchange_and_clips_do_not() -> None:
    backbone = _shifting(0.25)
    clips = torch.randn(2, 3, 3, 64, 64)
    together = [m.unflatten(0, (2, 3)) for m in backbone(clips)]
    for i in range(2):
        for a, b in zip(together, backbone(clips[i : i + 1]), strict=True):
            torch.testing.assert_close(a[i], b, atol=1e-5, rtol=1e-4)
    changed = clips.clone()
    changed[0, 0] = 0
    for a, b in zip(together, backbone(changed), strict=True):
        difference = (a - b.unflatten(0, (2, 3))).abs().flatten(2).amax(-1)
        assert (difference[0, 0] > 0) and (difference[1] == 0).all()
    assert difference[0, 1] > 0  # the last map of the next frame has seen the change


def test_a_copy_shifts_by_its_own_number_of_frames() -> None:
    backbone = _shifting(0.25)
    twin = copy.deepcopy(backbone)
    clip = torch.randn(1, 4, 3, 32, 32)
    expected = backbone(clip)[-1]
    backbone(clip[:, :1])
    assert torch.equal(twin(clip)[-1], expected)
