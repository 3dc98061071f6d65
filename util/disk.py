"""Errors of writing files, said so that the reader knows what to do."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

ADVICE = "free some space, or choose another folder, and start again; checkpoints that were saved are untouched"


@contextlib.contextmanager
def writing(path: str | Path, advice: str = ADVICE) -> Iterator[None]:
    """Whatever fails inside is told as that `path` cannot be written, why, and what to do.

    Raises:
        OSError: as the one inside, with such a message.
    """
    try:
        yield
    except OSError as error:
        raise explain(error, path, advice) from error


def make_folder(path: str | Path) -> None:
    """Make a folder of results and those above it, unless it is there. Raises OSError, which names it and the cure."""
    with writing(path, "choose another folder"):
        Path(path).mkdir(parents=True, exist_ok=True)


def explain(error: OSError, path: str | Path, advice: str) -> OSError:
    """The error with a message that names the file, the cause, the space left when it is that, and the cure."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EEXIST):  # which of its folders, the system does not say
        reason = _obstacle(Path(path), reason)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        existing = next(folder for folder in Path(path).absolute().parents if folder.exists())
        reason += f" ({shutil.disk_usage(existing).free / 1e6:.0f} MB free)"
    return OSError(error.errno, f"cannot write {path}: {reason}; {advice}")


def _obstacle(path: Path, reason: str) -> str:
    """The reason with what is in the way of a path: the part of it that is a file, or the last that there is."""
    existing = next(part for part in (path, *path.absolute().parents) if os.path.lexists(part))
    if existing == path:
        return reason if path.is_dir() else "there is a file of this name"
    return f"{reason} below {existing}" if existing.is_dir() else f"{existing} is no folder"
