"""A font with the letters of a text. Pillow's own covers Latin; DejaVu, which comes with matplotlib, covers more."""

from __future__ import annotations

import functools
from pathlib import Path

from fontTools.ttLib import TTFont
from PIL import ImageFont


def font_for(text: str, size: int) -> ImageFont.FreeTypeFont:
    """The first font with all letters of the text: Pillow's, DejaVu Sans, one of the system; else DejaVu Sans."""
    beyond = frozenset(c for c in text if ord(c) > 0x17F and not c.isspace())
    if not beyond:
        return _own_font(size)
    return ImageFont.truetype(_font_file(beyond), size)


@functools.lru_cache(maxsize=8)
def _own_font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)  # which Pillow unpacks at each call


@functools.lru_cache(maxsize=64)
def _font_file(letters: frozenset[str]) -> str:
    import matplotlib  # slow to import, and seldom needed
    from matplotlib import font_manager

    dejavu = str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))
    wanted = {ord(letter) for letter in letters}
    for path in (dejavu, *sorted(font_manager.findSystemFonts())):
        if wanted <= _letters_of(path):
            return path
    return dejavu


@functools.lru_cache(maxsize=256)
def _letters_of(path: str) -> frozenset[int]:
    try:
        with TTFont(path, fontNumber=0, lazy=True) as font:
            return frozenset(font.getBestCmap() or ())
    except Exception:  # fontTools raises many kinds for fonts it cannot read; any other font will do
        return frozenset()
