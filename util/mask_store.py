"""The masks of a long video, run-length encoded on disk: neither their number nor their size takes memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as run_lengths

from util.spool import Spool


class MaskStore:
    """A sequence of (h, w) bool masks, written once in order.

    Args:
        size: (h, w) of all of them.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        self._spool = Spool()

    def append(self, mask: NDArray[np.bool_]) -> None:
        """Add a mask."""
        assert mask.shape == self.size
        self._spool.append(run_lengths.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"])

    def __len__(self) -> int:
        return len(self._spool)

    def __getitem__(self, index: int) -> NDArray[np.bool_]:
        """(h, w) bool, a new array."""
        return run_lengths.decode({"size": list(self.size), "counts": self._spool[index]}).astype(bool)
