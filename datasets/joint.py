"""Several training sets as one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from torch.utils.data import Dataset


class JointDataset(Dataset):
    """The clips of several data sets, one after the other; `dataset[(epoch, index)]` as in each of them.

    Args:
        parts: data sets whose clips have the same number of frames.
    """

    def __init__(self, parts: Sequence[Dataset]) -> None:
        self.parts = list(parts)
        self._ends = list(accumulate(len(part) for part in self.parts))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, key: tuple[int, int]) -> Any:
        epoch, index = key
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect_right(self._ends, index)
        return self.parts[number][epoch, index - (self._ends[number - 1] if number else 0)]
