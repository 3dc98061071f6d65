import numpy as np
import pytest
import torch

from datasets.transforms import (
    Clip,
    ClipTransform,
    Geometry,
    distort_colours,
    flip_caption,
    make_targets,
)
from util.frames import resized_size

SETTINGS = {
    "short_sides": (32, 40),
    "max_long_side": 64,
    "crop_short_sides": (48, 60),
    "crop_sizes": (24, 50),
}


def clip_of(size: tuple[int, int] = (48, 64), num_frames: int = 3, caption: str = "the one on the left") -> Clip:
    """A bright red rectangle that moves right over dark noise."""
    rng = np.random.default_rng(0)
    frames = torch.from_numpy(rng.integers(0, 60, (num_frames, 3, *size), dtype=np.uint8))
    masks = torch.zeros(num_frames, *size, dtype=torch.uint8)
    for index in range(num_frames):
        left = 4 + 4 * index
        masks[index, size[0] // 3 : size[0] // 2, left : left + size[1] // 4] = 1
    frames[:, 0][masks == 1] = 250
    return Clip(frames, masks, caption)


@pytest.mark.parametrize(
    ("caption", "flipped"),
    [
        ("the left one", "the right one"),
        ("left of the right one, RIGHT there", "right of the left one, LEFT there"),
        ("a bright light, alright; leftover, lefty, upright", "a bright light, alright; leftover, lefty, upright"),
        ("Left-hand side", "Right-hand side"),
        ("the leftmost, moving rightwards", "the rightmost, moving leftwards"),
        ("", ""),
    ],
)
def test_flip_caption(caption: str, flipped: str) -> None:
    assert flip_caption(caption) == flipped
    assert flip_caption(flipped) == caption


def test_flip_twice_is_identity() -> None:
    clip, flip = clip_of(), Geometry(True, ())
    assert torch.equal(flip.apply(flip.apply(clip.frames, nearest=False), nearest=False), clip.frames)
    assert torch.equal(flip.apply(clip.masks, nearest=True), clip.masks.flip(-1))


def test_geometry_in_the_middle_of_its_picture() -> None:
    """Masks and frames stay aligned: the object is where the red is, after flip, resize, crop and resize."""
    clip = clip_of((48, 64))
    geometry = Geometry(True, ((96, 128), (10, 20, 70, 90), (35, 45)))
    frames, masks = geometry.apply(clip.frames, nearest=False), geometry.apply(clip.masks, nearest=True)
    assert frames.shape == (3, 3, 35, 45) and masks.shape == (3, 35, 45)
    red, mask = frames[:, 0] > 150, masks.bool()
    assert mask.any() and (red ^ mask).sum() <= 0.02 * mask.sum()
    assert set(geometry.apply(clip.masks * 200, nearest=True).unique().tolist()) == {0, 200}


def test_nothing_drawn_nothing_augmented() -> None:
    transform = ClipTransform(augment=False, **SETTINGS)
    clip = clip_of((96, 128))
    out = transform(clip, np.random.default_rng(0))
    assert out.frames.shape == (3, 3, 32, 42) and out.masks.shape == (3, 32, 42) and out.caption == clip.caption
    assert torch.equal(out.frames, transform(clip, np.random.default_rng(1)).frames)
    flat = Clip(torch.full_like(clip.frames, 77), clip.masks, "")
    assert (transform(flat, np.random.default_rng(0)).frames == 77).all()


def test_input_is_left_alone_and_draws_are_repeatable() -> None:
    transform, clip = ClipTransform(**SETTINGS), clip_of()
    before = clip.frames.clone(), clip.masks.clone()
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    for seed in range(20):
        first, second = (transform(clip, np.random.default_rng(seed)) for _ in range(2))
        assert torch.equal(first.frames, second.frames) and torch.equal(first.masks, second.masks)
        assert first.caption == second.caption
    assert torch.equal(before[0], clip.frames) and torch.equal(before[1], clip.masks)
    assert torch.equal(state[0], torch.get_rng_state()) and (state[1] == np.random.get_state()[1]).all()


def test_frames_of_a_clip_share_everything() -> None:
    """Equal frames in, equal frames out."""
    clip = clip_of()
    same = Clip(clip.frames[:1].repeat(4, 1, 1, 1), clip.masks[:1].repeat(4, 1, 1), "")
    for seed in range(30):
        out = ClipTransform(**SETTINGS)(same, np.random.default_rng(seed))
        assert (out.frames == out.frames[:1]).all() and (out.masks == out.masks[:1]).all()


def test_draws_cover_all_settings_and_stay_within() -> None:
    transform = ClipTransform(**SETTINGS)
    rng = np.random.default_rng(0)
    drawn = [transform.draw_geometry((48, 64), rng) for _ in range(400)]
    flips, cropped = np.mean([d.flip for d in drawn]), [d for d in drawn if len(d.steps) == 3]
    assert 0.4 < flips < 0.6 and 0.4 < len(cropped) / 400 < 0.6
    assert {min(d.steps[0]) for d in cropped} == {48, 60}
    plain = [d for d in drawn if len(d.steps) == 1]
    assert {d.steps[0] for d in plain} == {(32, 42), (40, 53)}
    for d in cropped:
        (h, w), (top, left, crop_h, crop_w), last = d.steps
        assert 24 <= crop_h <= 50 and 24 <= crop_w <= 50
        assert top >= 0 and left >= 0 and top + crop_h <= h and left + crop_w <= w
        assert last in [resized_size((crop_h, crop_w), short, 64) for short in (32, 40)]


@pytest.mark.parametrize("size", [(8, 8), (5, 200), (200, 5)])
def test_crop_larger_than_the_frame(size: tuple[int, int]) -> None:
    transform = ClipTransform(**{**SETTINGS, "crop_probability": 1.0, "crop_short_sides": (8,)})
    for seed in range(20):
        geometry = transform.draw_geometry(size, np.random.default_rng(seed))
        resized, (_, _, h, w), _ = geometry.steps
        assert min(resized[0], 24) <= h <= resized[0] and min(resized[1], 24) <= w <= resized[1]


def test_caption_is_swapped_exactly_when_the_picture_is_mirrored() -> None:
    clip, outcomes = clip_of(), set()
    transform = ClipTransform(**{**SETTINGS, "crop_probability": 0.0})
    for seed in range(40):
        out = transform(clip, np.random.default_rng(seed))
        columns = torch.arange(out.masks.shape[-1], dtype=torch.float32)
        centres = [(mask.sum(0) * columns).sum() / mask.sum() for mask in out.masks.float()]
        moves_right = bool(centres[0] < centres[-1])  # as it does in the file
        assert out.caption == ("the one on the left" if moves_right else "the one on the right")
        outcomes.add(moves_right)
    assert outcomes == {True, False}


def test_a_crop_that_loses_the_object_is_drawn_again() -> None:
    """The object is in a corner of one frame, where most crops miss it."""
    masks = torch.zeros(3, 48, 64, dtype=torch.uint8)
    masks[1, :4, :4] = 1
    clip = Clip(torch.zeros(3, 3, 48, 64, dtype=torch.uint8), masks, "")
    transform = ClipTransform(**{**SETTINGS, "crop_probability": 1.0, "crop_sizes": (8, 16)})
    lost = [
        not transform.draw_geometry((48, 64), np.random.default_rng(seed)).apply(masks, nearest=True).any()
        for seed in range(60)
    ]
    assert sum(lost) > 30
    for seed in range(60):
        out = transform(clip, np.random.default_rng(seed))
        targets = make_targets(out.masks, 0)
        assert targets.visible.tolist() == [False, True, False]
        assert (targets.boxes[[0, 2]] == 0).all() and (targets.boxes[1, 2:] > 0).all()


def test_an_object_too_small_for_the_new_size_is_lost_without_an_error() -> None:
    masks = torch.zeros(1, 480, 640, dtype=torch.uint8)
    masks[0, 0, 0] = 1
    clip = Clip(torch.zeros(1, 3, 480, 640, dtype=torch.uint8), masks, "")
    assert not ClipTransform(**SETTINGS)(clip, np.random.default_rng(0)).masks.any()


def test_boxes_are_those_of_the_masks() -> None:
    for seed in range(30):
        out = ClipTransform(**SETTINGS)(clip_of(), np.random.default_rng(seed))
        targets = make_targets(out.masks, 3)
        height, width = out.masks.shape[-2:]
        assert targets.masks.dtype == torch.bool and targets.labels.tolist() == [3, 3, 3]
        for mask, box, visible in zip(targets.masks, targets.boxes, targets.visible, strict=True):
            assert bool(visible) == bool(mask.any())
            if not visible:
                assert (box == 0).all()
                continue
            rows, columns = np.nonzero(mask.numpy())
            edges = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            x, y, w, h = (box.numpy() * [width, height, width, height]).tolist()
            np.testing.assert_allclose([x - w / 2, y - h / 2, x + w / 2, y + h / 2], edges, atol=1e-3)


class FixedDraws:
    """Stands for a generator whose draws are given: which distortions apply, their strengths, contrast last."""

    def __init__(self, apply: list[bool], strengths: list[float], contrast_first: bool) -> None:
        self._apply, self._strengths, self._first = apply, iter(strengths), contrast_first

    def random(self, size: int | None = None):
        if size is None:
            return 0.0 if self._first else 0.9
        return np.where(self._apply, 0.0, 0.9)

    def uniform(self, low: float, high: float) -> float:
        value = next(self._strengths)
        assert low <= value <= high
        return value


def distorted(
    colour: tuple[int, int, int], apply: str, contrast_first: bool = True, saturation: float = 0.5
) -> list[int]:
    """What a plain picture becomes with brightness +20, contrast 0.5, saturation times 0.5, hue +18 degrees."""
    frames = torch.tensor(colour, dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 4, 5)
    draws = FixedDraws([letter in apply for letter in "bcsh"], [20, 0.5, saturation, 18], contrast_first)
    out = distort_colours(frames, draws)
    assert out.shape == frames.shape and out.dtype == torch.uint8 and (out == out[:1, :, :1, :1]).all()
    return out[0, :, 0, 0].tolist()


def test_distortions_by_hand() -> None:
    assert distorted((200, 100, 50), "") == [200, 100, 50]
    assert distorted((200, 100, 250), "b") == [220, 120, 255]
    assert distorted((200, 100, 50), "c") == [100, 50, 25]
    assert distorted((200, 100, 50), "bc") == [110, 60, 35]
    assert distorted((200, 100, 0), "s") == [200, 150, 100]
    assert distorted((200, 100, 60), "s", saturation=1.25) == [200, 75, 25]
    assert distorted((200, 0, 0), "s", saturation=1.5) == [200, 0, 0]  # it is full already
    assert distorted((200, 110, 20), "s", saturation=1.5) == [200, 100, 0]
    # hue of pure red becomes 18 degrees: green rises to 18 / 60 of the value
    assert distorted((200, 0, 0), "h") == [200, 60, 0]
    # blue at 240 degrees goes to 258, and green stays the smallest
    assert distorted((0, 0, 200), "h") == [60, 0, 200]
    # grey has no hue or saturation to change
    assert distorted((90, 90, 90), "sh") == [90, 90, 90]
    # brightness saturates before the hue is computed, contrast comes after it
    assert distorted((240, 240, 240), "bcs", contrast_first=False) == [128, 128, 128]
    assert distorted((240, 240, 240), "bcs", contrast_first=True) == [130, 130, 130]


def test_distortions_vary_and_keep_most_of_the_picture() -> None:
    clip = clip_of()
    outs = [distort_colours(clip.frames, np.random.default_rng(seed)) for seed in range(64)]
    unchanged = sum(torch.equal(out, clip.frames) for out in outs)
    assert 0 < unchanged < 16  # one in sixteen is expected
    for out in outs:  # the object stays redder than the background
        red = (out[:, 0].float() - out[:, 1].float())[clip.masks == 1].mean()
        assert red > 40
