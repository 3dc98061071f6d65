"""Jobs in several processes. Free of torch, so that they start quickly."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

import cv2

Job = TypeVar("Job")
Result = TypeVar("Result")


def map_unordered(function: Callable[[Job], Result], jobs: Iterable[Job], num_workers: int) -> Iterator[Result]:
    """Yield `function(job)` of each job as it is done; an error of one of them cancels the rest.

    Args:
        function: of a module, or a `functools.partial` of one.
        jobs: they are sent to the processes, as the results are sent back.
        num_workers: processes; 0 stays in this one.

    Raises:
        ValueError: `num_workers` is negative.
    """
    if num_workers < 0:
        raise ValueError(f"--num_workers is {num_workers}; it must be 0 or more")
    if num_workers == 0:
        yield from map(function, jobs)
        return
    with ProcessPoolExecutor(num_workers, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        futures = [pool.submit(function, job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)
