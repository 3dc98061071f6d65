"""Where a result is wrong: pixels that it has and should not have, and pixels that it lacks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from util.visualize import RGB, Colour

RIGHT: Colour = (60, 200, 90)
FALSE_POSITIVE: Colour = (235, 60, 50)
FALSE_NEGATIVE: Colour = (60, 110, 250)
LEGEND = [("right", RIGHT), ("false positive", FALSE_POSITIVE), ("false negative", FALSE_NEGATIVE)]


def draw_errors(frame: RGB, result: NDArray[np.bool_], truth: NDArray[np.bool_], opacity: float = 0.65) -> RGB:
    """A frame in grey with right pixels green, false positives red and false negatives blue.

    Args:
        frame: (H, W, 3) uint8.
        result: (H, W) bool.
        truth: (H, W) bool.
        opacity: of the colours.

    Returns:
        A new image.
    """
    image = np.repeat(frame.mean(-1, keepdims=True), 3, axis=-1)
    for where, colour in (
        (result & truth, RIGHT),
        (result & ~truth, FALSE_POSITIVE),
        (~result & truth, FALSE_NEGATIVE),
    ):
        image[where] = (1 - opacity) * image[where] + opacity * np.array(colour)
    return image.round().astype(np.uint8)
