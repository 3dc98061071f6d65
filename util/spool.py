"""Pieces of data on disk that are read back by their number: what is too much for memory while a video is worked on."""

from __future__ import annotations

import tempfile
import threading
from array import array


class Spool:
    """A list of bytes in a temporary file, which has no name and goes with this object. Safe in threads."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="referformer-")  # noqa: SIM115 - open as long as this object lives
        self._ends = array("Q", [0])
        self._lock = threading.Lock()

    def append(self, data: bytes) -> None:
        """Add a piece."""
        with self._lock:
            self._file.seek(self._ends[-1])
            self._file.write(data)
            self._ends.append(self._ends[-1] + len(data))

    def __len__(self) -> int:
        """Number of pieces."""
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> bytes:
        """A piece. Raises IndexError beyond the last."""
        if not 0 <= index < len(self):
            raise IndexError(f"piece {index} of {len(self)}")
        with self._lock:
            self._file.seek(self._ends[index])
            return self._file.read(self._ends[index + 1] - self._ends[index])
