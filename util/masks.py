"""Mask files: object ids in, binary masks out, each checked when read.

Free of torch, so that worker processes start quickly.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import uuid
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from util.disk import explain


def read_object_ids(path: str | os.PathLike[str], size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """The object id of each pixel of an annotation, 0 for background.

    Args:
        path: a palette or 8-bit grey PNG whose pixel values are object ids.
        size: the (h, w) it must have.

    Returns:
        (H, W) uint8.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is no such PNG, is truncated, or has another size.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: no such annotation; one PNG is needed for each frame")
    data = Path(path).read_bytes()
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if image.mode not in ("P", "L", "1"):
                raise ValueError(
                    f"{path}: an annotation is a palette or 8-bit grey PNG; this one has mode {image.mode}"
                )
            _check_size(path, (image.height, image.width), size)
            return np.array(image).astype(np.uint8, copy=False)  # one bit of grey is read as bool
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: unreadable PNG ({error}); restore it from the data set") from error


def read_mask(path: str | os.PathLike[str], size: tuple[int, int] | None = None) -> NDArray[np.bool_]:
    """A mask as `write_mask` writes it.

    Args:
        path: an 8-bit grey PNG with values 0 and 255.
        size: the (h, w) it must have.

    Returns:
        (H, W) bool.

    Raises:
        FileNotFoundError: no such file.
        ValueError: anything else than such a PNG of that size.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: no such mask")
    return decode_mask(Path(path).read_bytes(), size, name=str(path))


def decode_mask(data: bytes, size: tuple[int, int] | None, name: str) -> NDArray[np.bool_]:
    """`read_mask` of bytes that are in memory; `name` stands for them in messages."""
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if image.mode != "L" or data[24] != 8:  # byte 24 of a PNG is its bit depth; Pillow widens 2 and 4 bits
                raise ValueError(
                    f"{name}: a mask is an 8-bit grey PNG; this one has mode {image.mode}, {data[24]} bits"
                )
            _check_size(name, (image.height, image.width), size)
            values = np.array(image)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{name}: unreadable PNG ({error})") from error
    mask = values == 255
    if np.any(values[~mask]):
        strange = int(values[~mask].max())
        raise ValueError(f"{name}: the values of a mask are 0 and 255; this one holds {strange}")
    return mask


def write_mask(path: str | os.PathLike[str], mask: NDArray[np.bool_]) -> None:
    """Write a mask as 8-bit grey PNG with values 0 and 255. Its folder must exist.

    The file appears whole or not at all.

    Args:
        path: where.
        mask: (H, W) bool.

    Raises:
        OSError: it cannot be written; the message names the file.
    """
    encoded, data = cv2.imencode(".png", mask.astype(np.uint8) * 255)
    assert encoded
    write_bytes(path, data.tobytes())


def write_object_ids(path: str | os.PathLike[str], ids: NDArray[np.uint8]) -> None:
    """Write object ids (H, W) as a palette PNG, each id in a colour of its own. Its folder must exist.

    The file appears whole or not at all. Raises OSError when it cannot be written.
    """
    image, buffer = Image.fromarray(ids), io.BytesIO()
    image.putpalette(_palette())
    image.save(buffer, format="PNG")
    write_bytes(path, buffer.getvalue())


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file under a temporary name, then rename it, so that it appears whole or not at all.

    Raises:
        OSError: it cannot be written; the message names the file.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        raise explain(error, path, "free some space, or choose another place") from error
    finally:
        with contextlib.suppress(OSError):  # where the file could not be, it is not
            partial.unlink()


def mask_bounds(mask: NDArray[np.bool_]) -> tuple[int, int, int, int] | None:
    """The tight box of a (H, W) mask as left, top, right, bottom edges in pixels; None when it is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _check_size(name: object, size: tuple[int, int], expected: tuple[int, int] | None) -> None:
    if expected is not None and size != tuple(expected):
        raise ValueError(
            f"{name}: {size[0]} x {size[1]} pixels (h x w) where its frame has {expected[0]} x {expected[1]}; "
            "resize the one of the two that is wrong, or unpack both from the same release"
        )


@functools.cache
def _palette() -> bytes:
    """768 values: the colour map of PASCAL VOC and DAVIS, which spreads the bits of the id over red, green and blue."""
    ids = np.arange(256)
    channels = [sum(((ids >> (3 * bit + channel)) & 1) << (7 - bit) for bit in range(8)) for channel in range(3)]
    return np.stack(channels, axis=1).astype(np.uint8).tobytes()
