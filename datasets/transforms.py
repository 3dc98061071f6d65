"""Augmentation of clips: flip, size and crop, colours; one draw for all frames of a clip.

T frames, h x w their size. Every random choice comes from the generator that is handed in. torchvision's random
transforms draw from global state, so parameters are drawn here and its functions applied.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torchvision.transforms.v2.functional as F
from torch import Tensor
from torchvision.transforms import InterpolationMode

from util.batch import ClipTargets
from util.boxes import box_xyxy_to_cxcywh, masks_to_boxes
from util.frames import resized_size

MAX_GEOMETRY_DRAWS = 10

_SIDE_WORDS = re.compile(r"\b(left|right)(|most|wards?|hand|side)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Clip:
    """A clip as it is read.

    Attributes:
        frames: (T, 3, h, w) uint8 RGB.
        masks: (T, h, w) uint8, 1 where the referred object is; of one frame where only that is annotated.
        caption: the sentence.
    """

    frames: Tensor
    masks: Tensor
    caption: str


@dataclass(frozen=True)
class Geometry:
    """What happens to the shape of a clip: a flip, then sizes and windows in turn.

    Attributes:
        flip: mirror left and right first.
        steps: (h, w) to resize to, or (top, left, h, w) to crop.
    """

    flip: bool
    steps: tuple[tuple[int, ...], ...]

    def apply(self, images: Tensor, *, nearest: bool) -> Tensor:
        """(..., h, w) uint8 -> (..., h', w') uint8; bilinear with antialiasing, or nearest for masks."""
        if self.flip:
            images = F.horizontal_flip(images)
        for step in self.steps:
            if len(step) == 4:
                images = F.crop(images, *step)
            elif step != tuple(images.shape[-2:]):
                # the exact kind of nearest has its pixel centres where the bilinear frames have theirs
                mode = InterpolationMode.NEAREST_EXACT if nearest else InterpolationMode.BILINEAR
                images = F.resize(images, list(step), interpolation=mode, antialias=not nearest)
        return images


@dataclass(frozen=True, kw_only=True)
class ClipTransform:
    """The training transform; with `augment=False` it only resizes to the first short side.

    Attributes are the fields of the same names in `util.config.DataConfig`.
    """

    short_sides: tuple[int, ...]
    max_long_side: int | None
    augment: bool = True
    flip_probability: float = 0.5
    photometric: bool = True
    crop_probability: float = 0.5
    crop_short_sides: tuple[int, ...] = ()
    crop_sizes: tuple[int, int] = (1, 1)
    short_sides_after_crop: tuple[int, ...] = ()
    max_long_side_after_crop: int | None = None

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """Transform frames, masks and caption together.

        A geometry that loses the object in all frames is drawn again, in the end without a crop; the object can
        still be lost when it is too small for the new size.
        """
        size = tuple(clip.frames.shape[-2:])
        if not self.augment:
            resize = Geometry(False, (resized_size(size, self.short_sides[0], self.max_long_side),))
            return _transformed(clip, resize)
        for draw in range(MAX_GEOMETRY_DRAWS):
            geometry = self.draw_geometry(size, rng, crop=draw < MAX_GEOMETRY_DRAWS - 1)
            if geometry.apply(clip.masks, nearest=True).any():
                break
        clip = _transformed(clip, geometry)
        if not self.photometric:
            return clip
        # colours change last because that is the smaller picture: they commute with geometry but for rounding
        return Clip(distort_colours(clip.frames, rng), clip.masks, clip.caption)

    def draw_geometry(self, size: tuple[int, int], rng: np.random.Generator, *, crop: bool = True) -> Geometry:
        """Draw flip, sizes and crop for frames of (h, w) `size`; `crop=False` leaves the crop out."""
        flip = rng.random() < self.flip_probability
        steps: list[tuple[int, ...]] = []
        short_sides, max_long_side = self.short_sides, self.max_long_side
        if rng.random() < self.crop_probability and crop:
            size = resized_size(size, int(rng.choice(self.crop_short_sides)), None)
            window = self._draw_window(size, rng)
            steps += [size, window]
            size = window[2:]
            short_sides = self.short_sides_after_crop or short_sides
            max_long_side = self.max_long_side_after_crop or max_long_side
        steps.append(resized_size(size, int(rng.choice(short_sides)), max_long_side))
        return Geometry(bool(flip), tuple(steps))

    def _draw_window(self, size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int, int, int]:
        low, high = self.crop_sizes
        height, width = (int(rng.integers(min(low, side), min(high, side) + 1)) for side in size)
        top, left = int(rng.integers(size[0] - height + 1)), int(rng.integers(size[1] - width + 1))
        return top, left, height, width


def flip_caption(caption: str) -> str:
    """The caption of the mirrored picture: left and right change places, as words of their own ("bright" stays)."""
    return _SIDE_WORDS.sub(_other_side, caption)


def distort_colours(frames: Tensor, rng: np.random.Generator) -> Tensor:
    """Distort brightness, contrast, saturation and hue, each half the time, alike in all frames (Liu et al., SSD).

    Args:
        frames: (T, 3, h, w) uint8 RGB.
        rng: source of the strengths.

    Returns:
        (T, 3, h, w) uint8 RGB.
    """
    apply = rng.random(4) < 0.5
    brightness, contrast = rng.uniform(-32, 32), rng.uniform(0.5, 1.5)
    saturation, hue = rng.uniform(0.5, 1.5), rng.uniform(-18, 18)
    contrast_first = rng.random() < 0.5
    if not apply.any():
        return frames
    num_frames, _, height, width = frames.shape
    # (T, 3, h, w) -> (T h, w, 3): one picture for OpenCV, whose HSV is ten times as fast as torchvision's
    pixels = frames.permute(0, 2, 3, 1).reshape(num_frames * height, width, 3).numpy().astype(np.float32)
    if apply[0]:
        pixels += np.float32(brightness)
    if apply[1] and contrast_first:
        pixels *= np.float32(contrast)
    if apply[2] or apply[3]:
        pixels = _shift_hsv(pixels, saturation if apply[2] else 1.0, hue if apply[3] else 0.0)
    if apply[1] and not contrast_first:
        pixels *= np.float32(contrast)
    distorted = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    return torch.from_numpy(distorted).view(num_frames, height, width, 3).permute(0, 3, 1, 2)


def make_targets(masks: Tensor, label: int) -> ClipTargets:
    """Targets of a transformed clip: masks (T, h, w), non-zero on the object; boxes are theirs."""
    masks = masks.bool()
    num_frames, height, width = masks.shape
    boxes = box_xyxy_to_cxcywh(masks_to_boxes(masks)) / torch.tensor((width, height, width, height))
    return ClipTargets(masks, boxes, masks.flatten(1).any(1), torch.full((num_frames,), label))


def _transformed(clip: Clip, geometry: Geometry) -> Clip:
    frames = geometry.apply(clip.frames, nearest=False)
    masks = geometry.apply(clip.masks, nearest=True)
    return Clip(frames, masks, flip_caption(clip.caption) if geometry.flip else clip.caption)


def _shift_hsv(pixels: np.ndarray, saturation: float, hue: float) -> np.ndarray:
    hsv = cv2.cvtColor(np.clip(pixels, 0, 255), cv2.COLOR_RGB2HSV)  # hue in degrees, saturation in [0, 1]
    hsv[..., 0] = (hsv[..., 0] + np.float32(hue)) % 360
    hsv[..., 1] = np.minimum(hsv[..., 1] * np.float32(saturation), 1)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def _other_side(match: re.Match[str]) -> str:
    side, rest = match.groups()
    other = "right" if side.lower() == "left" else "left"
    if side.isupper():
        other = other.upper()
    elif side[0].isupper():
        other = other.capitalize()
    return other + rest
