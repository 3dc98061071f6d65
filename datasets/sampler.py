"""Which clips make which batch, on which process."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class ClipSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) pairs, a part of each global batch for every process.

    The order of an epoch depends on (seed, epoch) alone. The k-th global batch is the k-th run of
    `batch_size * world_size` clips of that order and every rank takes its run within it, so that R processes with
    batch size b see the global batches of one process with batch size R b, and training can go on from any batch.

    Args:
        num_samples: clips of the data set.
        batch_size: clips per process and batch.
        rank: this process.
        world_size: number of processes.
        seed: of the order.
        drop_last: leave out the last global batch when it is not full. Otherwise ranks share it; one with nothing
            left repeats a clip from the start of the order, because all must take part in a step.

    Raises:
        ValueError: there are fewer clips than a global batch holds, or a number is out of range.
    """

    def __init__(
        self, num_samples: int, batch_size: int, rank: int, world_size: int, seed: int, drop_last: bool = True
    ) -> None:
        if batch_size < 1 or num_samples < 1 or not 0 <= rank < world_size:
            raise ValueError(f"no batches of {batch_size} from {num_samples} clips for process {rank} of {world_size}")
        self.num_samples, self.batch_size, self.rank, self.world_size = num_samples, batch_size, rank, world_size
        self.seed, self.drop_last = seed, drop_last
        self.epoch = self.batches_done = 0
        if not self.batches_per_epoch:
            raise ValueError(
                f"the split has {num_samples} clips, fewer than one batch of {batch_size} on each of {world_size} "
                "processes; lower optim.batch_size"
            )

    @property
    def batches_per_epoch(self) -> int:
        """Batches of a whole epoch, on every rank."""
        full, rest = divmod(self.num_samples, self.batch_size * self.world_size)
        return full + (1 if rest and not self.drop_last else 0)

    def set_position(self, epoch: int, batches_done: int = 0) -> None:
        """Make the next iteration yield what is left of `epoch` after its first `batches_done` batches.

        Raises:
            ValueError: the epoch has fewer batches than that.
        """
        if epoch < 0 or not 0 <= batches_done <= self.batches_per_epoch:
            raise ValueError(f"epoch {epoch} has no position {batches_done}; it has {self.batches_per_epoch} batches")
        self.epoch, self.batches_done = epoch, batches_done

    def __len__(self) -> int:
        """Batches that are left of the epoch at the current position."""
        return self.batches_per_epoch - self.batches_done

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.epoch
        order = np.random.default_rng((self.seed, epoch)).permutation(self.num_samples)
        size = self.batch_size * self.world_size
        for number in range(self.batches_done, self.batches_per_epoch):
            chosen = order[number * size : (number + 1) * size]
            if len(chosen) < self.world_size:
                chosen = np.concatenate([chosen, np.resize(order, self.world_size - len(chosen))])
            yield [(epoch, int(index)) for index in np.array_split(chosen, self.world_size)[self.rank]]
