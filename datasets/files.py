"""JSON and CSV files and pictures that come from outside, read with messages that name the file and the cure."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from util.pictures import FORMATS, UNREADABLE


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


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """A text, without the mark that some programs put at its beginning.

    Raises:
        FileNotFoundError: it is missing.
        ValueError: it is in another encoding.
    """
    try:
        return path.read_text(encoding=encoding).removeprefix("\ufeff")
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{path}: no such file; the README shows where the downloads go") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text in {encoding} ({error}); unpack it again") from error


def read_csv(path: Path) -> list[tuple[int, list[str]]]:
    """The rows of a CSV file that are not empty, each with the number of the line that it ends in.

    Raises:
        FileNotFoundError: it is missing.
        ValueError: it is empty, damaged, or not in UTF-8.
    """
    try:
        reader = csv.reader(io.StringIO(read_text(path), newline=""))
        rows = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise ValueError(f"{path}: not a CSV file ({error}); unpack it again") from error
    if not rows:
        raise ValueError(f"{path}: is empty; unpack it again")
    return rows


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
        except UNREADABLE as error:
            raise ValueError(f"{path}: damaged or truncated picture ({error}); copy or unpack it again") from error


def picture_size(path: Path) -> tuple[int, int]:
    """(h, w) of a picture, from its header. Raises as `read_picture` does."""
    with _open(path) as image:
        return image.height, image.width


def _open(path: Path) -> Image.Image:
    try:
        return Image.open(path, formats=FORMATS)
    except (FileNotFoundError, NotADirectoryError):
        folder = "" if path.parent.is_dir() else f", and so is its folder {path.parent}"
        raise FileNotFoundError(f"{path} is missing{folder}; unpack the data set again") from None
    except UNREADABLE as error:
        raise ValueError(f"{path}: not a readable picture ({error}); copy or unpack it again") from error
