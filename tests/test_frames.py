import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from util.frames import IMAGENET_MEAN, IMAGENET_STD, normalise, resized_size


@pytest.mark.parametrize(
    ("size", "short", "cap", "expected"),
    [
        ((720, 1280), 360, None, (360, 640)),
        ((720, 1280), 360, 640, (360, 640)),
        ((720, 1280), 480, 640, (360, 640)),
        ((1280, 720), 480, 640, (640, 360)),
        ((100, 100), 50, 40, (40, 40)),
        ((10, 1000), 20, 100, (1, 100)),
        ((100, 333), 50, None, (50, 166)),
    ],
)
def test_resized_size(size, short, cap, expected) -> None:
    assert resized_size(size, short, cap) == expected


@pytest.mark.parametrize("size", [(1, 2560), (2560, 1)])
def test_flat_frames_do_not_grow_without_limit(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"frames of {size[0]} x {size[1]} .* 921600 pixels .* max_long_side"):
        resized_size(size, 360, None)
    assert max(resized_size(size, 360, 640)) == 640 and max(resized_size(size, 360, 20_000)) == 20_000


@given(st.integers(1, 800), st.integers(1, 800), st.integers(1, 600), st.integers(1, 700))
@settings(max_examples=200, deadline=None)
def test_resized_size_keeps_the_cap_and_the_shape(h: int, w: int, short: int, cap: int) -> None:
    new_h, new_w = resized_size((h, w), short, cap)
    assert min(new_h, new_w) >= 1 and max(new_h, new_w) <= cap and min(new_h, new_w) <= short
    assert resized_size((w, h), short, cap) == (new_w, new_h)
    assert abs(new_h * w - new_w * h) <= max(h, w) * 1.5  # no side is off by more than rounding


def test_normalise() -> None:
    frames = torch.arange(0, 256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, 3, 16, 16)
    out = normalise(frames)
    assert out.dtype == torch.float32
    for channel in range(3):
        expected = (frames[0, 0].double() / 255 - IMAGENET_MEAN[channel]) / IMAGENET_STD[channel]
        torch.testing.assert_close(out[1, channel].double(), expected, atol=1e-6, rtol=1e-6)
