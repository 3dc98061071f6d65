"""Tables in files."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from typing import Any

from util.masks import write_bytes


def write_csv(path: str | os.PathLike[str], names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write rows under the names of their columns, real numbers to six places; an older file is replaced.

    Raises:
        OSError: it cannot be written; the message names the file.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([f"{value:.6f}" if isinstance(value, float) else value for value in row] for row in rows)
    write_bytes(path, text.getvalue().encode())
