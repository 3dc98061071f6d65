"""Draws a generated scene: anti-aliased, textured objects over a muted, textured background, and their masks.

Letters: T frames, O objects, H x W pixels. Images are RGB.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import cv2
import numpy as np

from datasets.shapes_scene import COLOURS, Scene, VideoSettings

_SUPERSAMPLING = 4
_SUBPIXEL_BITS = 4  # of cv2.fillPoly's fixed-point coordinates


@dataclass(frozen=True)
class Patch:
    """One object in one frame: `coverage` (h, w) in [0, 1], its first pixel at (`top`, `left`) of the frame."""

    left: int
    top: int
    coverage: np.ndarray


def shape_outline(shape: str) -> list[np.ndarray]:
    """Closed outlines (points, 2) of a shape in the square [-0.5, 0.5]^2, y downwards; even-odd, so two make a hole."""
    if shape in ("circle", "ring"):
        turns = np.linspace(0, 2 * np.pi, 64, endpoint=False)
        circle = 0.5 * np.stack([np.cos(turns), np.sin(turns)], axis=1)
        return [circle] if shape == "circle" else [circle, 0.52 * circle]
    if shape == "square":
        return [0.45 * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], dtype=np.float64)]
    if shape == "triangle":
        return [np.array([[0, -0.5], [0.5, 0.45], [-0.5, 0.45]])]
    if shape == "star":
        turns = np.arange(10) * np.pi / 5 - np.pi / 2
        radii = np.where(np.arange(10) % 2 == 0, 0.55, 0.24)
        return [radii[:, None] * np.stack([np.cos(turns), np.sin(turns)], axis=1) + np.array([0, 0.03])]
    if shape == "cross":
        a, b = 0.17, 0.5
        corners = [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b), (-a, b), (-a, a), (-b, a), (-b, -a)]
        return [np.array([*corners, (-a, -a)])]
    raise ValueError(f"unknown shape {shape!r}")


def rasterise(scene: Scene) -> list[list[Patch]]:
    """Coverage of every object, as if alone: a list over frames of lists over objects."""
    outlines = [shape_outline(look.shape) for look in scene.looks]
    return [
        [
            _rasterise_one(outlines[index], scene.sides[index], centres[index], angles[index])
            for index in range(len(outlines))
        ]
        for centres, angles in zip(scene.centres, scene.angles, strict=True)
    ]


def render_masks(scene: Scene, patches: list[list[Patch]]) -> np.ndarray:
    """(T, H, W) uint8: the id of the foremost object that covers at least half of the pixel, 0 for background."""
    height, width = scene.settings.height, scene.settings.width
    masks = np.zeros((len(patches), height, width), dtype=np.uint8)
    for mask, frame_patches in zip(masks, patches, strict=True):
        for index in scene.depth_order:
            window, inner = _overlap(frame_patches[index], height, width)
            mask[window][frame_patches[index].coverage[inner] >= 0.5] = index + 1
    return masks


def full_areas(patches: list[list[Patch]]) -> np.ndarray:
    """(T, O) pixels that each object would cover if nothing hid it and the frame had no borders."""
    return np.array([[(patch.coverage >= 0.5).sum() for patch in frame] for frame in patches])


def render_frames(rng: np.random.Generator, scene: Scene, patches: list[list[Patch]]) -> np.ndarray:
    """(T, H, W, 3) uint8 frames. One background and one texture per object serve the whole video."""
    height, width = scene.settings.height, scene.settings.width
    background = draw_background(rng, scene.settings)
    textures = [draw_texture(rng, look.colour, side) for look, side in zip(scene.looks, scene.sides, strict=True)]
    grain = rng.normal(0, rng.uniform(1, 5), size=(height, width, 1)).astype(np.float32)
    frames = np.empty((len(patches), height, width, 3), dtype=np.uint8)
    for time, frame_patches in enumerate(patches):
        canvas = background.copy()
        for index in scene.depth_order:
            patch = frame_patches[index]
            window, inner = _overlap(patch, height, width)
            coverage = patch.coverage[inner][..., None]
            if coverage.size == 0:
                continue
            colour = _place_texture(textures[index], patch, scene.centres[time, index], scene.angles[time, index])
            canvas[window] += coverage * (colour[inner] - canvas[window])
        canvas += np.roll(grain, tuple(rng.integers(0, (height, width))), axis=(0, 1))
        frames[time] = np.clip(np.rint(canvas), 0, 255)
    return frames


def draw_background(rng: np.random.Generator, settings: VideoSettings) -> np.ndarray:
    """(H, W, 3) float32: a muted tone with a gradient, low-frequency noise, often stripes, and a few strokes."""
    height, width = settings.height, settings.width
    rows, columns = np.meshgrid(np.linspace(-0.5, 0.5, height), np.linspace(-0.5, 0.5, width), indexing="ij")
    image = np.full((height, width, 3), 255 * _muted_colour(rng), dtype=np.float32)
    turn = rng.uniform(0, 2 * np.pi)
    ramp = (np.cos(turn) * columns + np.sin(turn) * rows).astype(np.float32)
    image += ramp[..., None] * (rng.uniform(-60, 60) + rng.uniform(-15, 15, size=3)).astype(np.float32)
    for cells in (4, 12):
        brightness = rng.normal(0, 13, size=(cells, cells + cells // 2, 1))
        tint = rng.normal(0, 5, size=(cells, cells + cells // 2, 3))
        noise = (brightness + tint).astype(np.float32)
        image += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    if rng.random() < 0.5:
        turn, waves = rng.uniform(0, np.pi), rng.uniform(4, 14)
        phase = 2 * np.pi * waves * (np.cos(turn) * columns + np.sin(turn) * rows * height / width)
        image += (rng.uniform(6, 18) * np.sin(phase)).astype(np.float32)[..., None]
    for _ in range(int(rng.integers(1, 6))):
        ends = rng.uniform(-0.1, 1.1, size=(int(rng.integers(2, 4)), 2)) * (width, height)
        thickness = max(1, round(rng.uniform(1, 5) * settings.pixel_scale))
        stroke = [np.rint(ends).astype(np.int32)]
        cv2.polylines(image, stroke, False, (255 * _muted_colour(rng)).tolist(), thickness, cv2.LINE_AA)
    return np.clip(image, 0, 255)


def draw_texture(rng: np.random.Generator, colour: str, side: float) -> np.ndarray:
    """(P, P, 3) float32: shades of a named colour as shading, stripes, dots or noise, larger than the turned shape."""
    hue, saturation, value = COLOURS[colour]
    hue = (hue + rng.uniform(-5, 5)) % 360 / 360
    saturation = np.clip(saturation + rng.uniform(-0.08, 0.08), 0, 1)
    base = np.array(colorsys.hsv_to_rgb(hue, saturation, np.clip(value + rng.uniform(-0.08, 0.03), 0, 1)))
    length = int(np.ceil(1.5 * side)) + 4
    rows, columns = np.meshgrid(*[(np.arange(length) - length / 2) / side] * 2, indexing="ij")
    turn = rng.uniform(0, np.pi)
    along = np.cos(turn) * columns + np.sin(turn) * rows
    across = np.cos(turn) * rows - np.sin(turn) * columns
    pattern = int(rng.integers(4))
    if pattern == 0:  # shading
        shade = 1.1 * along
    elif pattern == 1:  # stripes
        shade = np.tanh(3 * np.sin(2 * np.pi * rng.uniform(2, 4) * along))
    elif pattern == 2:  # dots
        waves = 2 * np.pi * rng.uniform(2.5, 4)
        shade = np.tanh(4 * (np.cos(waves * along) * np.cos(waves * across) - 0.3))
    else:  # noise
        cells = rng.normal(0, 0.7, size=(9, 9)).astype(np.float32)
        shade = cv2.resize(cells, (length, length), interpolation=cv2.INTER_CUBIC)
    shade = np.clip(shade, -1, 1)[..., None] * rng.uniform(0.08, 0.2)
    # Darker towards black, brighter towards white: the hue, which is what the words name, stays.
    texture = np.where(shade < 0, base * (1 + shade), base + (1 - base) * shade)
    return (255 * texture).astype(np.float32)


def _muted_colour(rng: np.random.Generator) -> np.ndarray:
    """(3,) RGB in [0, 1] of low saturation and middle brightness, unlike any object's colour."""
    return np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(0, 0.22), rng.uniform(0.3, 0.7)))


def _rasterise_one(outlines: list[np.ndarray], side: float, centre: np.ndarray, angle: float) -> Patch:
    """Draws a shape `_SUPERSAMPLING` times as large and averages it down. `centre` is (x, y), `angle` in degrees."""
    radians = np.deg2rad(angle)
    turn = np.array([[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]])
    points = [centre + side * outline @ turn.T for outline in outlines]
    left, top = np.floor(points[0].min(axis=0)).astype(int) - 1
    right, bottom = np.ceil(points[0].max(axis=0)).astype(int) + 1
    canvas = np.zeros(((bottom - top) * _SUPERSAMPLING, (right - left) * _SUPERSAMPLING), dtype=np.uint8)
    # cv2 counts from the middle of the first pixel, hence the half. It fills the outline too, so that a shape grows by
    # an eighth of a pixel all around; image and mask share that.
    fixed = [(((point - (left, top)) * _SUPERSAMPLING - 0.5) * 2**_SUBPIXEL_BITS).round() for point in points]
    cv2.fillPoly(canvas, [point.astype(np.int32) for point in fixed], 255, shift=_SUBPIXEL_BITS)
    coverage = cv2.resize(canvas, (int(right - left), int(bottom - top)), interpolation=cv2.INTER_AREA)
    return Patch(int(left), int(top), coverage.astype(np.float32) / 255)


def _place_texture(texture: np.ndarray, patch: Patch, centre: np.ndarray, angle: float) -> np.ndarray:
    """The texture under a patch, turned and moved with its object: (h, w, 3) as the patch's coverage."""
    middle = texture.shape[0] / 2
    matrix = cv2.getRotationMatrix2D((middle - 0.5, middle - 0.5), -angle, 1.0)
    matrix[:, 2] += centre - (patch.left, patch.top) - middle
    height, width = patch.coverage.shape
    return cv2.warpAffine(texture, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def _overlap(patch: Patch, height: int, width: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Slices of the frame and of the patch where the two meet; empty ones if they do not."""
    rows, columns = patch.coverage.shape
    top, left = max(patch.top, 0), max(patch.left, 0)
    bottom, right = max(min(patch.top + rows, height), top), max(min(patch.left + columns, width), left)
    window = (slice(top, bottom), slice(left, right))
    inner = (slice(top - patch.top, bottom - patch.top), slice(left - patch.left, right - patch.left))
    return window, inner
