"""One picture per expression of a video: mask, box and score over frames spread through it, under the caption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from util.visualize import RGB, Instance, draw_instances, make_grid, palette, with_caption, write_image

SHEET_FRAMES = 8
SHEET_COLUMNS = 4


class ExpressionSheets:
    """Takes the frames of a video one after the other and keeps those that are shown.

    Args:
        captions: of each expression by its id.
        num_frames: of the video.
        folder: where `<expression id>.jpg` go.
    """

    def __init__(self, captions: Mapping[str, str], num_frames: int, folder: Path) -> None:
        last = num_frames - 1
        self._captions, self._folder = captions, folder
        self._chosen = set(np.linspace(0, last, min(SHEET_FRAMES, num_frames)).round().astype(int).tolist())
        self._images: list[list[RGB]] = [[] for _ in captions]

    def add(self, t: int, frame: RGB, found: Sequence[tuple[Any, Any, Any]]) -> None:
        """Draw frame `t` (H, W, 3) if it is among those shown, with the (mask, box, score) of each expression."""
        if t not in self._chosen:
            return
        height = min(max(frame.shape[0], 160), 360)
        for i, (mask, box, score) in enumerate(found):
            instance = Instance(np.asarray(mask), palette(i), box.tolist(), f"{score:.2f}")
            self._images[i].append(draw_instances(frame, [instance], height))

    def write(self) -> None:
        """Write the pictures."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for i, (expression_id, caption) in enumerate(self._captions.items()):
            images = self._images[i]
            rows = [images[start : start + SHEET_COLUMNS] for start in range(0, len(images), SHEET_COLUMNS)]
            write_image(self._folder / f"{expression_id}.jpg", with_caption(make_grid(rows), [(caption, palette(i))]))
