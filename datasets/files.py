"""JSON files and pictures that come from outside, read with messages that name the file and the cure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")  # others may start programs or fetch files
_UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        FileNotFoundError: it is missing.
        ValueError: it is damaged; the line is named.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise FileNotFoundError(f"{path}: no such file; the README shows the layout of the data set") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}: {error.msg}"
    except (UnicodeDecodeError, RecursionError) as error:
        where = str(error)
    raise ValueError(f"{path}: broken JSON, {where}; unpack or download the file again")


def member(entry: Any, key: str, kind: type, where: str) -> Any:
    """`entry[key]`, which must be of type `kind`.

    Args:
        entry: any part of a JSON file.
        key: what is looked up.
        kind: `dict`, `list` or `str`.
        where: file and place, for the message.

    Raises:
        ValueError: `entry` has no such member.
    """
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, kind):
        expected = {dict: "object", list: "list", str: "string"}[kind]
        raise ValueError(
            f"{where} has no {key!r} that is a JSON {expected}; the README shows the layout of the data set"
        )
    return value


def read_picture(path: Path) -> np.ndarray:
    """A photograph, (h, w, 3) uint8 RGB.

    Raises:
        FileNotFoundError: it is missing.
        ValueError: it is truncated or no picture.
    """
    with _open(path) as image:
        try:
            # Pillow refuses a truncated file; OpenCV can fill the rest with grey
            return np.array(image.convert("RGB"))
        except _UNREADABLE as error:
            raise ValueError(f"{path}: damaged or truncated picture ({error}); copy or unpack it again") from error


def picture_size(path: Path) -> tuple[int, int]:
    """(h, w) of a picture, from its header. Raises as `read_picture` does."""
    with _open(path) as image:
        return image.height, image.width


def _open(path: Path) -> Image.Image:
    try:
        return Image.open(path, formats=_FORMATS)
    except (FileNotFoundError, NotADirectoryError):
        folder = "" if path.parent.is_dir() else f", and so is its folder {path.parent}"
        raise FileNotFoundError(f"{path} is missing{folder}; unpack the data set again") from None
    except _UNREADABLE as error:
        raise ValueError(f"{path}: not a readable picture ({error}); copy or unpack it again") from error
