from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import SwinTransformer
from torchvision.models.video import SwinTransformer3d
from torchvision.ops import StochasticDepth

from models.backbones import STRIDES, Backbone, build_backbone
from models.backbones.swin import SWIN_SIZES, SwinBackbone, SwinSize
from models.backbones.video_swin import VIDEO_SWIN_SIZES, VideoSwinBackbone
from tests.small_model import disturb

SMALL = SwinSize(16, (2, 1, 2, 1), (1, 2, 2, 4), drop_path=0.2)


def _build(kind: type[Backbone], seed: int = 0, **options) -> Backbone:
    torch.manual_seed(seed)
    return disturb(kind(SMALL, **options), seed).eval()


@pytest.fixture(params=[SwinBackbone, VideoSwinBackbone])
def kind(request: pytest.FixtureRequest) -> type[Backbone]:
    return request.param


@torch.no_grad()
def test_maps_are_those_of_the_whole_network_of_torchvision() -> None:
    """The adapter only takes it apart: the same numbers, bit for bit."""
    frames = torch.randn(1, 2, 3, 96, 64)
    torch.manual_seed(0)
    whole = SwinTransformer([4, 4], 16, [2, 1, 2, 1], [1, 2, 2, 4], [7, 7], num_classes=1).eval()
    torch.manual_seed(0)
    adapter = SwinBackbone(SMALL).eval()
    x, expected = frames[0], []
    for i, part in enumerate(whole.features):
        x = part(x)
        expected += [F.layer_norm(x, x.shape[-1:]).permute(0, 3, 1, 2)] * (i % 2)
    assert all(torch.equal(a, b) for a, b in zip(adapter(frames), expected, strict=True))


@torch.no_grad()
def test_maps_are_those_of_the_whole_video_network_of_torchvision() -> None:
    frames = torch.randn(2, 10, 3, 64, 96)  # longer than a window of 8 frames
    torch.manual_seed(0)
    whole = SwinTransformer3d([1, 4, 4], 16, [2, 1, 2, 1], [1, 2, 2, 4], [8, 7, 7], num_classes=1).eval()
    torch.manual_seed(0)
    adapter = VideoSwinBackbone(SMALL).eval()
    x, expected = whole.patch_embed(frames.transpose(1, 2)), []
    for i, part in enumerate(whole.features):
        x = part(x)
        expected += [x.flatten(0, 1).permute(0, 3, 1, 2)] * (i % 2 == 0)
    assert all(torch.equal(a, b) for a, b in zip(adapter(frames), expected, strict=True))


@torch.no_grad()
@pytest.mark.parametrize(("height", "width"), [(64, 96), (61, 94), (130, 33)])
def test_the_contract(kind: type[Backbone], height: int, width: int) -> None:
    backbone = _build(kind)
    maps = backbone(torch.randn(2, 3, 3, height, width))
    assert backbone.channels == (16, 32, 64, 128) and backbone.strides == STRIDES
    expected = [(6, c, -(-height // s), -(-width // s)) for c, s in zip(backbone.channels, STRIDES, strict=True)]
    assert [tuple(m.shape) for m in maps] == expected


@torch.no_grad()
def test_frames_are_padded_with_zeros_bottom_right(kind: type[Backbone]) -> None:
    backbone = _build(kind)
    frames = torch.randn(1, 2, 3, 61, 94)
    padded = F.pad(frames, (0, 2, 0, 3))
    assert all(torch.equal(a, b) for a, b in zip(backbone(frames), backbone(padded), strict=True))


@torch.no_grad()
def test_clips_are_apart_and_only_a_video_network_sees_the_other_frames(kind: type[Backbone]) -> None:
    backbone = _build(kind)
    clips = torch.randn(2, 3, 3, 64, 64)
    together = [m.unflatten(0, (2, 3)) for m in backbone(clips)]
    for i in range(2):
        for a, b in zip(together, backbone(clips[i : i + 1]), strict=True):
            torch.testing.assert_close(a[i], b, atol=1e-5, rtol=1e-4)
    changed = clips.clone()
    changed[0, 0] = 0
    for a, b in zip(together, backbone(changed), strict=True):
        moved = (a - b.unflatten(0, (2, 3))).abs().flatten(2).amax(-1) > 1e-6
        assert moved[0, 0] and not moved[1].any()
        assert moved[0, 1:].all() == (kind is VideoSwinBackbone)


@pytest.mark.parametrize(("num_blocks", "seen"), [(1, [False] * 8 + [True] * 2), (2, [True] * 10)])
def test_windows_of_a_long_clip_are_shifted_in_time(num_blocks: int, seen: list[bool]) -> None:
    """The tenth frame shares its first window with the ninth; the next block's windows reach over to the others."""
    torch.manual_seed(0)
    backbone = VideoSwinBackbone(SwinSize(16, (num_blocks, 1, 1, 1), (1, 1, 1, 1), drop_path=0.0))
    clip = torch.randn(1, 10, 3, 32, 32, requires_grad=True)
    backbone(clip)[0].unflatten(0, (1, 10))[0, 9].square().sum().backward()
    assert (clip.grad[0].flatten(1).abs().amax(-1) > 0).tolist() == seen


def test_recomputing_gives_the_same_gradients_and_keeps_less(kind: type[Backbone]) -> None:
    """Also with stochastic depth, whose draws are repeated."""
    frames = torch.randn(1, 2, 3, 64, 64)
    gradients, kept = [], []
    for recompute in (False, True):
        backbone = _build(kind, recompute=recompute, drop_path=0.3).train()
        sizes: list[int] = []
        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: (s.append(t.numel()), t)[1], lambda t: t):
            loss = sum(m.square().mean() for m in backbone(frames))
        loss.backward()
        gradients.append([p.grad for p in backbone.parameters()])
        kept.append(sum(sizes))
    assert kept[1] < 0.3 * kept[0]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def _drop_rates(backbone: nn.Module) -> list[float]:
    return [m.p for m in backbone.modules() if isinstance(m, StochasticDepth)]


@pytest.mark.parametrize("name", [*SWIN_SIZES, *VIDEO_SWIN_SIZES])
def test_stochastic_depth_is_the_published_one_unless_the_settings_say_otherwise(name: str) -> None:
    published = 0.3 if name in ("swin_b_p4w7", "swin_l_p4w7") else 0.2
    with torch.device("meta"):
        rates = _drop_rates(build_backbone(name))
        assert rates[0] == 0 and rates[-1] == published and rates == sorted(rates)
        assert rates[1] == pytest.approx(published / (len(rates) - 1))
        assert set(_drop_rates(build_backbone(name, drop_path=0.0))) == {0}
        assert _drop_rates(build_backbone(name, drop_path=0.5))[-1] == 0.5


def test_every_parameter_gets_a_gradient(kind: type[Backbone]) -> None:
    backbone = _build(kind)
    sum(m.square().mean() for m in backbone(torch.randn(1, 2, 3, 64, 64))).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in backbone.parameters())


@torch.no_grad()
def test_bfloat16_gives_nearly_the_same(kind: type[Backbone]) -> None:
    backbone, frames = _build(kind), torch.randn(1, 2, 3, 64, 64)
    expected: list[Tensor] = backbone(frames)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        maps = backbone(frames)
    for a, b in zip(maps, expected, strict=True):
        assert (a.float() - b).abs().mean() < 0.03 * b.abs().mean()


@pytest.mark.parametrize("name", ["swin_t_p4w7", "video_swin_t_p4w7"])
def test_settings_of_other_networks_are_an_error(name: str) -> None:
    for settings in ({"options": {"depths": (1, 1, 1, 1)}}, {"temporal_shift": 0.1}):
        with pytest.raises(ValueError, match="timm/ networks"):
            build_backbone(name, **settings)
