"""Pictures of results: masks, boxes and captions over frames, sheets, GIFs. Images are (H, W, 3) uint8 RGB."""

from __future__ import annotations

import colorsys
import functools
import io
import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from util.fonts import font_for
from util.masks import mask_bounds, write_bytes
from util.pictures import RGB

Colour = tuple[int, int, int]

FONT_SIZE = 13  # pixels
BACKGROUND = 250  # of strips and gaps
DARK, BRIGHT = (0, 0, 0), (255, 255, 255)  # lines around a mask
LARGEST_SIDE = 4096  # pixels that a frame is enlarged to at most: a flat one would grow without limit


@dataclass(frozen=True)
class Instance:
    """One object to draw.

    Attributes:
        mask: (H, W) bool, at the frame's size.
        colour: of its mask, box and label.
        box: xyxy in pixels of the frame; None draws no box.
        label: a few characters at the box's corner, or at the frame's without a box; a score for instance.
    """

    mask: NDArray[np.bool_]
    colour: Colour
    box: Sequence[float] | None = None
    label: str = ""


def palette(index: int) -> Colour:
    """A bright colour that differs from those of neighbouring indices."""
    hue = (0.35 + index * 0.618034) % 1.0  # steps of the golden ratio spread over the circle for any count
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_instances(frame: RGB, instances: Sequence[Instance], height: int | None = None, opacity: float = 0.45) -> RGB:
    """A frame with masks tinted and outlined, boxes and labels.

    Args:
        frame: (H, W, 3) uint8.
        instances: drawn in this order.
        height: of the result in pixels, the width in proportion; None keeps the frame's size. Small frames are easier
            to look at when enlarged, and lines are drawn after that. No side grows beyond `LARGEST_SIDE`.
        opacity: of the tint.

    Returns:
        A new image.
    """
    scale = 1.0 if height is None else height / frame.shape[0]
    scale = min(scale, max(1.0, LARGEST_SIDE / max(frame.shape[:2])))
    size = (max(round(frame.shape[1] * scale), 1), max(round(frame.shape[0] * scale), 1))
    image = cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR if scale > 1 else cv2.INTER_AREA)
    line = 1 if size[1] < 300 else 2
    for instance in instances:
        mask = cv2.resize(instance.mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        bounds = mask_bounds(mask)
        if bounds is None:
            continue
        left, top, right, bottom = bounds  # most objects are small beside the frame
        part, inside = image[top:bottom, left:right], mask[top:bottom, left:right].astype(bool)
        tint = np.array(instance.colour, dtype=np.float32) * opacity
        part[inside] = (part[inside] * (1 - opacity) + tint).round().astype(np.uint8)
        outlines, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        _draw_contrast(image, mask, bounds, line)
        cv2.drawContours(image, outlines, -1, instance.colour, line)
    for instance in instances:
        corner = (2, 2)
        if instance.box is not None:
            left, top, right, bottom = (round(float(edge) * scale) for edge in instance.box)
            corner = (max(left + 2, 2), max(top + 1, 2))
            cv2.rectangle(image, (left, top), (right - 1, bottom - 1), instance.colour, line)
        if instance.label:
            _write_label(image, instance.label, corner, instance.colour)
    return image


def draw_queries(
    image: RGB,
    *,
    boxes: NDArray[np.floating] | None = None,
    points: NDArray[np.floating] | None = None,
    scores: NDArray[np.floating],
    chosen: int,
    colour: Colour,
) -> RGB:
    """Boxes and reference points of all queries (the paper's figure 3): the chosen one thick, the others thin and pale.

    Args:
        image: (H, W, 3) uint8.
        boxes: (N, 4) xyxy in pixels of the image; None draws none.
        points: (N, 2) xy in pixels of the image; None draws none.
        scores: (N,) written at the boxes.
        chosen: the query that answers.
        colour: of the answer.

    Returns:
        A new image.
    """
    image = image.copy()
    pale = tuple(int(0.5 * value + 110) for value in colour)
    order = [*(i for i in range(len(scores)) if i != chosen), chosen]  # the chosen one on top
    for i in order if boxes is not None else ():
        left, top, right, bottom = (round(float(edge)) for edge in boxes[i])
        shade, line = (colour, 3) if i == chosen else (pale, 1)
        cv2.rectangle(image, (left, top), (right - 1, bottom - 1), shade, line)
        _write_label(image, f"{i}: {scores[i]:.2f}", (max(left + 2, 2), max(top + 1, 2)), shade)
    for i in order if points is not None else ():
        x, y = (round(float(value)) for value in points[i])
        cv2.drawMarker(image, (x, y), (0, 0, 0), cv2.MARKER_CROSS, 17, 5)
        cv2.drawMarker(image, (x, y), colour if i == chosen else pale, cv2.MARKER_CROSS, 15, 3 if i == chosen else 1)
    return image


def with_caption(image: RGB, lines: Sequence[tuple[str, Colour]]) -> RGB:
    """The image under a strip of text, each line in its colour and wrapped to the image's width."""
    font = font_for("".join(text for text, _ in lines), FONT_SIZE)
    columns = max(int(image.shape[1] / (0.55 * FONT_SIZE)), 8)
    wrapped = [(part, colour) for text, colour in lines for part in textwrap.wrap(text, columns) or [""]]
    strip = Image.new("RGB", (image.shape[1], (FONT_SIZE + 4) * len(wrapped) + 4), (BACKGROUND,) * 3)
    draw = ImageDraw.Draw(strip)
    for i, (text, colour) in enumerate(wrapped):
        dark = tuple(int(0.6 * value) for value in colour)  # legible on the light strip
        draw.text((3, 2 + i * (FONT_SIZE + 4)), text, fill=dark, font=font)
    return np.concatenate((np.asarray(strip), image))


def make_grid(rows: Sequence[Sequence[RGB]], gap: int = 4) -> RGB:
    """Images in rows and columns; smaller ones and shorter rows are filled up with the background.

    Raises:
        ValueError: there is no image.
    """
    images = [image for row in rows for image in row]
    if not images:
        raise ValueError("a sheet needs at least one image")
    num_columns = max(len(row) for row in rows)
    heights = [max((image.shape[0] for image in row), default=0) for row in rows]
    widths = [max((row[i].shape[1] for row in rows if i < len(row)), default=0) for i in range(num_columns)]
    sheet_size = (sum(heights) + gap * (len(rows) + 1), sum(widths) + gap * (num_columns + 1), 3)
    sheet = np.full(sheet_size, BACKGROUND, dtype=np.uint8)
    top = gap
    for row, height in zip(rows, heights, strict=True):
        left = gap
        for image, width in zip(row, widths, strict=False):
            sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
            left += width + gap
        top += height + gap
    return sheet


def write_image(path: str | os.PathLike[str], image: RGB) -> None:
    """Write a PNG or JPEG, by the path's suffix. Its folder must exist.

    Raises:
        ValueError: the suffix is of neither.
    """
    kind = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}.get(Path(path).suffix.lower())
    if kind is None:
        raise ValueError(f"{path}: pictures are written as .png or .jpg; give the file one of these endings")
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format=kind, quality=90)
    write_bytes(path, buffer.getvalue())


def write_gif(path: str | os.PathLike[str], images: Sequence[RGB], frames_per_second: float = 4.0) -> None:
    """Write a GIF that loops. All images must have one size; the folder must exist.

    Raises:
        ValueError: there are no images, or their sizes differ.
    """
    if len({image.shape for image in images}) != 1:
        raise ValueError(f"{path}: a GIF needs images of one size, not {sorted({image.shape for image in images})}")
    buffer = io.BytesIO()
    first, *others = [Image.fromarray(image).quantize(128, dither=Image.Dither.NONE) for image in images]
    duration = round(1000 / frames_per_second)
    first.save(buffer, format="GIF", save_all=True, append_images=others, duration=duration, loop=0)
    write_bytes(path, buffer.getvalue())


def _draw_contrast(image: RGB, mask: NDArray[np.uint8], bounds: tuple[int, int, int, int], line: int) -> None:
    """Draw a bright line around a mask's own outline and a dark one around that: one of them is seen on any colour."""
    reach = 3 * line - 1  # the outline covers `line - 1` pixels around the mask
    left, top = max(bounds[0] - reach, 0), max(bounds[1] - reach, 0)
    area = (slice(top, bounds[3] + reach), slice(left, bounds[2] + reach))
    part, cross = mask[area], cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    bright = cv2.dilate(part, cross, iterations=2 * line - 1).astype(bool)
    dark = cv2.dilate(part, cross, iterations=reach).astype(bool)
    image[area][dark & ~bright] = DARK
    image[area][bright & ~part.astype(bool)] = BRIGHT


def _write_label(image: RGB, text: str, corner: tuple[int, int], colour: Colour) -> None:
    """Write into the image at a corner, moved to stay within it; only that part of it goes through Pillow."""
    label, (left, top), (right, bottom) = _label(text, colour)
    x, y = (min(corner[0], image.shape[1] - 2 - right), min(corner[1], image.shape[0] - 2 - bottom))
    y0, x0 = max(y + top, 0), max(x + left, 0)  # a label that is wider than the image begins left of it
    part = label[y0 - y - top :, x0 - x - left :][: max(image.shape[0] - y0, 0), : max(image.shape[1] - x0, 0)]
    image[y0 : y0 + part.shape[0], x0 : x0 + part.shape[1]] = part


@functools.lru_cache(maxsize=4096)
def _label(text: str, colour: Colour) -> tuple[RGB, tuple[int, int], tuple[int, int]]:
    """Text on black, where its left upper corner lies beside the corner of the text, and the text's right lower one."""
    font = font_for(text, FONT_SIZE - 2)
    left, top, right, bottom = (round(edge) for edge in font.getbbox(text))
    label = Image.new("RGB", (right - left + 3, bottom - top + 3))
    ImageDraw.Draw(label).text((1 - left, 1 - top), text, fill=colour, font=font)
    return np.asarray(label), (left - 1, top - 1), (right, bottom)
