"""How much memory a piece of work needs, on a GPU or on a CPU."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import resource
from pathlib import Path
from types import TracebackType

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """Context manager: the peak of memory inside it, above what was in use when it began.

    On a GPU that is what PyTorch allocated; on a CPU, the resident memory of the process.

    Attributes:
        gb: 1e9 bytes, known at the end. On systems other than Linux it is 0 where the process had a higher peak before.
    """

    def __init__(self, device: torch.device | str = "cpu"):
        self.device, self.gb = torch.device(device), 0.0

    def __enter__(self) -> PeakMemory:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device)
        else:
            _give_back_free_memory()
            _reset_peak()
            self._before = peak_memory()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        cuda = self.device.type == "cuda"
        self.gb = ((torch.cuda.max_memory_allocated(self.device) if cuda else peak_memory()) - self._before) / 1e9


def _give_back_free_memory() -> None:
    """Otherwise the work would take what the process freed earlier and kept, and seem to need less than it does."""
    with contextlib.suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)


def _reset_peak() -> None:
    with contextlib.suppress(OSError):  # not Linux, or not allowed: the peak so far stays
        _CLEAR.write_text("5")


def peak_memory() -> int:
    """Highest resident memory of this process, in bytes.

    Unlike `ru_maxrss`, VmHWM does not begin with that of the process that started this one.
    """
    try:
        lines = _STATUS.read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
