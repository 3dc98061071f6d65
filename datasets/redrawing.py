"""Training samples that are drawn again when they show no object or cannot be read."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from torch.utils.data import Dataset

logger = logging.getLogger(__name__)

MAX_REDRAWS = 50

Source = TypeVar("Source")


class RedrawingDataset(Dataset, Generic[Source]):
    """Clips that are drawn from samples.

    `dataset[(epoch, index)]` draws every random choice from (seed, epoch, index), so that worker processes, ranks and
    resuming change nothing. A clip in which the object is never visible is replaced by another one.

    Args:
        samples: what a clip is drawn from.
        where: the split, for messages.
        seed: of the random choices.
        skip_broken: replace unreadable clips too, rather than stop.
        broken_list: file to which their names and reasons are added.
    """

    def __init__(
        self, samples: Sequence[Source], *, where: Path, seed: int, skip_broken: bool, broken_list: Path | None
    ) -> None:
        self.samples, self.seed = list(samples), seed
        self.skip_broken, self.broken_list = skip_broken, broken_list
        self.broken: dict[str, str] = {}
        self._where = where

    @abstractmethod
    def draw(self, source: Source, rng: np.random.Generator) -> Any | None:
        """One try; None when the object is not visible in any frame. Raises OSError or ValueError for broken files."""

    @abstractmethod
    def describe(self, source: Source) -> str:
        """Name of a sample, for messages."""

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int]) -> Any:
        epoch, index = key
        rng = np.random.default_rng((self.seed, epoch, index))
        for _ in range(MAX_REDRAWS):
            source = self.samples[index]
            try:
                sample = self.draw(source, rng)
            except (OSError, ValueError) as error:
                if not self.skip_broken:
                    raise
                self.report(self.describe(source), str(error))
                sample = None
            if sample is not None:
                return sample
            index = int(rng.integers(len(self)))
        raise ValueError(
            f"{self._where}: no readable clip with a visible object in {MAX_REDRAWS} draws, the last one "
            f"{self.describe(source)}; check the annotations and that data.short_sides keep objects visible"
        )

    def report(self, name: str, reason: str) -> None:
        """Log and list what is left out, once per process; the file is shared by all of them."""
        if name in self.broken:
            return
        self.broken[name] = reason
        logger.warning("skipped %s: %s", name, reason)
        if self.broken_list is None:
            return
        line = f"{name}: {reason}\n"
        if not self.broken_list.exists() or line not in self.broken_list.read_text(encoding="utf-8"):
            self.broken_list.parent.mkdir(parents=True, exist_ok=True)
            with self.broken_list.open("a", encoding="utf-8") as file:
                file.write(line)
