"""Pictures in files and in memory: (h, w, 3) uint8 RGB."""

from __future__ import annotations

import os

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

RGB = NDArray[np.uint8]

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"}
# What is opened, whatever a file's name says: Pillow would start other programs for some formats, or fetch files.
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "PPM")
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what Pillow raises


def read_image(path: str | os.PathLike[str]) -> RGB:
    """A picture, (h, w, 3) uint8 RGB, turned as its EXIF data asks.

    Raises:
        ValueError: it is damaged or no picture.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except UNREADABLE as error:
        raise ValueError(f"{path}: damaged, truncated or no picture ({error}); copy it again") from error


def encode_picture(image: RGB, quality: int = 95) -> bytes:
    """An image as JPEG, without chroma subsampling."""
    options = [
        cv2.IMWRITE_JPEG_QUALITY,
        quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]
    encoded, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    assert encoded
    return data.tobytes()


def decode_picture(data: bytes) -> RGB:
    """The inverse of `encode_picture`, up to JPEG's losses."""
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
