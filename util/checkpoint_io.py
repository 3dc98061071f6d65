"""Checkpoint files: a crash or a full disk never costs the previous one, and reading one never runs code."""

from __future__ import annotations

import argparse
import logging
import os
import pickle
import re
import shutil
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from util.checkpoint_contents import RESUME_KEYS, find_fault
from util.disk import explain, writing

logger = logging.getLogger(__name__)

NEWEST = "checkpoint.pth"
OTHER_CHECKPOINT = (
    "the file is damaged: use an older checkpoint (train.keep_epochs keeps them), a copy, or download it again"
)


class CheckpointError(ValueError):
    """A file that is not a usable checkpoint; the message names it and says what it is."""


def save_checkpoint(path: str | Path, state: Mapping[str, Any]) -> None:
    """Write `state` to `path` whole or not at all: to a temporary name in the same folder, synced, then renamed.

    Args:
        path: file to write or replace; its folder is made when missing.
        state: tensors, numbers, strings and None in dicts, lists and tuples, which `read_tensors` can read back.

    Raises:
        OSError: the file could not be written, on a full disk for instance. A checkpoint that was there is untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:
        cause = _os_error(error)
        if cause is None:
            raise
        kept = "the previous checkpoint is untouched" if path.exists() else "nothing was written"
        raise explain(cause, path, f"{kept}; free some space and resume") from error
    finally:
        partial.unlink(missing_ok=True)
    _sync_folder(path.parent)


def keep_copy(path: str | Path, copy: str | Path) -> None:
    """Give the checkpoint `path` a second name, which stays when `path` is replaced; a link where that is possible."""
    copy = Path(copy)
    partial = copy.with_name(f".{copy.name}.partial")
    try:
        with writing(copy):
            try:
                os.link(path, partial)
            except OSError:  # a file system without hard links
                shutil.copyfile(path, partial)
            os.replace(partial, copy)
    finally:
        partial.unlink(missing_ok=True)


def read_tensors(path: str | Path) -> Any:
    """What a file of PyTorch holds, on the CPU. Only tensors and plain containers are read; nothing in it can run.

    An argparse.Namespace is read too, since published checkpoints carry their arguments in one.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: the file is something else, damaged, or holds other Python objects.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    if problem := _look_at_opening(path):
        raise CheckpointError(f"{path} {problem}")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path} {_explain_pickle(error)}") from error
    except PermissionError:
        raise
    except (RuntimeError, OSError, EOFError, KeyError, ValueError, AttributeError, IndexError, TypeError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{path} is truncated or damaged, or not a checkpoint; copy or download it again ({first})"
        ) from error


def load_checkpoint(path: str | Path, resumable: bool = False) -> dict[str, Any]:
    """A checkpoint, ours or a published one, on the CPU.

    Args:
        path: the file.
        resumable: demand everything that a run needs to go on, not only the weights.

    Returns:
        at least `model`, from names to tensors; ours also has `config`, `optimizer`, `scheduler`, `step`, `epoch`,
        `rng` and `sampler`.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: the file is not a checkpoint, or only its weights could be used and `resumable` asks for more.
    """
    state = read_tensors(path)
    weights = state.get("model") if isinstance(state, dict) else None
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise CheckpointError(
            f"{path} holds no `model` with weights but {_describe(state)}; it is a checkpoint of another project, or "
            "weights of a part of one (a backbone's belong in model.backbone_weights)"
        )
    missing = [key for key in RESUME_KEYS if key not in state]
    if resumable and missing:
        raise CheckpointError(
            f"{path} has no {', '.join(missing)}, so no run can go on from it; "
            "start a new run from its weights with train.init_checkpoint"
        )
    if fault := find_fault(state, resumable):
        raise CheckpointError(f"{path}: {fault}; {OTHER_CHECKPOINT}")
    return state


def find_newest(folder: str | Path) -> Path | None:
    """The newest checkpoint of a run: `checkpoint.pth`, else the last kept epoch, else None."""
    folder = Path(folder)
    if (folder / NEWEST).is_file():
        return folder / NEWEST
    return max(folder.glob("checkpoint_[0-9]*.pth"), key=lambda path: _number(path.stem), default=None)


def _number(stem: str) -> int:
    digits = stem.removeprefix("checkpoint_")
    return int(digits) if digits.isdigit() else -1


def _os_error(error: BaseException | None) -> OSError | None:
    """The operating system's error behind `error`; PyTorch's writer hides it behind a RuntimeError of its own."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut, where the system allows it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        logger.debug("cannot sync %s: %s", folder, error)
    finally:
        os.close(descriptor)


def _look_at_opening(path: Path) -> str | None:
    """What is wrong with a file by its first bytes, or None."""
    with path.open("rb") as file:
        opening = file.read(64)
    if not opening:
        return "is empty; copy or download it again"
    if opening.lstrip().startswith(b"<"):
        return "is a web page, not a checkpoint; the download gave an error or a log-in page, fetch it again"
    if opening.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the file itself; fetch it with `git lfs pull`"
    if opening.startswith(b"\x1f\x8b") or tarfile.is_tarfile(path):
        return "is a packed archive; unpack it and name the checkpoint in it"
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if not any(name.endswith("data.pkl") for name in names):
            return f"is a zip archive of other files ({', '.join(names[:3])}); unpack it and name the checkpoint in it"
    elif not opening.startswith((b"PK", b"\x80")):
        text = f"; it begins with {opening.decode()!r}" if opening.isascii() else ""
        return f"is not a checkpoint: neither of the file formats of PyTorch{text}"
    return None


def _describe(state: Any) -> str:
    """What a file holds, in a few words."""
    if not isinstance(state, Mapping):
        return f"a {type(state).__name__}"
    names = [str(name) for name in state]
    return f"{', '.join(names[:4])}{f' and {len(names) - 4} more' if len(names) > 4 else ''}" if names else "nothing"


def _explain_pickle(error: pickle.UnpicklingError) -> str:
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    what = f"Python objects (`{found[1]}`)" if found else "a pickle that PyTorch did not write"
    return f"holds {what}, which could run code and are refused; only tensors and plain containers are read"
