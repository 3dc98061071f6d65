from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from datasets.pseudo_clips import PseudoClipTransform, motion_kernel
from datasets.transforms import Clip

STILL = {"perspective": 0, "rotation": 0, "translation": 0, "brightness": 0, "hue_saturation": 0, "blur_probability": 0}


def make_clip(size: tuple[int, int] = (60, 80)) -> Clip:
    """A red disk on a smooth background."""
    h, w = size
    y, x = np.mgrid[:h, :w]
    image = np.stack([x * 255 // w, y * 255 // h, np.full(size, 90)], -1).astype(np.uint8)
    mask = ((x - 40) ** 2 + (y - 30) ** 2 < 150).astype(np.uint8)
    image[mask == 1] = (220, 20, 20)
    return Clip(torch.from_numpy(image).permute(2, 0, 1)[None], torch.from_numpy(mask)[None], "the disk on the left")


def expand(rng: int = 0, **settings) -> Clip:
    return PseudoClipTransform(**({"num_frames": 5} | settings))(make_clip(), np.random.default_rng(rng))


def test_without_changes_frames_are_copies() -> None:
    clip, source = expand(**STILL), make_clip()
    assert clip.caption == source.caption
    assert torch.equal(clip.frames, source.frames.expand(5, -1, -1, -1))
    assert torch.equal(clip.masks, source.masks.expand(5, -1, -1))


def test_shapes_the_image_itself_and_order() -> None:
    source, places = make_clip(), set()
    for seed in range(20):
        clip = expand(seed)
        assert clip.frames.shape == (5, 3, 60, 80) and clip.frames.dtype == torch.uint8
        assert clip.masks.shape == (5, 60, 80) and set(clip.masks.unique().tolist()) <= {0, 1}
        same = [t for t in range(5) if torch.equal(clip.frames[t], source.frames[0])]
        assert len(same) == 1 and torch.equal(clip.masks[same[0]], source.masks[0])
        places.add(same[0])
        assert len({frame.numpy().tobytes() for frame in clip.frames}) == 5, "no two frames are alike"
    assert places == set(range(5)), "the order is shuffled"


def test_same_generator_same_clip() -> None:
    first, again, other = expand(3), expand(3), expand(4)
    assert torch.equal(first.frames, again.frames) and torch.equal(first.masks, again.masks)
    assert not torch.equal(first.frames, other.frames)


def test_masks_are_warped_as_frames_are() -> None:
    only_geometry = {"brightness": 0, "hue_saturation": 0, "blur_probability": 0}
    for seed in range(10):
        clip = expand(seed, **only_geometry)
        for frame, mask in zip(clip.frames.numpy(), clip.masks.numpy(), strict=True):
            red = (frame[0] > 190) & (frame[1] < 60) & (frame[2] < 60)
            union = np.count_nonzero(red | (mask == 1))
            assert union == 0 or np.count_nonzero(red & (mask == 1)) / union > 0.85


def test_rotation_and_translation_are_of_the_named_size() -> None:
    size = (100, 200)
    centre = np.array([99.5, 49.5, 1])
    angles, shifts = [], []
    for seed in range(300):
        warp = PseudoClipTransform(num_frames=2, perspective=0).draw_warp(size, np.random.default_rng(seed))
        shifts.append((warp @ centre)[:2] - centre[:2])
        direction = (warp @ np.array((10, 0, 0)))[:2]
        assert np.hypot(*direction) == pytest.approx(10), "no scale"
        angles.append(np.degrees(np.arctan2(direction[1], direction[0])))
    shifts = np.abs(shifts)
    assert 18 < np.abs(angles).max() <= 20
    assert 19 < shifts[:, 0].max() <= 20 and 9.5 < shifts[:, 1].max() <= 10


def test_perspective_stretches_an_inner_quadrilateral_to_the_frame() -> None:
    size, insets = (100, 200), []
    transform = PseudoClipTransform(num_frames=2, rotation=0, translation=0)
    corners = np.array([(-0.5, -0.5), (199.5, -0.5), (199.5, 99.5), (-0.5, 99.5)])
    for seed in range(300):
        warp = transform.draw_warp(size, np.random.default_rng(seed))
        inner = cv2.perspectiveTransform(corners[None], np.linalg.inv(warp))[0]
        assert (inner >= corners[0] - 1e-3).all() and (inner <= corners[2] + 1e-3).all()
        insets.append(np.abs(inner - corners) / (200, 100))
    assert np.sqrt(np.mean(np.square(insets))) == pytest.approx(0.08, rel=0.06)


def test_colours_stay_within_the_named_range() -> None:
    grey = Clip(torch.full((1, 3, 20, 20), 120, dtype=torch.uint8), torch.ones(1, 20, 20, dtype=torch.uint8), "a")
    values = []
    settings = STILL | {"brightness": 40, "hue_saturation": 5}
    for seed in range(100):
        frames = PseudoClipTransform(num_frames=3, **settings)(grey, np.random.default_rng(seed)).frames
        assert (frames == frames[:, :1]).all(), "grey stays grey"
        values += frames[:, 0, 0, 0].tolist()
    assert 80 <= min(values) < 90 and 150 < max(values) <= 160


@pytest.mark.parametrize("size", [9, 11])
def test_motion_kernels_are_lines(size: int) -> None:
    assert np.allclose(motion_kernel(size, 0)[size // 2], 1 / size)
    assert np.allclose(motion_kernel(size, 90)[:, size // 2], 1 / size, atol=1e-3)
    for angle in (0, 30, 77, 120):
        kernel = motion_kernel(size, angle)
        assert kernel.sum() == pytest.approx(1, abs=1e-5) and np.allclose(kernel, kernel[::-1, ::-1], atol=2e-3)
        y, x = np.nonzero(kernel > 0.3 / size)
        far = np.argmax(np.hypot(y - size // 2, x - size // 2))
        direction = np.degrees(np.arctan2(size // 2 - y[far], x[far] - size // 2)) % 180
        assert min(abs(direction - angle), 180 - abs(direction - angle)) < 15


def test_blur_is_as_frequent_as_named() -> None:
    sharp = make_clip().frames[0].numpy()
    settings = STILL | {"blur_probability": 0.25}
    blurred = 0
    for seed in range(100):
        frames = expand(seed, **settings).frames.numpy()
        blurred += sum(not np.array_equal(frame, sharp) for frame in frames)
    assert 60 < blurred < 140  # of 400 copies, a quarter of them
