"""Pseudo clips for joint training: an image becomes T frames, as if a camera had moved (paper, section 4.2).

T frames, h x w their size. Every random choice comes from the generator that is handed in.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch

from datasets.transforms import Clip

_MAX_INSET = 0.45  # of a corner, as a share of the side, so that corners never meet


@dataclass(frozen=True, kw_only=True)
class PseudoClipTransform:
    """One image -> T frames: the image itself and T - 1 changed copies of it, in random order.

    Attributes:
        num_frames: T.
        perspective: standard deviation of the way each corner of the picture moves inwards, as a share of the sides.
        rotation: about the centre, at most, either way (degrees).
        translation: at most, either way, as a share of the sides.
        brightness: added to all pixels, at most, either way, of 255.
        hue_saturation: added to hue and to saturation, at most, either way, in 255ths of their ranges.
        blur_probability: of motion blur, in a random direction.
        blur_sizes: of its kernel, one is drawn (pixels).
    """

    num_frames: int
    perspective: float = 0.08
    rotation: float = 20.0
    translation: float = 0.1
    brightness: float = 40.0
    hue_saturation: float = 5.0
    blur_probability: float = 0.25
    blur_sizes: tuple[int, ...] = (9, 11)

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """Frames (1, 3, h, w) and masks (1, h, w) -> T of each; the caption stays, since nothing is mirrored."""
        image = np.ascontiguousarray(clip.frames[0].permute(1, 2, 0).numpy())
        mask = clip.masks[0].numpy()
        pairs = [(image, mask), *(self._change(image, mask, rng) for _ in range(self.num_frames - 1))]
        order = rng.permutation(self.num_frames)
        frames = torch.from_numpy(np.stack([pairs[i][0] for i in order])).permute(0, 3, 1, 2)
        return Clip(frames, torch.from_numpy(np.stack([pairs[i][1] for i in order])), clip.caption)

    def draw_warp(self, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        """(3, 3) float64: where the pixel (x, y, 1) of a picture of (h, w) `size` goes, in homogeneous coordinates."""
        h, w = size
        edges = np.array([(0, 0), (w, 0), (w, h), (0, h)], np.float32)
        inwards = np.array([(1, 1), (-1, 1), (-1, -1), (1, -1)], np.float32)
        insets = np.minimum(np.abs(rng.normal(0, self.perspective, (4, 2))), _MAX_INSET) * (w, h)
        # The quadrilateral inside the picture is stretched to all of it; pixel centres lie at integers.
        inner = (edges + inwards * insets - 0.5).astype(np.float32)
        warp = cv2.getPerspectiveTransform(inner, edges - np.float32(0.5))
        turn = np.eye(3)
        turn[:2] = cv2.getRotationMatrix2D(((w - 1) / 2, (h - 1) / 2), rng.uniform(-self.rotation, self.rotation), 1)
        turn[:2, 2] += rng.uniform(-self.translation, self.translation, 2) * (w, h)
        return turn @ warp

    def _change(self, image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A changed copy of an image (h, w, 3) uint8 and its mask (h, w) uint8; what comes in at the sides is black."""
        h, w = mask.shape
        warp = self.draw_warp((h, w), rng)
        image = cv2.warpPerspective(self._recolour(image, rng), warp, (w, h), flags=cv2.INTER_LINEAR)
        mask = cv2.warpPerspective(mask, warp, (w, h), flags=cv2.INTER_NEAREST)
        if rng.random() < self.blur_probability:
            image = cv2.filter2D(image, -1, motion_kernel(int(rng.choice(self.blur_sizes)), rng.uniform(0, 180)))
        return image, mask

    def _recolour(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        brightness = rng.uniform(-self.brightness, self.brightness)
        hue, saturation = rng.uniform(-self.hue_saturation, self.hue_saturation, 2) / 255
        pixels = np.clip(image.astype(np.float32) + np.float32(brightness), 0, 255)
        hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)  # hue in degrees, saturation in [0, 1]
        coloured = hsv[..., 1] > 0  # grey has no hue to go with a saturation
        hsv[..., 0] = (hsv[..., 0] + np.float32(360 * hue)) % 360
        hsv[..., 1] = np.clip(hsv[..., 1] + np.float32(saturation), 0, 1) * coloured
        return np.clip(np.rint(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)), 0, 255).astype(np.uint8)


def motion_kernel(size: int, angle: float) -> np.ndarray:
    """(size, size) float32 that sums to 1: a line through the centre, `angle` degrees from the horizontal."""
    line = np.zeros((size, size), np.float32)
    line[size // 2] = 1
    centre = (size - 1) / 2
    turned = cv2.warpAffine(line, cv2.getRotationMatrix2D((centre, centre), angle, 1), (size, size))
    return turned / turned.sum()
